"""Tokens: examples → token ids with the response mask."""
