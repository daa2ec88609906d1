"""Feeds mutated configurations to the command line and the library: `python fuzz_configurations.py SEED CASES FOLDER`.

Prints one JSON line: how many were accepted and refused, the largest memory, and every case that ended in anything but
a configuration or a clear refusal.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ.pop("S2L_TRACEBACK", None)

import yaml
from pydantic import BaseModel

import s2l_ray.config
from s2l_ray import cli
from s2l_ray.config import list_recipes, load_config
from s2l_ray.config.faults import section_at
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import MAX_MESSAGE, InternalError, S2LError, exit_code
from s2l_ray.storage.processes import peak_resident_bytes
from s2l_ray.workflow.preflight import preflight

CASE_S = 120
NUMBERS: list[Any] = [
    0, 1, -1, 2, 7, 100, 10**6, 10**10, 10**18, 2**63, -(2**63), 10**4000, 0.5, 1.0, -0.0, 1e-300, 1e300,
    float("inf"), float("-inf"), float("nan"), True, False, None,
]  # fmt: skip
GENTLE: list[Any] = [
    1, 2, 3, 7, 8, 64, 100, 300, 1000, 10_000, 10**6, 0.1, 0.5, 1.0, True, None, "a", "auto", "llama", "gpt2",
    "mamba", "bert", "t5", [1], [0.5], ["s2l"], {},
]  # fmt: skip
TEXTS = [
    "", " ", "a", "s2l", "null", "1e400", "-5", "0x10", "2026-02-30", "22:30", "yes", "é" * 300, "x" * 5000, "\x00",
    "\x1b[31m", "a\nb", "\ud800", "🙂", "../..", "/", "a/b", "{a}", "{", "%s" * 50, "None", "[/INST]", "full",
    "llama", "bert", "t5", "vit", "gpt2", "auto", "C:\\x", "'", '"', "&a", "*a", "!!python/object:os.system", "- a",
    "a: b", "#",
]  # fmt: skip
FOREIGN: list[Any] = [
    b"bytes", {1: 2}, {None: 1}, {"a": {"b": {}}}, [[[]]], [None], {"": ""}, (1, 2), {1, 2}, object(),
]  # fmt: skip
SCRAPS = [
    "&a ", "*a", "!!binary ", "!!set ", "!!timestamp x", "!!int x", "!!python/name:os.system", "<<: ", "? ",
    "---\n", "...\n", "[" * 3000, "{" * 3000, "- " * 500, "\t", "\x00", "\ufeff", "9" * 5000, "2026-13-45", "1e999",
    ".nan", "|\n", ">\n", ": ", "#", "%YAML 9.9\n", "0b2", "1:2:3", "\x85", "~: ~\n",
]  # fmt: skip


def bomb() -> str:
    lines = ['a0: &a0 ["lol"]', *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    return "\n".join(lines)


def deep(rng: random.Random) -> Any:
    value: Any = rng.choice(TEXTS)
    for _ in range(rng.choice([3, 30, 500, 5000])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def value_of(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(TEXTS)
    if kind < 0.85:
        return [value_of(rng) for _ in range(rng.randint(0, 3))]
    if kind < 0.9:
        return deep(rng)
    return rng.choice(FOREIGN) if rng.random() < 0.9 else ["x"] * rng.choice([300, 300, 300, 30_000])


def places(model: type[BaseModel] = S2LConfig, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every section and field there is."""
    found = []
    for name in model.model_fields:
        found.append((*at, name))
        inner = section_at([*at, name])
        found += places(inner, (*at, name)) if inner is not None else []
    return found


def default_at(place: list[str]) -> Any:
    node: Any = DEFAULTS
    for name in place:
        node = node.get(name) if isinstance(node, dict) else None
    return node


FREE = [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "head_dim",
    "n_layer", "intermediate_size", "rope_scaling", "hidden_act", "pad_token_id", "tie_word_embeddings", "dtype",
    "model_type", "layer_types", "text_config", "num_experts", "max_position_embeddings", "architectures",
    "is_decoder",
]  # fmt: skip
PLACES = places()
PLACES += [(section, "from_config", name) for section in ("proxy", "target") for name in FREE]
PLACES += [
    ("sweep", "parameters", name) for name in ("proxy.epochs", "clusters.num_clusters", "nothing", "corpus.paths.a")
]
PLACES += [
    ("heldout", "files", "test"),
    ("resources", "proxy", "custom_resources", "disk"),
    ("nothing",),
    ("proxy", "nothing"),
]


