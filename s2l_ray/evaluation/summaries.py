"""Compares summaries with their references: BLEU, ROUGE and optionally BERTScore, for the model and trivial baselines.

All metrics are in percent. The libraries (sacrebleu, rouge-score) are imported when they are used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.errors import EnvironmentFault, shown
from s2l_ray.evaluation.answers.text import cut_after_answer
from s2l_ray.evaluation.statistics import Estimate, bootstrap, generator, paired_bootstrap
from s2l_ray.evaluation.tasks import EvaluationError

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
CONSTANT = "No acute cardiopulmonary process."
"""The baseline that needs no model: the most common impression of normal chest radiographs."""
MAX_CHARACTERS = 20_000
"""Longest summary; longer ones are cut, because the longest common subsequence takes quadratic time."""
_MAX_ORDER = 4
_MAX_FOREIGN_SHARE = 0.01

_HEADING = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*\S[^\n]*|(?:findings|impression|background|indication|comparison|technique|history"
    r"|procedure|exam(?:ination)?|recommendations?|conclusion)[ \t]*:)",
    re.IGNORECASE | re.MULTILINE,
)
_OWN_HEADING = re.compile(
    r"\s*(?:#{1,6}[ \t]*(?:impression|summary)[ \t]*:?|(?:impression|summary)[ \t]*(?::|\n))", re.IGNORECASE
)
_ENUMERATION = re.compile(r"^\s*(?:\d{1,2}[.)]\s*)+")
_NORMAL = re.compile(
    r"\s*(?:(?:\d{1,2}[.)]|chest(?: radiograph| x-ray)?[.:]|impression:)\s*)*"
    r"(?:(?:there is )?no\b(?! change)|negative\b|normal\b|clear\b|unremarkable\b|without\b)",
    re.IGNORECASE,
)


def cut(text: str) -> str:
    """A completion up to the first blank line or new heading, with runs of spaces joined and case unchanged."""
    text = cut_after_answer(text[: 10 * MAX_CHARACTERS].replace("\r\n", "\n"))
    own = _OWN_HEADING.match(text)
    text = text[own.end() if own else 0 :].lstrip()
    text = re.split(r"\n[ \t]*\n", text, maxsplit=1)[0]
    heading = _HEADING.search(text)
    return " ".join((text[: heading.start()] if heading else text).split())[:MAX_CHARACTERS]


def first_sentence(text: str) -> str:
    """The baseline that copies: the first sentence, without its number in an enumeration."""
    text = _ENUMERATION.sub("", " ".join(text.split()))
    end = re.search(r"[.!?](?=\s|$)", text)
    return text[: end.end()] if end else text


def is_normal(reference: str) -> bool:
    """Whether an impression begins like those of normal studies: "No acute …", "Negative …"."""
    return _NORMAL.match(reference) is not None


def check_language(references: Sequence[str]) -> None:
    """Refuse references in other scripts: ROUGE's tokeniser keeps only a to z and digits and would ignore the rest.

    Raises:
        EvaluationError: more than one letter in a hundred is not a to z.
    """
    letters = foreign = 0
    for reference in references:
        letters += sum(map(str.isalpha, reference))
        foreign += 0 if reference.isascii() else sum(c.isalpha() and not c.isascii() for c in reference)
    if foreign > _MAX_FOREIGN_SHARE * letters:
        example = next(reference for reference in references if not reference.isascii())
        raise EvaluationError(
            f"{foreign:,} of the {letters:,} letters in the references are not a to z ({shown(example[:60])}), and "
            "ROUGE drops those, so its values would be meaningless; measure this language with your own metric "
            "(custom.metric)"
        )


@functools.cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise _missing("sacrebleu") from error
    # `effective_order` matters only for sentence scores, which are not used; the counts are the corpus's.
    return BLEU(effective_order=True)


@functools.cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge-score") from error
    return RougeScorer(list(ROUGE_TYPES), use_stemmer=True)


def _missing(package: str) -> EnvironmentFault:
    fault = EnvironmentFault(
        f"{package} is not installed, so summaries cannot be measured; pip install 's2l_ray[evaluate]'"
    )
    fault.retryable = False
    return fault


def bleu_signature() -> str:
    """sacrebleu's signature for the settings of `bleu`: one reference, mixed case, tokeniser 13a, exponential
    smoothing."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())


