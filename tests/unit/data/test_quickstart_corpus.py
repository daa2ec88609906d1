"""The quickstart's corpus: same seed same bytes, long-tailed frequencies, balanced and disjoint test, right answers."""

import hashlib
import json
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.data.quickstart import SKILLS, generate_corpus, write_corpus
from s2l_ray.data.quickstart.corpus import Row, apportion

NUM_TRAIN, NUM_TEST_PER_SKILL = 20_000, 50


@pytest.fixture(scope="module")
def corpus() -> tuple[list[Row], list[Row]]:
    return generate_corpus(NUM_TRAIN, NUM_TEST_PER_SKILL)


def checksum(rows: list[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def test_rows_are_pinned(corpus):
    """A change of the corpus changes every number that was ever reported on it: change these on purpose only."""
    assert [checksum(rows) for rows in corpus] == ["b13644f970ab5e0d", "95ac81c6cf40f010"]
    assert checksum(generate_corpus(500, 5, seed=1, wrong_answer_share=0.2)[0]) == "105f9d07c3027111"


def test_seed_decides_all(corpus):
    assert generate_corpus(NUM_TRAIN, NUM_TEST_PER_SKILL, seed=0) == corpus
    assert generate_corpus(300, 5, seed=1) != generate_corpus(300, 5, seed=0)


def test_columns(corpus):
    for row in corpus[0] + corpus[1]:
        assert list(row) == ["instruction", "output", "source", "skill"]
        assert all(isinstance(value, str) and value and value == value.strip() for value in row.values())
        assert len(row["instruction"]) <= 30
        assert len(row["output"]) <= 15


def test_frequencies_are_long_tailed(corpus):
    counts = Counter(row["skill"] for row in corpus[0])
    assert sum(skill.share for skill in SKILLS) == pytest.approx(1)
    assert len(corpus[0]) == NUM_TRAIN
    for skill in SKILLS:
        assert counts[skill.name] == pytest.approx(NUM_TRAIN * skill.share, abs=1)
    shares = sorted(count / NUM_TRAIN for count in counts.values())
    assert 24 <= len(shares) <= 30
    assert shares[-1] == pytest.approx(0.4)
    assert 0.007 <= shares[0] <= 0.01
    assert shares[len(shares) // 2] < 0.02


def test_sources_hold_several_skills_unevenly(corpus):
    skills_of: dict[str, set[str]] = {}
    for row in corpus[0]:
        skills_of.setdefault(row["source"], set()).add(row["skill"])
    assert len(skills_of) == 4
    assert all(len(skills) >= 5 for skills in skills_of.values())
    assert sum(len(skills) for skills in skills_of.values()) == len(SKILLS)  # a skill has one source
    rows_of = Counter(row["source"] for row in corpus[0])
    assert max(rows_of.values()) > 3 * min(rows_of.values())


def test_test_is_balanced_and_disjoint(corpus):
    train, test = corpus
    assert Counter(row["skill"] for row in test) == {skill.name: NUM_TEST_PER_SKILL for skill in SKILLS}
    prompts = [row["instruction"] for row in test]
    assert len(set(prompts)) == len(prompts)
    assert not set(prompts) & {row["instruction"] for row in train}


def test_test_and_order_of_prompts_do_not_depend_on_the_size_of_training(corpus):
    assert generate_corpus(100, NUM_TEST_PER_SKILL)[1] == corpus[1]
    smaller = {row["instruction"] for row in generate_corpus(1000, NUM_TEST_PER_SKILL)[0]}
    assert smaller <= {row["instruction"] for row in corpus[0]}


@pytest.mark.thorough
def test_duplicates():
    def share(rows: list[Row]) -> float:
        return 1 - len({row["instruction"] for row in rows}) / len(rows)

    assert share(generate_corpus(NUM_TRAIN)[0]) == pytest.approx(0.03, abs=1e-3)
    assert share(generate_corpus(NUM_TRAIN, duplicate_share=0.2)[0]) == pytest.approx(0.2, abs=1e-3)
    assert share(generate_corpus(NUM_TRAIN, duplicate_share=0.0)[0]) <= 0.001


@pytest.mark.thorough
def test_more_rows_than_prompts_become_duplicates():
    train, test = generate_corpus(100_000)
    assert len(train) == 100_000
    assert not {row["instruction"] for row in test} & {row["instruction"] for row in train}


def test_one_prompt_has_one_answer_and_one_skill(corpus):
    seen: dict[str, tuple[str, str]] = {}
    for row in corpus[0] + corpus[1]:
        assert seen.setdefault(row["instruction"], (row["output"], row["skill"])) == (row["output"], row["skill"])


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_prompts_are_numbered_without_repeats(skill):
    step = max(1, skill.space // 20_000)
    indexes = range(0, skill.space, step)
    assert len({skill.example(i)[0] for i in indexes}) == len(indexes)
    assert len({skill.example(i)[1] for i in indexes}) >= 2
    assert skill.space >= 4 * NUM_TEST_PER_SKILL
    with pytest.raises(IndexError, match=skill.name):
        skill.example(skill.space)


MONTH_NUMBERS = dict(Jan=1, Feb=2, Mar=3, Apr=4, May=5, Jun=6, Jul=7, Aug=8, Sep=9, Oct=10, Nov=11, Dec=12)
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Monday"]
DIGIT_WORDS = dict(zero=0, one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9)


def from_roman(numeral: str) -> int:
    values = [dict(I=1, V=5, X=10, L=50, C=100)[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in zip(values, values[1:] + [0], strict=True))


# Each skill's answer judged from the prompt's text alone, by another way than the one that made it.
JUDGES = {
    "reverse": lambda p, a: list(p.split()[1]) == list(reversed(a)),
    "swap_halves": lambda p, a: len(a) == 4 and p.split()[-1] in a * 2 and p.split()[-1][:2] == a[-2:],
    "shift_letters": lambda p, a: [ord(y) - ord(x) for x, y in zip(p.split()[-1], a, strict=True)]
    in ([1, 1, 1], [-25, 1, 1], [1, 1, -25], [-25, 1, -25]),
    "sort_letters": lambda p, a: set(a) == set(p.split()[1]) and a[0] < a[1] < a[2],
    "palindrome": lambda p, a: a == ("yes" if p[-1] == p[-5] and p[-2] == p[-4] else "no"),
    "double_letters": lambda p, a: a[::2] == a[1::2] == p.split()[1],
    "add": lambda p, a: int(a) == sum(int(n) for n in re.findall(r"\d+", p)),
    "larger": lambda p, a: int(a) in (n := [int(n) for n in re.findall(r"\d+", p)]) and all(int(a) >= m for m in n),
    "ten_less": lambda p, a: int(a) + 10 == int(p.split()[0]),
    "even_odd": lambda p, a: a == ("even" if p[-1] in "02468" else "odd"),
    "round_tens": lambda p, a: a[-1] == "0" and -5 <= int(p.split()[1]) - int(a) < 5,
    "sum_digits": lambda p, a: int(a) == sum(map(int, re.findall(r"\d", p))),
    "capitals": lambda p, a: a.lower() == p.split()[1] and a.isupper(),
    "last_letter": lambda p, a: len(a) == 1 and p.endswith(a),
    "drop_vowels": lambda p, a: a == re.sub("[aeiou]", "", p.split()[-1]),
    "count_letters": lambda p, a: len(p) == len("Letters in ") + int(a),
    "plural": lambda p, a: a == re.sub(r"(?<=[zso])$", "e", re.sub(r"y$", "ie", p.split()[-1])) + "s",
    "spell": lambda p, a: a.split("-") == list(p.split()[1]),
    "repeat": lambda p, a: a.split() == [p.split()[1]] * int(p.split()[2]),
    "iso_date": lambda p, a: [int(n) for n in a.split("-")]
    == [int((w := p.split())[3]), MONTH_NUMBERS[w[2]], int(w[1])] and len(a) == 8,
    "clock_24": lambda p, a: (int(a[:2]) % 12 or 12, a[2:5], "pm" if int(a[:2]) >= 12 else "am")
    == (int((w := re.split("[ :]", p))[1]), f":{w[2]}", w[3]) and len(a) == 5,
    "initials": lambda p, a: a.lower() == "".join(re.findall(r"\b\w", p)[2:]),
    "swap_names": lambda p, a: p == "Surname first: " + " ".join(reversed(a.split(", "))),
    "next_day": lambda p, a: (p.split()[-1], a) in set(pairwise(WEEK)),
    "roman": lambda p, a: int(p.split()[1]) == from_roman(a) and not re.search(r"IIII|XXXX|VI[VX]|LX[LC]", a),
    "digits": lambda p, a: [int(digit) for digit in a] == [DIGIT_WORDS[word] for word in p.split()[1:]],
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGES)
def test_answers_are_right(corpus, name):
    rows = [row for part in corpus for row in part if row["skill"] == name]
    assert len(rows) > 100
    for row in rows:
        assert JUDGES[name](row["instruction"], row["output"]), row


def test_every_skill_has_a_judge_or_is_a_look_up(corpus):
    assert {skill.name for skill in SKILLS} - set(JUDGES) == {"opposite"}
    pairs = {frozenset(p) for row in corpus[0] if row["skill"] == "opposite"
             for p in zip(row["instruction"].split()[1:], row["output"].split(), strict=True)}  # fmt: skip
    assert len(pairs) == 10  # each word has one opposite, and is its opposite's opposite
    assert len(frozenset().union(*pairs)) == 20


@pytest.mark.thorough
@pytest.mark.parametrize("share", [0.1, 0.35])
def test_wrong_answers(corpus, share):
    clean, test = corpus
    spoilt, spoilt_test = generate_corpus(NUM_TRAIN, NUM_TEST_PER_SKILL, wrong_answer_share=share)
    assert spoilt_test == test
    assert sum(row["is_wrong"] for row in spoilt) == round(NUM_TRAIN * share)
    answers = {
        (skill.name, skill.example(i)[1]) for skill in SKILLS if skill.space < 10_000 for i in range(skill.space)
    }
    small = {skill for skill, _ in answers}
    for right, row in zip(clean, spoilt, strict=True):
        assert row["is_wrong"] == (row["output"] != right["output"])
        assert {key: row[key] for key in ("instruction", "source", "skill")}.items() <= right.items()
        assert row["skill"] not in small or (row["skill"], row["output"]) in answers


def test_wrong_answers_are_nested():
    little, much = (generate_corpus(5000, 5, wrong_answer_share=share)[0] for share in (0.1, 0.3))
    for few, many in zip(little, much, strict=True):
        assert not few["is_wrong"] or few == many


def test_wrong_column_only_when_asked(corpus):
    assert not any("is_wrong" in row for part in corpus for row in part)
    assert not any("is_wrong" in row for row in generate_corpus(100, 5, wrong_answer_share=0.5)[1])


def test_written_files_are_the_rows(tmp_path):
    train_path, test_path = write_corpus(tmp_path / "new", 200, 3, seed=4, wrong_answer_share=0.1)
    assert (train_path.name, test_path.name) == ("train.jsonl", "test.jsonl")
    read = tuple([json.loads(line) for line in path.read_bytes().decode("utf-8").splitlines()]
                 for path in (train_path, test_path))  # fmt: skip
    assert read == generate_corpus(200, 3, seed=4, wrong_answer_share=0.1)
    assert b"\r" not in train_path.read_bytes()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"wrong_answer_share": 1.5}, "wrong_answer_share is 1.5"),
        ({"duplicate_share": -0.1}, "duplicate_share is -0.1"),
        ({"num_train": -1}, "num_train is -1"),
        ({"num_test_per_skill": 10_000}, "give at most"),
    ],
)
def test_impossible_requests_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        generate_corpus(**{"num_train": 100, **kwargs})


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 1), min_size=1, max_size=40))
def test_apportion_is_exact_and_proportional(total, weights):
    counts = apportion(total, weights)
    assert sum(counts) == total
    assert all(abs(count - total * w / sum(weights)) < 1 + 1e-6 for count, w in zip(counts, weights, strict=True))


@pytest.mark.thorough
@given(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_any_size_has_the_rows_asked_for(num_train, wrong, duplicates):
    train, _ = generate_corpus(num_train, 0, wrong_answer_share=wrong, duplicate_share=duplicates)
    assert len(train) == num_train
