"""Evaluation: reads held-out examples → tokens of the held-out sets; losses and exact matches per source and in all."""
