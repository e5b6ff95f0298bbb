"""What needs root: starting, stopping and installing perdition as a system does."""
