"""Gradients: a sample of the examples, at snapshots of the proxy → are they alike within clusters, and does a subset
have the corpus's?"""
