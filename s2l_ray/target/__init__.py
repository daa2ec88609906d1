"""Target: reads tokens of a subset and the held-out sets → the fine-tuned model as a Hugging Face folder, evaluations.

`model` builds it, `whole` is PyTorch alone, `zero` DeepSpeed, `loop` what a worker does, `memory` what it needs,
`export` what is left.
"""
