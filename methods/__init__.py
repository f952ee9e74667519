"""Continual methods on one contract: methods.base says which, methods.registry finds them."""
