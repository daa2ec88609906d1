"""The order of the stages, what is checked before anything starts, and what it will cost."""
