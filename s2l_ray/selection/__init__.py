"""Which examples to choose: k-means over trajectories, quotas, rules. numpy; faiss in one module."""
