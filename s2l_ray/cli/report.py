"""Write the HTML report: what was selected, why, and what it is worth."""

from __future__ import annotations

import argparse
import os
import sys

from s2l_ray.cli.arguments import Commands, print_json

_ABOUT = """\
Write an HTML report of what was selected, why, and what it is worth. Every run
ends by writing it; use this command to write it again with other names or
comparisons, or before the run has finished."""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    report = commands.add_parser("report", help="show what was selected and what it is worth", description=_ABOUT)
    report.add_argument("run", metavar="RUN", help="the run's folder; it may be unfinished")
    report.add_argument("--out", metavar="FILE", help="default: report/index.html in the run's folder")
    report.add_argument("--by", metavar="COLUMN", help="name clusters by this facet, or by source")
    report.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="RUN",
        help="show the overlap with its subsets; may be repeated",
    )
    report.add_argument("--no-text", action="store_true", help="leave out the text of examples")
    report.add_argument("--json", action="store_true", help="print the numbers instead of writing the page")
    report.add_argument("--open", action="store_true", help="show it in a browser, if there is a display")
    report.set_defaults(call=_report)


def _report(arguments: argparse.Namespace) -> int:
    from s2l_ray.artifacts.run import load_run
    from s2l_ray.errors import UserError
    from s2l_ray.reporting.write import check_libraries, facts_of, page_uri, write_report
    from s2l_ray.text.display import printable

    by, compare, with_text = arguments.by, arguments.compare, not arguments.no_text
    if arguments.json:
        idle = " and ".join(["--out"] * (arguments.out is not None) + ["--open"] * arguments.open)
        if idle:
            raise UserError(
                f"--json prints the numbers and writes no page, so {idle} would do nothing; leave out --json, or {idle}"
            )
        facts = facts_of(load_run(arguments.run), by=by, compare=compare, with_text=with_text)
        print_json(facts.plain())
        return 0
    check_libraries()
    page = page_uri(write_report(arguments.run, arguments.out, by=by, compare=compare, with_text=with_text))
    print(printable(page))
    if arguments.open and not _shown_in_browser(page):
        print("There is no display here; open that file in a browser.", file=sys.stderr)
    return 0


def _shown_in_browser(page: str) -> bool:
    import webbrowser

    displays = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    has_display = sys.platform in ("darwin", "win32") or bool(displays)
    return has_display and page.startswith("file://") and webbrowser.open(page)
