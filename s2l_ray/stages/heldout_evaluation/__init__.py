"""Held-out evaluation: a target or its initial model → losses and exact matches on the held-out sets."""
