"""Target: tokens of a subset → the fine-tuned model."""
