"""Modules of perdition, each tested without a running instance."""
