"""Continual methods on one contract: methods.shared.base says which, methods.shared.registry finds them."""
