"""perdition between real clients and real servers."""
