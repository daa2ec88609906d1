"""Corpus: reads the user's files → writes `examples/` (ids, conversations, the rows as they were) and `quarantine/`.

The examples are partitioned by ranges of their content hash. So a part is a random sample of the corpus, its content
depends neither on file names nor on row order nor on how many nodes read it, and exact duplicates meet in one part.
"""
