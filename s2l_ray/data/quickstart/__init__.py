"""Generate the quickstart's corpus of many small skills with a long tail, from a seed and without any download.

It writes `train.jsonl` (long-tailed, with duplicates) and `test.jsonl` (held out, balanced by skill).
"""

from s2l_ray.data.quickstart.corpus import generate_corpus, write_corpus
from s2l_ray.data.quickstart.skills import SKILLS, Skill

__all__ = ["SKILLS", "Skill", "generate_corpus", "write_corpus"]