def bleu_counts(summaries: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """The counts that corpus BLEU sums, (N, 10): lengths of summary and reference, matching n-grams of orders 1 to 4,
    and all n-grams of these orders."""
    rows = []
    for summary, reference in zip(summaries, references, strict=True):
        score = _bleu().sentence_score(summary, [reference])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * _MAX_ORDER)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU (R,) from sums of `bleu_counts` (R, 10), as sacrebleu computes it with its defaults.

    Source: Papineni et al. 2002 (https://aclanthology.org/P02-1040), exponential smoothing as in mteval-v13a.
    """
    lengths, wanted = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2 : 2 + _MAX_ORDER], sums[:, 2 + _MAX_ORDER :]
    # Orders without a match count as ½, ¼, … of a match, in turn.
    smoothed = np.where(matches == 0, 0.5 ** np.cumsum(matches == 0, axis=1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(smoothed / totals).mean(axis=1)
        brevity = np.where(lengths < wanted, np.exp(1 - wanted / lengths), 1.0)
        scores = 100 * brevity * np.exp(logs)
    usable = matches.any(axis=1) & (totals > 0).all(axis=1)
    return np.where(usable, scores, 0.0)


def rouge(summaries: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-1, -2 and -L F1 of each pair in percent, (N, 3), as rouge-score computes them with stemming."""
    rows = []
    for summary, reference in zip(summaries, references, strict=True):
        scores = _rouge().score(reference, summary)
        rows.append([100 * scores[kind].fmeasure for kind in ROUGE_TYPES])
    return np.array(rows, dtype=np.float64).reshape(-1, len(ROUGE_TYPES))


@dataclass(frozen=True)
class Measured:
    """Measurements of each summary, from which the metrics are computed."""

    bleu_counts: np.ndarray
    """(N, 10), see `bleu_counts`."""
    per_report: np.ndarray
    """(N, K) percent, columns `names`."""
    names: tuple[str, ...]
    num_empty: int
    """Number of empty summaries, which count with a score of 0."""

    def of(self, rows: np.ndarray) -> Measured:
        """The measurements of some of the summaries, given as rows (N,) bool."""
        return Measured(self.bleu_counts[rows], self.per_report[rows], self.names, self.num_empty)


BertScore = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""A function: summaries, references → (N,) F1 in percent."""


def measure(summaries: Sequence[str], references: Sequence[str], bert_score: BertScore | None = None) -> Measured:
    """Measure each summary; apply `cut` first.

    Raises:
        EvaluationError: the references are not in English.
        EnvironmentFault: a library is missing.
    """
    if len(summaries) != len(references) or not references:
        raise ValueError(f"{len(summaries):,} summaries for {len(references):,} references; give one for each")
    check_language(references)
    columns = rouge(summaries, references)
    names: tuple[str, ...] = ROUGE_TYPES
    if bert_score is not None:
        columns = np.concatenate([columns, bert_score(summaries, references)[:, None]], axis=1)
        names = (*ROUGE_TYPES, "bertscore")
    empty = sum(not summary.strip() for summary in summaries)
    return Measured(bleu_counts(summaries, references), columns, names, empty)


def figures(
    measured: Measured, seed: int, task: str, resamples: int = 10_000, level: float = 0.95
) -> dict[str, Estimate]:
    """Corpus BLEU, recomputed from n-gram counts in each resample, and the means over summaries, with intervals."""
    n = len(measured.per_report)
    out = {"bleu": bootstrap(measured.bleu_counts, bleu, generator(seed, task, "bleu"), resamples, level)}
    for i, name in enumerate(measured.names):
        column = measured.per_report[:, i : i + 1]
        rng = generator(seed, task, name)
        out[name] = bootstrap(column, lambda sums: sums[:, 0] / n, rng, resamples, level)
    return out


def differences(
    first: Measured, second: Measured, seed: int, task: str, resamples: int = 10_000, level: float = 0.95
) -> dict[str, Estimate]:
    """One target's metrics minus another's, on the same resampled questions."""
    n = len(first.per_report)
    rng = generator(seed, task, "bleu", "difference")
    out = {"bleu": paired_bootstrap(first.bleu_counts, second.bleu_counts, bleu, rng, resamples, level)}
    for i, name in enumerate(first.names):
        columns = first.per_report[:, i : i + 1], second.per_report[:, i : i + 1]
        rng = generator(seed, task, name, "difference")
        out[name] = paired_bootstrap(*columns, lambda sums: sums[:, 0] / n, rng, resamples, level)
    return out


def split_by_normality(references: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks (N,) for all, normal, abnormal; the difference exposes a model that always says "normal"."""
    normal = np.array([is_normal(reference) for reference in references], dtype=bool)
    return {"all": np.ones(len(normal), dtype=bool), "normal": normal, "abnormal": ~normal}


def yardsticks(findings: Sequence[str | None]) -> dict[str, list[str]]:
    """Trivial summaries to compare a model's with: a constant one and, if all findings are known, their first
    sentences."""
    made = {"constant": [CONSTANT] * len(findings)}
    known = [text for text in findings if text is not None]
    if len(known) == len(findings):
        made["first_sentence"] = [first_sentence(text) for text in known]
    return made
