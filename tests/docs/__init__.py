"""What is written about perdition, against what it does."""
