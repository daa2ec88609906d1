"""Storage on any file system: atomic file writes, Parquet with digests, locks, retries. No Ray, no torch."""
