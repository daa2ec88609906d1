"""A run's folder → `report/index.html` and `report/facts.json` in it. The page is not a stage: it has no key, is
overwritten, and never read again."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.errors import InternalError, UserError, describe
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.gather import gather_facts
from s2l_ray.storage.folder import Storage
from s2l_ray.text.display import one_line, printable

FOLDER, PAGE, FACTS = "report", "index.html", "facts.json"
_LIBRARIES = {"altair": "altair", "vl_convert": "vl-convert-python"}
"""Module → package."""


class MissingLibraries(UserError):
    """What draws the page is not installed."""


def check_libraries() -> None:
    """Raises MissingLibraries: names what is missing and the extra that has it."""
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
    """Make the page of a run that may still be going on, and the numbers behind it.

    Args:
        run: its folder, local or s3://, gs://.
        out: an HTML file; None: `report/index.html` in the run's folder. `facts.json` is put beside it.
        by: the column whose values name clusters; None: the first facet, else the source.
        compare: folders of runs whose subsets are compared with this run's.
        with_text: False leaves the texts of examples out of both files.

    Returns:
        Path or URI of the page.

    Raises:
        MissingLibraries: Altair or vl-convert is not installed.
        RunError: there is no run in a folder.
        DamagedFile, MissingFile: an artifact is not what was written.
    """
    check_libraries()
    run = run if isinstance(run, Run) else load_run(os.fspath(run))
    facts = facts_of(run, by=by, compare=compare, with_text=with_text)
    page = page_of(facts)
    if out is None:
        folder, name = run.storage.sub(FOLDER), PAGE
    else:
        path = Path(os.fspath(out)).expanduser().absolute()
        folder, name = Storage.open(str(path.parent)), path.name
    folder.write_bytes(name, page.encode("utf-8", "backslashreplace"))
    folder.write_json(FACTS if out is None else f"{Path(name).stem}.{FACTS}", facts.plain())
    return f"{folder.uri}/{name}"


def report_line(run: Run) -> str:
    """Make the page at the end of a command and say where it is; what keeps it from being made is said instead.

    The command has done its work by then, so no failure here may end it.
    """
    try:
        page = write_report(load_run(run.storage))
    except MissingLibraries as error:
        return f"  No picture of it: {error}"
    except Exception as error:
        return f"  The report could not be made ({one_line(describe(error))}); everything else is complete"
    return f"  Look at it:    {printable(page_uri(page))}"


def page_uri(page: str) -> str:
    """A local path as a file:// URI, which terminals and browsers open; other URIs as they are."""
    return page if "://" in page else Path(page).as_uri()


def facts_of(run: Run, *, by: str | None = None, compare: Sequence[str] = (), with_text: bool = True) -> Facts:
    """The numbers alone, which need no extra. Arguments and errors as of `write_report`."""
    names = [uri.rstrip("/").rpartition("/")[2] for uri in compare]
    if len(set(names)) < len(names):
        names = list(compare)
    return gather_facts(
        run, by=by, compared=[(n, load_run(u)) for n, u in zip(names, compare, strict=True)], with_text=with_text
    )


def page_of(facts: Facts) -> str:
    """The page as text.

    Raises:
        InternalError: larger than a browser should be given, whatever the run's size.
    """
    from s2l_ray.reporting.page import MAX_PAGE_BYTES, make_page

    page = make_page(facts)
    size = len(page.encode("utf-8", "backslashreplace"))
    if size > MAX_PAGE_BYTES:
        raise InternalError(f"the report has {size:,} bytes, more than {MAX_PAGE_BYTES:,}; make it with --no-text")
    return page
