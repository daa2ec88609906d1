"""Signals: a snapshot's weights → one more column of the scores, where a selector asks for it."""
