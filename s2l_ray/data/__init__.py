"""Pure: example ids, formats, readers, rendering, token batches, training order, keyed ranking."""
