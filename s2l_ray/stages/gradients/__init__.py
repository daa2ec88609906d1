"""Gradients: of a sample of the examples, at snapshots of the proxy. Are they alike within clusters, and does a
subset have the corpus's?"""
