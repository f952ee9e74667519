"""What a GPU is asked: `make gpu`."""
