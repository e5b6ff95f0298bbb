"""The tools that create popmaps from ``key:value`` lines."""
