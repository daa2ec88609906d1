"""Writes `report/index.html` and `report/facts.json` into a run's folder. The page is not a stage: it has no key, is
overwritten, and is never read again."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.errors import InternalError, UserError, describe, shown
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.gather import gather_facts
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.output_folder import check_output_file, make_output_folder, output_place
from s2l_ray.storage.writable import check_writable
from s2l_ray.text.display import one_line, printable

FOLDER, PAGE, FACTS = "report", "index.html", "facts.json"
_LIBRARIES = {"altair": "altair", "vl_convert": "vl-convert-python"}
"""Module → package."""


_EARLIER_PAGE = re.compile(
    rb"""\s*<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-[^"]*">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>[^<]*</title>
<style>:root\{--ink:"""
)
"""How pages began before they named their generator: no other program writes these lines."""


class MissingLibraries(UserError):
    """A library that the report needs is not installed."""


def check_libraries() -> None:
    """Raises MissingLibraries if a library is missing, naming the extra that installs it."""
    missing = [package for module, package in _LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingLibraries(f'the report needs {" and ".join(missing)}: pip install "s2l_ray[report]"')


def write_report(
    run: str | os.PathLike[str] | Run,
    out: str | os.PathLike[str] | None = None,
    *,
    by: str | None = None,
    compare: Sequence[str] = (),
    with_text: bool = True,
) -> str:
    """Write the report of a run, which may still be in progress, and the numbers behind it.

    Args:
        run: the run, or its folder, local or s3://, gs://.
        out: an HTML file; None: `report/index.html` in the run's folder. `facts.json` is written next to it. Earlier
            pages are overwritten, other files are not.
        by: the column whose values label clusters; None: the first facet, otherwise the source.
        compare: folders of runs whose subsets are compared with this run's.
        with_text: False leaves the texts of examples out of both files.

    Returns:
        Path or URI of the page.

    Raises:
        MissingLibraries: Altair or vl-convert is not installed.
        RunError: the folder contains no run.
        UserError: `out` is a folder or another file.
        StorageError: the page cannot be written there.
        DamagedFile, MissingFile: an artifact is damaged or missing.
    """
    check_libraries()
    path = None if out is None else output_place(os.fspath(out), "--out").absolute()
    if path is not None:  # before the page is drawn, which takes seconds
        check_output_file(path, _is_page, "a page of s2l report", "--out")
        check_output_file(_facts_beside(path), _is_facts, "the numbers of such a page", "--out")
        make_output_folder(path.parent, "--out")
    run = run if isinstance(run, Run) else load_run(os.fspath(run))
    if path is None:
        there = run.storage.sub(FOLDER)
        check_writable(there, shown(there.uri), "choose another place with --out")
    facts = facts_of(run, by=by, compare=compare, with_text=with_text)
    page = page_of(facts)
    if path is None:
        folder, name = run.storage.sub(FOLDER), PAGE
    else:
        folder, name = Storage.open(str(path.parent)), path.name
    folder.write_bytes(name, page.encode("utf-8", "backslashreplace"))
    folder.write_json(FACTS if path is None else _facts_beside(path).name, facts.plain())
    return folder.uri_of(name)


def _facts_beside(page: Path) -> Path:
    return page.with_name(f"{page.stem}.{FACTS}")


def _is_page(head: bytes) -> bool:
    return b'<meta name="generator" content="s2l_ray">' in head or _EARLIER_PAGE.match(head) is not None


def _is_facts(head: bytes) -> bool:
    return head.startswith(b'{\n  "name": ') and b'\n  "has_text": ' in head


def report_line(run: Run) -> str:
    """Write the report at the end of a command; returns a line saying where it is, or why it could not be written.

    The command's work is complete by then, so no failure here may end it.
    """
    try:
        page = write_report(load_run(run.storage))
    except MissingLibraries as error:
        return f"  No report: {error}"
    except Exception as error:
        return f"  The report could not be made ({one_line(describe(error))}); everything else is complete"
    return f"  Look at it:    {printable(page_uri(page))}"


def page_uri(page: str) -> str:
    """A local path as a file:// URI, which terminals and browsers open; other URIs as they are."""
    return page if "://" in page else Path(page).as_uri()


def facts_of(run: Run, *, by: str | None = None, compare: Sequence[str] = (), with_text: bool = True) -> Facts:
    """Only the facts, which need no extra. Arguments and errors as for `write_report`."""
    names = [uri.rstrip("/").rpartition("/")[2] for uri in compare]
    if len(set(names)) < len(names):
        names = list(compare)
    return gather_facts(
        run, by=by, compared=[(n, load_run(u)) for n, u in zip(names, compare, strict=True)], with_text=with_text
    )


def page_of(facts: Facts) -> str:
    """The page as HTML.

    Raises:
        InternalError: the page is too large for a browser, which no size of run should cause.
    """
    from s2l_ray.reporting.page import MAX_PAGE_BYTES, make_page

    page = make_page(facts)
    size = len(page.encode("utf-8", "backslashreplace"))
    if size > MAX_PAGE_BYTES:
        raise InternalError(f"the report has {size:,} bytes, more than {MAX_PAGE_BYTES:,}; make it with --no-text")
    return page
