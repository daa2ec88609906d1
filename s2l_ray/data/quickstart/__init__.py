"""The quickstart's own fine-tuning corpus: many small skills, long-tailed, made from a seed without any download.

Reads nothing → writes `train.jsonl` (long-tailed, with duplicates) and `test.jsonl` (held out, balanced by skill).
"""

from s2l_ray.data.quickstart.corpus import generate_corpus, write_corpus
from s2l_ray.data.quickstart.skills import SKILLS, Skill

__all__ = ["SKILLS", "Skill", "generate_corpus", "write_corpus"]
