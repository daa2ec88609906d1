"""Evaluation: a model's answers to test questions, verdicts on them, and reports."""
