"""Trajectories: reads T snapshots of losses → writes the N × T matrix, one row per example, checked row by row."""
