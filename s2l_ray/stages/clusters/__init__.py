"""Clusters: trajectories → centroids and assignment."""
