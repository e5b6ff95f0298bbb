"""Shared by tests, benchmark and demo: servers, clients and perdition, started and ended."""
