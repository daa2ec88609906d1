"""The sections of the page: figures with computed captions, and tables of the same numbers."""
