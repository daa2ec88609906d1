"""Write a configuration that fits your data."""

from __future__ import annotations

import argparse
import shlex

from s2l_ray.cli.arguments import Commands

_ABOUT = """\
Inspect your data with the same readers as a run, and write a short YAML
configuration for it: format, template, source column, length. Nothing is
overwritten."""
_EXAMPLES = """\
examples:
  s2l init data.jsonl                 writes data.yaml
  s2l init 'data/*.parquet' --out my.yaml
  s2l init data.jsonl --out -         prints it
  s2l init a.csv 'corpus.template.prompt={a}' 'corpus.template.response={b}'"""


def add_to(commands: Commands) -> None:
    """Its arguments."""
    init = commands.add_parser(
        "init", help="inspect your data and write a configuration", description=_ABOUT, epilog=_EXAMPLES,
        usage="s2l init PATH [PATH ...] [section.field=value ...] [options]",
    )  # fmt: skip
    init.add_argument("paths", metavar="PATH", nargs="+", help="files, folders, globs; local, s3://, gs://, abfs://")
    init.add_argument("--out", metavar="FILE", help="default: the data's name with .yaml; -: print it")
    init.add_argument("--model", metavar="NAME", help="the proxy; default EleutherAI/pythia-70m-deduped")
    init.set_defaults(call=_init, overrides=())


def _init(arguments: argparse.Namespace) -> int:
    from s2l_ray.config.load import ConfigError
    from s2l_ray.storage.output_folder import output_place
    from s2l_ray.text.display import printable
    from s2l_ray.workflow.init import DEFAULT_PROXY, look_at

    settings = [text for text in arguments.paths if _is_setting(text)]
    paths = [text for text in arguments.paths if text not in settings]
    found = look_at(paths, arguments.model or DEFAULT_PROXY, [*settings, *arguments.overrides])
    if arguments.out == "-":
        print(found.yaml, end="")
        return 0
    out = arguments.out or f"{found.name}.yaml"
    place, begun = output_place(out, "--out"), False
    try:
        with place.open("x", encoding="utf-8") as file:
            begun = True
            file.write(found.yaml)
        begun = False
    except FileExistsError:
        raise ConfigError(f"{out} already exists and would be overwritten; choose another name with --out") from None
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); choose another place with --out") from None
    finally:
        if begun:  # interrupted, or the disk is full: half a configuration would be in the way of the next attempt
            place.unlink(missing_ok=True)
    print("\n".join(printable(line) for line in found.summary))
    command = printable(f"s2l run {shlex.quote(out)}")
    print(f"Wrote {printable(out)}. Next:\n  {command} --dry-run\n  {command}")
    return 0


def _is_setting(text: str) -> bool:
    """Whether it is `section.field=value`, not the name of a file."""
    from s2l_ray.config import S2LConfig

    section, dot, _ = text.partition("=")[0].partition(".")
    return bool(dot) and "=" in text and section in S2LConfig.model_fields
