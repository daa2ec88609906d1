"""One file a selector. Definitions are ours where the papers' are not public, and say so."""
