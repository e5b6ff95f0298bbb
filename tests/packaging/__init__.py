"""The packages: built, installed and removed on a machine of their own."""
