"""The sections of the page: facts → figures with captions that are computed, and tables of the same numbers."""
