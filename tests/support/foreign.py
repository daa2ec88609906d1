"""Text as an enemy of the terminal would write it."""

from __future__ import annotations

ATTACKS = (
    "[/INST] ok", "[red]alarm[/red]", "[link=https://evil.example]click[/link]", "[/url]", "[bold", "\\[red]",
    "a :smile: b :bomb:", "\x1b[2J\x1b[31mred", "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
    "\x1b]0;title\x07", "\x9b31mC1", "a\rb\x08\x7f", "abc\u202egnp.exe", "\u2066iso\u2069",
    "zero\u200bwidth\ufeff\u2060",
    "line\u2028sep\x85nel", "two\nlines\ttab", "汉字 と かな", "\x00nul", "sm\U000e0061ggled\ufe0f", "$x^2$ \\$ %",
    "=1+1",
    "@SUM(A1)", "| pipe | `tick` <script>alert(1)</script> &lt; # h", "---\nbase_model: evil/model",
    "-5+cmd|' /C calc'!A0",
)  # fmt: skip

UNSEEN = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0xAD, 0x200B, 0x200E, 0x2028, 0x202E, 0x2066]))
UNSEEN += "\ufeff\ufe0f\U000e0061"
"""What must never come out raw, where lines may end."""
