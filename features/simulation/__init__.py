"""Simulated features with the geometry of CLIP's; `world` holds the model, `write` makes a store of it."""
