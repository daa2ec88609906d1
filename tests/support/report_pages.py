"""What a browser would make of a report's text, and texts that mean harm."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from s2l_ray.reporting.write import write_report

HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "</script><script>window.hit=1</script>",
    "<svg onload=window.hit=1>",
    "{{ 7*7 }}{% raw %}",
    "line\u2028separator\u2029",
    "right\u202eleft",
    "nul\x00bell\x07escape\x1b[31m",
    "${7*7} 'datum.value' \\ ` 😀",
    "http://example.org/?q=<b>",
)


class Page(HTMLParser):
    """What a browser would make of the text: elements, attributes, and what stands in script elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_and_facts(folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    text = Path(write_report(str(folder), **options)).read_text(encoding="utf-8")
    return text, json.loads((folder / "report" / "facts.json").read_text(encoding="utf-8"))
