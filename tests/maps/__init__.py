"""Popmaps on servers: each against the real server, started here."""
