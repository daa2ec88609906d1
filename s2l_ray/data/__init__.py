"""Data without Ray or torch: example ids, formats, readers, rendering, tokens, training order, keyed ranking."""
