"""Colours and marks: every filled mark has an area, and white or black letters on the colours of topics can be read."""

from __future__ import annotations

import re

import altair as alt

from s2l_ray.reporting.look import LETTERS, LOOKS, OTHERS, PAPER, TOPICS, VARIABLES, data
from s2l_ray.reporting.projection import NUM_VALUES
from s2l_ray.reporting.svg import to_svg


def test_every_mark_can_be_seen() -> None:
    looks = [*LOOKS.values(), *OTHERS]
    rows = [{"x": i, "shape": look.shape, "colour": look.colour} for i, look in enumerate(looks)]
    marks = alt.Chart(data(rows)).mark_point(filled=True, opacity=1).encode(
        x="x:Q", shape=alt.Shape("shape:N", scale=None), color=alt.Color("colour:N", scale=None)
    )  # fmt: skip
    paths = re.findall(r'<path [^>]*d="([^"]*)"[^>]*fill="var\(--series', to_svg(marks, "f", "marks"))
    paths += re.findall(r'<path [^>]*fill="var\(--series\d+\)"[^>]*d="([^"]*)"', to_svg(marks, "f", "marks"))
    assert len(paths) == len(looks)
    assert [d for d in paths if not re.search("[AaZz]", d)] == [], "lines without an area"


def test_letters_on_topics_have_the_contrast_of_small_text() -> None:
    assert len(TOPICS) == len(LETTERS) == NUM_VALUES
    paper_dark = VARIABLES[PAPER][1]
    for light, dark in TOPICS:
        assert contrast(light, PAPER) >= 4.5
        assert contrast(dark, paper_dark) >= 4.5


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
