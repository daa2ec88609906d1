"""Tokens: reads `examples/` and a tokenizer → writes token ids with the exact response mask, and a quarantine table.

Tokenised once; training and scoring read these parts.
"""
