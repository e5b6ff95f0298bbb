"""Sockets: the loop, streams of lines, addresses, TLS, and the splice."""
