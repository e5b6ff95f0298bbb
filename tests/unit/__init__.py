"""Parsers, dialogues and tables, each by itself."""
