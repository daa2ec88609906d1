"""The stages, one folder each: `stage.py` (what it reads, which settings count) and the code that builds it."""
