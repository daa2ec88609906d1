"""Answers to test questions: what a completion answers, and whether that is right. Standard library only until a rule
needs a computer algebra system.

`text` cleans a completion, `extract` finds the answer in it, `numbers` and `expressions` read it, `rules` and
`mathematics` compare it with the gold, `symbolic` asks math-verify where nothing else can read the notation,
`published` restates the harness behind the published figures, and `grading` puts them together.
"""
