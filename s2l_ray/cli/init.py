"""Write a configuration that fits your data."""

from __future__ import annotations

import argparse

from s2l_ray.cli.arguments import Commands

_ABOUT = """\
Inspect your data with the same readers as a run, and write a short YAML
configuration for it: format, template, source column, length. Nothing is
overwritten."""
_EXAMPLES = """\
examples:
  s2l init data.jsonl                 writes data.yaml
  s2l init 'data/*.parquet' --out my.yaml
  s2l init data.jsonl --out -         prints it"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    init = commands.add_parser(
        "init", help="inspect your data and write a configuration", description=_ABOUT, epilog=_EXAMPLES
    )
    init.add_argument("paths", metavar="PATH", nargs="+", help="files, folders, globs; local, s3://, gs://, abfs://")
    init.add_argument("--out", metavar="FILE", help="default: the data's name with .yaml; -: print it")
    init.add_argument("--model", metavar="NAME", help="the proxy; default EleutherAI/pythia-70m-deduped")
    init.set_defaults(call=_init)


def _init(arguments: argparse.Namespace) -> int:
    from s2l_ray.config.load import ConfigError
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.init import DEFAULT_PROXY, look_at

    found = look_at(arguments.paths, arguments.model or DEFAULT_PROXY)
    if arguments.out == "-":
        print(found.yaml, end="")
        return 0
    out = arguments.out or f"{found.name}.yaml"
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(found.yaml)
    except FileExistsError:
        raise ConfigError(f"{out} already exists and would be overwritten; choose another name with --out") from None
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); choose another place with --out") from None
    print("\n".join(printable(line) for line in found.summary))
    print(f"Wrote {printable(out)}. Next:\n  s2l run {printable(out)} --dry-run\n  s2l run {printable(out)}")
    return 0
