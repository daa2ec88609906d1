"""Language models: loading, batches under a token budget, the loss on response tokens, FLOPs. Plain torch, no Ray.

Shared by the proxy, by scoring and by the target, so that a loss means the same everywhere.
"""
