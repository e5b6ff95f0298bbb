# Users and the names of their real servers in compose.yaml, see posix_regex in perditiondb(5).
^joe$  north
^ann$  south
