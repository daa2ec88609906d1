"""How many examples stand in a part: a unit of work, and a file of several stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.data.corpus_parts import choose_rows_per_part

PART_BYTES = 64 * 2**20


@given(num_examples=st.integers(1, 10**9), row_bytes=st.integers(0, 10**8))
def test_a_part_can_be_held_and_parts_are_enough_to_share_out(num_examples: int, row_bytes: int) -> None:
    rows = choose_rows_per_part(num_examples, None, row_bytes)
    assert rows & (rows - 1) == 0
    assert rows == 1 or rows * row_bytes <= PART_BYTES
    assert rows <= max(64, num_examples / 32)


@given(num_examples=st.integers(1, 10**9))
def test_files_do_not_multiply_with_the_corpus(num_examples: int) -> None:
    num_parts = -(-num_examples // choose_rows_per_part(num_examples))
    assert num_parts <= 4096


@pytest.mark.parametrize(
    ("num_examples", "rows"),
    [(1, 64), (4095, 64), (4096, 128), (10**5, 2048), (2**17, 4096), (10**7, 4096), (2**24, 8192), (10**8, 32_768)],
)
def test_at_sizes_that_the_docs_name(num_examples: int, rows: int) -> None:
    assert choose_rows_per_part(num_examples, None, 1200) == rows
