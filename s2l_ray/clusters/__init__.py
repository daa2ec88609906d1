"""Clusters: reads trajectories → writes centroids, assignment, sizes, inertia.

`kmeans.py` is plain numpy and the only module that imports faiss.
"""
