"""Contamination: planted questions are found, whatever stands around them, and a slow reference agrees."""

import json
import re
import time
from collections import Counter

import numpy as np
import pytest

from s2l_ray.evaluation import contamination
from s2l_ray.evaluation.contamination import Hits, QuestionIndex
from tests.support.paths import SHARED

DATA = SHARED / "data"
WORDS = ["a", "train", "leaves", "the", "station", "at", "noon", "and", "travels", "to", "town", "with", "five", "cars"]


def sentence(rng: np.random.Generator, n: int) -> str:
    return " ".join(str(rng.choice(WORDS)) + str(rng.integers(0, 10_000)) for _ in range(n)) + "?"


@pytest.fixture(scope="module")
def questions() -> list[str]:
    rng = np.random.default_rng(0)
    return [sentence(rng, 30) for _ in range(50)] + ["What is 2 + 2?", "Find x.", "", "?!"]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    rng = np.random.default_rng(1)
    return [sentence(rng, int(rng.integers(0, 60))) for _ in range(500)]


def overlap(questions: list[str], corpus: list[str], share: float = 0.5) -> contamination.Overlap:
    index = QuestionIndex(questions)
    return index.overlap(index.scan(corpus), share)


@pytest.mark.thorough
def test_a_clean_corpus_has_nothing(questions, corpus):
    made = overlap(questions, corpus)
    assert not made.contaminated.any()
    assert not made.template.any()
    assert (made.share[:50] == 0).all()
    assert np.isnan(made.share[50:]).all()


@pytest.mark.parametrize(
    "planted",
    [
        lambda q: q,
        lambda q: q.upper() + "!!",
        lambda q: "\n\n" + q.replace(" ", "  \t"),
        lambda q: q + " Let's write a program.",
        lambda q: "**" + q + "**",
    ],
)
@pytest.mark.parametrize("which", [0, 7, 49, 50, 51])
def test_planted_exact_questions_are_found(questions, corpus, planted, which):
    made = overlap(questions, [*corpus[:300], planted(questions[which]), *corpus[300:]])
    assert np.flatnonzero(made.exact).tolist() == [which]
    assert np.flatnonzero(made.contaminated).tolist() == [which]


def test_texts_without_words_are_no_contamination(questions):
    assert not overlap(questions, ["", "?!", " . "]).contaminated.any()


@pytest.mark.parametrize("around", ["", "Before it stands something else. "])
def test_planted_halves_are_found(questions, corpus, around):
    """Of 30 words 18 n-grams; the first 22 words hold 10 of them, the first 20 hold 8."""
    words = questions[3].split()
    at_least_half = overlap(questions, [*corpus, around + " ".join(words[:22]) + " and so on"])
    assert np.flatnonzero(at_least_half.ngram).tolist() == [3]
    assert at_least_half.share[3] == pytest.approx(10 / 18)
    assert not at_least_half.exact.any()
    less = overlap(questions, [*corpus, around + " ".join(words[:20])])
    assert less.share[3] == pytest.approx(8 / 18)
    assert not less.contaminated.any()
    assert overlap(questions, [*corpus, " ".join(words[:20])], share=0.4).contaminated[3]


def test_halves_in_different_parts_count_together(questions):
    words = questions[5].split()
    index = QuestionIndex(questions)
    parts = [index.scan([" ".join(words[:18])]), index.scan(["x"]), index.scan([" ".join(words[12:])])]
    assert not index.overlap(parts[0]).ngram.any()
    merged = Hits.merged(parts)
    assert merged.num_texts == 3
    assert index.overlap(merged).share[5] == pytest.approx(12 / 18)
    again = index.overlap(Hits.merged(parts[::-1]))
    assert (again.ngram == index.overlap(merged).ngram).all()


def test_ngrams_do_not_span_texts(questions):
    words = questions[0].split()
    made = overlap(questions, [" ".join(words[:12]), " ".join(words[12:24])])
    assert made.share[0] == 0


def test_templates_are_told_but_do_not_count():
    made = overlap(["Tom has 3 cats and 1,250.5 dogs.", "Ann has 3 cats."], ["tom has 77 cats and 4 dogs"])
    assert made.template.tolist() == [True, False]
    assert not made.contaminated.any()


def test_other_scripts_are_compared_too():
    question = "Ein Zug fährt um zwölf Uhr ab. 列车中午出发。"
    assert overlap([question, "x"], [question.upper()]).exact.tolist() == [True, False]
    assert not overlap([question], ["Ein Zug fährt um elf Uhr ab."]).exact.any()


def test_odd_texts_do_no_harm(questions):
    made = overlap(questions, ["\ud800 lone", "\x00" * 100, "a" * 100_000, "é" * 5000, "1 " * 5000, ""])
    assert not made.contaminated.any()
    assert overlap([], ["text"]).exact.shape == (0,)


def test_long_texts_and_chunks_change_nothing(questions, corpus, monkeypatch):
    words = questions[9].split()
    texts = [*corpus, "and " * 3000 + " ".join(words) + " and" * 3000, questions[11], " ".join(words[3:])]
    whole = overlap(questions, texts)
    monkeypatch.setattr(contamination, "_CHUNK_BYTES", 3000)
    monkeypatch.setattr(contamination, "_OVERLAP_BYTES", 1000)
    cut = overlap(questions, texts)
    assert whole.ngram[9]
    for name in ("exact", "share", "ngram", "template"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


def slow_shares(questions: list[str], corpus: list[str]) -> list[float]:
    """Sets of tuples of words."""

    def grams(text: str) -> list[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return [tuple(words[i : i + 13]) for i in range(len(words) - 12)]

    known = {gram for text in corpus for gram in grams(text)}
    counts = [Counter(gram in known for gram in grams(question)) for question in questions]
    return [count[True] / sum(count.values()) if count else float("nan") for count in counts]


def test_shares_are_those_of_a_slow_reference():
    rng = np.random.default_rng(4)
    stock = [" ".join(rng.choice(WORDS, size=40)) for _ in range(30)]

    def mixed() -> str:
        cut = sorted(rng.integers(0, 40, size=2))
        return " ".join(stock[rng.integers(0, 30)].split()[cut[0] : cut[1]]) + ", " + stock[rng.integers(0, 30)]

    questions, corpus = [mixed() for _ in range(60)], [mixed() for _ in range(60)]
    shares = slow_shares(questions, corpus)
    assert 0 < np.nanmean(shares) < 1
    np.testing.assert_allclose(overlap(questions, corpus).share, shares)


@pytest.mark.thorough
def test_development_data():
    if not (DATA / "math/train.jsonl").exists():
        pytest.skip("needs shared/data")
    train = [json.loads(line) for line in (DATA / "math/train.jsonl").read_text().split("\n") if line]
    texts = [text for row in train for text in (row["instruction"], row["output"])][::2]
    rows = [json.loads(line) for line in (DATA / "math/eval/simuleq.jsonl").read_text().split("\n") if line]
    questions = [row["question"] for row in rows]
    made = overlap(questions, texts)
    assert not made.exact.any()
    np.testing.assert_allclose(made.share, slow_shares(questions, texts))
    assert made.ngram.sum() == 11


@pytest.mark.thorough
def test_speed_of_a_million_rows():
    """20,000 texts of 240 bytes here; fifty times as many take fifty times as long."""
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(WORDS, size=45)) for _ in range(200)] * 100
    index = QuestionIndex([sentence(rng, 40) for _ in range(200)])
    start = time.process_time()
    index.scan(texts)
    assert (time.process_time() - start) * 50 < 300  # seconds for a million rows
