"""Evaluation: metrics of held-out examples, judging of answers to test questions, and the sandbox for programs."""
