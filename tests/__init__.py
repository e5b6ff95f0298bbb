"""perdition's tests."""
