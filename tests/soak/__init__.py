"""A reliability campaign: `make soak` kills, damages and starves the commands, and prints one table."""