def near(rng: random.Random, value: Any) -> Any:
    """A value that may do in the place of this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([1, value, value + 1, value * 2, max(1, value // 2)])
    if isinstance(value, float):
        return rng.choice([value, value / 2, value * 1.5, 0.5])
    return value if value is not None and rng.random() < 0.5 else rng.choice(GENTLE)


def mutate(rng: random.Random, tree: dict[str, Any], gently: bool) -> None:
    *sections, last = rng.choice(PLACES)
    if gently and isinstance(default_at([*sections, last]), dict):
        return  # a whole section
    node: Any = tree
    for name in sections:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    if rng.random() < (0.05 if gently else 0.15):
        node.pop(last, None)
    else:
        value = near(rng, default_at([*sections, last])) if gently else value_of(rng)
        node[last if gently else rng.choice([last] * 9 + [last + "s"])] = value


def mutate_text(rng: random.Random, text: bytes) -> bytes:
    kind, at = rng.random(), rng.randrange(len(text) + 1)
    if kind < 0.5:
        return text[:at] + rng.choice(SCRAPS).encode() + text[at:]
    if kind < 0.65:
        return text[:at] + rng.randbytes(rng.randint(1, 5)) + text[at:]
    if kind < 0.8:
        return text[:at] + text[at + rng.randint(1, 30) :]
    if kind < 0.85:
        return text.decode(errors="replace").encode(rng.choice(["utf-16", "utf-16-be", "utf-32", "utf-7"]))
    if kind < 0.9:
        return text + b"\n" + bomb().encode()
    if kind < 0.93:
        return text * rng.choice([2, 2, 2, 20, 500])
    return text[:at] + text[at : at + 40] * 3 + text[at:]


def override_of(rng: random.Random) -> str:
    key = ".".join(rng.choice(PLACES))
    if rng.random() < 0.1:
        key = rng.choice(["", ".", key + ".", "." + key, key.replace(".", ".."), "a." * 5000 + "b", key * 300])
    shown: Any = rng.choice([str, repr, json.dumps])
    try:
        text = shown(value_of(rng))
    except (TypeError, ValueError, RecursionError):
        text = rng.choice(SCRAPS)
    return key + rng.choice(["="] * 9 + ["", "=="]) + text


def run_case(seed: str, folder: Path) -> tuple[str, str]:
    """(`accepted`, `refused` or `wrong`, what was said)"""
    rng = random.Random(seed)
    tree = copy.deepcopy(TREES[rng.choice(sorted(TREES))])
    gently = rng.random() < 0.5  # most of the others are refused as soon as they are read
    for _ in range(rng.randint(0, 3)):
        mutate(rng, tree, gently)
    overrides = [override_of(rng) for _ in range(0 if gently else rng.choice([0, 0, 1, 2, 4]))]
    if rng.random() < 0.6:
        return in_the_library(tree, overrides)
    try:
        text = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).encode(errors="surrogatepass")
    except (yaml.YAMLError, RecursionError):
        text = yaml.safe_dump(TREES["quickstart"]).encode()
    for _ in range(rng.randint(0, 2)):
        text = mutate_text(rng, text)
    (folder / "my.yaml").write_bytes(text)
    return on_the_command_line([str(folder / "my.yaml"), *overrides])


def in_the_library(tree: dict[str, Any], overrides: list[str]) -> tuple[str, str]:
    try:
        preflight(load_config(tree, overrides))
    except S2LError as error:
        said = str(error)
        fine = len(said) <= MAX_MESSAGE and exit_code(error) == 2 and not isinstance(error, InternalError)
        return "refused" if fine else "wrong", said
    return "accepted", ""


def on_the_command_line(arguments: list[str]) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(["run", "--dry-run", *arguments])
        except SystemExit as ended:  # argparse's
            code = int(ended.code or 0)
    said = err.getvalue()
    if code == 0:
        return "accepted", ""
    told = "\n".join(line for line in said.splitlines() if not line.startswith("usage:"))
    fine = code == 2 and len(told) <= MAX_MESSAGE + 200 and ("s2l: " in told or "s2l run: error" in told)
    if fine and "Dry run: nothing was started." in out.getvalue():
        return "accepted", ""  # only the recipe's corpus or model is not here
    return "refused" if fine else "wrong", f"exit {code}: {said}"


class Late(BaseException):
    """No part of the program takes it for an error of its own."""


def main(seed: int, cases: int, folder: Path) -> None:
    def late(*_: Any) -> None:
        raise Late(f"took more than {CASE_S} s")

    signal.signal(signal.SIGALRM, late)
    counts = {"accepted": 0, "refused": 0, "wrong": 0}
    wrong, slowest, largest = [], (0.0, ""), 0
    os.chdir(folder)
    on_the_command_line(["quickstart"])  # imports are no part of a case: an interrupted one would spoil all that follow
    preflight(load_config("quickstart"))
    for i in range(cases):
        case, started = f"{seed}/{i}", time.monotonic()
        signal.alarm(CASE_S)
        try:
            how, said = run_case(case, folder)
        except BaseException:
            how, said = "wrong", traceback.format_exc()[-3000:]
        signal.alarm(0)
        counts[how] += 1
        if how == "wrong":
            wrong.append([case, said[:3000]])
        slowest = max(slowest, (time.monotonic() - started, case))
        now = peak_resident_bytes()
        if now > largest + 50 * 2**20:
            print(case, how, now >> 20, "MiB", said[:100].replace("\n", " "), file=sys.stderr)
        largest = max(largest, now)
    print(json.dumps({**counts, "wrong_cases": wrong[:20], "slowest": slowest, "peak_bytes": largest}))


RECIPES = Path(s2l_ray.config.__file__).parent / "recipes"
TREES = {name: yaml.safe_load((RECIPES / f"{name}.yaml").read_text()) for name in list_recipes()}
DEFAULTS = load_config("quickstart").model_dump(mode="json")

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
