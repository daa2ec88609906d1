"""Held-out evaluation: a target, or the model that it began as → losses and exact matches of the held-out sets."""
