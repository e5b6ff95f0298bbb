"""What perdition costs, measured by `make bench`. Figures compare things; no test has any."""
