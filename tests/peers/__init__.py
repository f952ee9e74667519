"""What other libraries need for the same training: `make bench-peers`."""
