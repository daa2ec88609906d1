"""Evaluation: a model's answers to test questions, verdicts on them, and what is reported of both."""
