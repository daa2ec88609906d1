"""The run folder: manifests, typed artifacts, the index that is derived from them, and its verification."""
