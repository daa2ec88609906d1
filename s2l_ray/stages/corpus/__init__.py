"""Corpus: the user's files → examples."""
