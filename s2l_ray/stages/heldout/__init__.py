"""Held-out sets: files and the corpus's own split → tokens."""
