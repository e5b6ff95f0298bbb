# popmap.re: a sample popmap of regular expressions, see perditiondb(5). To use it:
#
#   map_library      posix_regex
#   map_library_opt  /etc/perdition/popmap.re
#
# The first line that matches the user name is used; without ^ and $ it can match any part of it.

#^(.*)@(.*)$       $1_$2@192.0.2.13
#^[a-k]            192.0.2.11
#^[l-z]            192.0.2.12:1143
