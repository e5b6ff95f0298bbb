"""The tools that turn ``key:value`` lines into popmaps."""
