"""Answers to test questions: extracts a completion's answer and decides whether it is right. Standard library only,
unless a rule needs a computer algebra system.

`text` cleans a completion, `extract` finds the answer in it, `numbers` and `expressions` parse it, `rules` and
`mathematics` compare it with the gold answer, `symbolic` uses math-verify if nothing else can parse the notation,
`published` reimplements the harness behind the published figures, and `grading` combines them.
"""
