"""Signals: a snapshot's weights → one more column of scores, if a selector needs it."""
