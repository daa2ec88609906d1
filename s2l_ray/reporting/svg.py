"""Renders charts: as SVG for the page, with unique ids, no style attributes and CSS variables for colours, or as files.

The only module that imports vl_convert.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import vl_convert

from s2l_ray.reporting.look import VARIABLES

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _LINK)
_DROPPED = {"style", "class", "aria-roledescription", "role", "aria-hidden", "opacity"}
_TOLD = {"point", "circle", "square", "bar", "rect mark", "symbol mark"}
"""Kinds of marks that have a tooltip."""
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def to_svg(chart: Any, prefix: str, label: str) -> str:
    """Render the chart as an SVG element for HTML.

    Args:
        prefix: put before the ids within it, so that those of several charts differ.
        label: text for screen readers.
    """
    text = vl_convert.vegalite_to_svg(chart.to_dict(validate=False), allowed_base_urls=[])
    root = ElementTree.fromstring(text)
    _strip(root, prefix)
    for name in ("version", "class"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def to_files(spec: dict[str, Any]) -> dict[str, bytes]:
    """Render a Vega-Lite specification → file extension → content: `png` at twice the size, and `svg`."""
    return {
        "png": vl_convert.vegalite_to_png(spec, scale=2, allowed_base_urls=[]),
        "svg": vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]).encode(),
    }


def _strip(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if _is_empty(child):
            element.remove(child)
        else:
            _strip(child, prefix)
    attributes = element.attrib
    if attributes.get("opacity") not in (None, "1") and element.tag.rpartition("}")[2] != "text":
        attributes["fill-opacity"] = attributes["stroke-opacity"] = attributes["opacity"]
    tip = attributes.pop("aria-label", None)
    if tip is not None and attributes.get("aria-roledescription") in _TOLD:
        attributes["data-tip"] = tip
    for name in _DROPPED & attributes.keys():
        del attributes[name]
    for name, value in list(attributes.items()):
        if name in ("fill", "stroke") and value.lower() in VARIABLES:
            attributes[name] = f"var(--{VARIABLES[value.lower()][0]})"
        elif name == "id":
            attributes[name] = prefix + value
        elif "url(#" in value:
            attributes[name] = value.replace("url(#", f"url(#{prefix}")
        elif name in ("d", "transform"):
            attributes[name] = _NUMBER.sub(lambda m: f"{float(m[0]):.1f}", value)


def _is_empty(element: ElementTree.Element) -> bool:
    """Whether nothing of the element would be visible: hidden labels, frames without size, groups without marks."""
    tag = element.tag.rpartition("}")[2]
    if tag == "text":
        return not "".join(element.itertext()) or element.get("opacity") == "0"
    if tag == "path":
        return element.get("display") == "none" or element.get("d") in ("", "M0,0h0v0h0Z")
    return False
