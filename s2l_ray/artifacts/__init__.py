"""The run folder: manifests, typed artifacts, the index derived from them, and verification."""
