"""Debian's releases, each as a newcomer and as a site find it."""
