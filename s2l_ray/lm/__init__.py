"""Language models: loading, batches under a token budget, the loss on response tokens, FLOPs. Plain torch, no Ray.

The proxy, scoring and the target share this code, so that a loss means the same everywhere.
"""
