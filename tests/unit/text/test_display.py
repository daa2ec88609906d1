"""Foreign text is shown as what it is."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from s2l_ray.errors import MAX_MESSAGE, UserError, listed, readable, shown
from s2l_ray.text.display import aligned, one_line, printable, shorten

CODES = {
    "\x1b[31mred\x1b]8;;http://x\x07": r"\x1b[31mred\x1b]8;;http://x\x07",
    "a\nb\tc\r": r"a\nb\tc\r",
    "\x85\x9b31m": r"\x85\x9b31m",
    "\u202egnp.exe\u2066": r"\u202egnp.exe\u2066",
    "pass\u200bword\ufeff\u00ad\u2060": r"pass\u200bword\ufeff\xad\u2060",
    "\u2028\u2029": r"\u2028\u2029",
    "\ud800": r"\ud800",
    "a\U000e0041\ufe0f\U000e0101\u3164": r"a\U000e0041\ufe0f\U000e0101\u3164",
    "\ue000": r"\ue000",
}


@pytest.mark.parametrize("text", CODES)
def test_what_has_no_glyph_is_shown_by_its_code(text: str):
    assert printable(text) == CODES[text]
    assert printable(CODES[text]) == CODES[text]


@pytest.mark.parametrize(
    "text", ["", "a b", "[/INST] [red]:smile:", "汉字　假名", "à la carte\u00a0!", "नमस्ते", "😀", "\\x1b"]
)
def test_what_has_one_is_left_as_it_is(text: str):
    assert printable(text) == text


def test_a_message_keeps_its_lines_and_loses_credentials_and_length():
    message = readable("x\n  - s3://K:S@b\x1b[2J\n" + "y" * 10_000)
    assert message.startswith("x\n  - s3://***@b\\x1b[2J\n")
    assert len(message) == MAX_MESSAGE
    assert "characters more" in message
    assert one_line("a\nb password=abc") == r"a\nb password=***"
    assert shorten("abc", 3) == "abc"
    assert [len(shorten("a" * 999, n)) for n in (40, 998)] == [40, 998]


def test_a_value_is_shown_whatever_it_is():
    bomb: list[object] = ["x"] * 9
    for _ in range(30):
        bomb = [bomb] * 9  # 9³⁰ words, were they written out
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    values = (bomb, deep, 10**10_000, {"password": "abcdef"}, "s3://K:S@b/" + "x" * 10**6, {1: {2: {3: {4: {5: 6}}}}})
    texts = [shown(v) for v in values]
    assert all(len(s) <= 200 for s in texts)
    assert texts[3] == "{'password': '***'}"
    assert texts[4].startswith("'s3://***@b/xxx")
    assert shown("a\u202eb\n") == r"'a\u202eb\n'"
    assert shown([1, "a", None]) == "[1, 'a', None]"


def test_no_error_of_ours_holds_a_credential():
    long = "s3://K:" + "S/" * 2000 + "@b"
    for message in (f"cannot read {long}", "\n".join(listed([long] * 20)), shown({1: long})):
        assert "S/S" not in str(UserError(message))
        assert "s3://***@b" in str(UserError(message))


def test_columns_stand_below_each_other_in_any_script():
    lines = aligned([["name", "n"], ["汉字", "10"], ["a\nb", "7"]])
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}
    assert lines[2] == r"a\nb   7"
