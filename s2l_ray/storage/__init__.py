"""Any file system: whole files or none, Parquet with digests, locks, retries. Imports no Ray, no torch."""
