"""The stages, one folder each: `stage.py` declares its inputs and relevant settings, the rest builds it."""
