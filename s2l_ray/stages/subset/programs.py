"""Writes instructions for other programs to train on a subset: `dataset_info.json` for LLaMA-Factory, snippets for TRL
and axolotl.

Sources: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md and its `data/converter.py`;
https://huggingface.co/docs/trl/dataset_formats; https://docs.axolotl.ai/docs/dataset-formats/.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from s2l_ray.data.chats import FUNCTION_CALL
from s2l_ray.errors import DataError
from s2l_ray.stages.subset.layout import RowLayout
from s2l_ray.storage.folder import Storage

GUIDE = "train_with.md"
_TITLE = "# Train on this subset with other programs\n\n"
_WEIGHTS = """
The rows have weights (`s2l_weight`), by which `s2l finetune` multiplies their loss. These programs ignore them and
train on the unweighted subset.
"""
_CURRICULUM = (
    _TITLE
    + """This subset is a curriculum: train on its rows in ascending order of `s2l_stage`, shuffled only within a stage,
as `s2l finetune` does. LLaMA-Factory, TRL and axolotl shuffle all rows, so they would train in random order instead,
and nothing is prepared for them here. To use it elsewhere, train in stages on the rows of `subset.jsonl` with
`s2l_stage` 0, then 1, and so on.
"""
)
_CHAT_COLUMN = {"messages": "messages", "sharegpt": "conversations"}
_SYSTEM = ("system", "system_prompt")


class _Misfit(DataError):
    """Why a program cannot read the rows as they are."""


def write_guides(
    out: Storage, layouts: dict[str, RowLayout], format: str, weighted: bool = False, staged: bool = False
) -> None:
    """Write `dataset_info.json`, if LLaMA-Factory can read the rows, and `train_with.md`.

    Args:
        layouts: JSONL file → its layout.
        format: the corpus's format.
        weighted: whether rows have weights, which these programs ignore.
        staged: whether rows have stages; there are no instructions then, since these programs shuffle all rows.
    """
    if staged:
        out.write_bytes(GUIDE, _CURRICULUM.encode())
        return
    names = dict(zip(layouts, _entry_names(len(layouts)), strict=True))
    info, misfit = {}, ""
    for file, layout in layouts.items():
        try:
            info[names[file]] = {"file_name": file, **llama_factory_entry(layout, format)}
        except _Misfit as error:
            misfit = str(error)
    if info and not misfit:
        out.write_json("dataset_info.json", info)
    whole = _merged(list(layouts.values()))
    factory = f"dataset_dir: .\ndataset: {','.join(names.values())}"
    sections = {
        "LLaMA-Factory": f"LLaMA-Factory cannot read these rows: {misfit}." if misfit else _block("yaml", factory),
        "TRL": _section("python", lambda: trl_lines(whole, format, list(layouts))),
        "axolotl": _section("yaml", lambda: axolotl_lines(whole, format, list(layouts))),
    }
    text = _TITLE + "The paths are relative to this folder.\n" + (_WEIGHTS if weighted else "")
    text += "".join(f"\n## {name}\n\n{section}\n" for name, section in sections.items())
    out.write_bytes(GUIDE, text.encode())


def _entry_names(count: int) -> list[str]:
    return ["s2l_subset"] if count == 1 else [f"s2l_subset_{i:05d}" for i in range(count)]


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _section(language: str, lines: Any) -> str:
    try:
        return _block(language, lines())
    except _Misfit as error:
        return f"It cannot read these rows as they are: {error}."


def _merged(layouts: list[RowLayout]) -> RowLayout:
    total = RowLayout()
    for one in layouts:
        for name, value in vars(one).items():
            if name != "roles":
                getattr(total, name).update(value)
        for role, names in one.roles.items():
            total.roles.setdefault(role, set()).update(names)
    return total


# --- LLaMA-Factory ----------------------------------------------------------------------------------------------------


def llama_factory_entry(layout: RowLayout, format: str) -> dict[str, Any]:
    """An entry of `dataset_info.json`: LLaMA-Factory looks up every column and tag named in it, and no others.

    Raises:
        _Misfit: LLaMA-Factory's converters cannot read the rows.
    """
    columns: dict[str, str] = {}
    if format == "template":
        raise _Misfit("prompt and response are made by corpus.template")
    if format == "instruction":
        columns = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
    elif format == "prompt_completion":
        if layout.is_of_turns:
            raise _Misfit("prompt and completion are lists of turns, which it does not support")
        return {"columns": {"prompt": "prompt", "response": "completion"}}
    else:
        columns = {"messages": _turns_column(layout, format)}
    system = next((name for name in _SYSTEM if name in layout.filled), None)
    columns |= {"tools": "tools"} | ({"system": system} if system else {})
    columns = {key: name for key, name in columns.items() if name in layout.filled or name in ("instruction", "output")}
    if format == "instruction":
        return {"columns": columns}
    formatting = "openai" if layout.has_tool_calls or "tools" in layout.lists else "sharegpt"
    return {"formatting": formatting, "columns": columns, "tags": _tags(layout, format)}


def _turns_column(layout: RowLayout, format: str) -> str:
    column = _CHAT_COLUMN[format]
    column = column if column in layout.columns or format == "messages" else "conversation"
    if column in layout.packed:
        raise _Misfit(f"the turns in {column!r} are JSON text")
    return column


def _keys(layout: RowLayout) -> tuple[str, str]:
    if len(layout.role_keys) != 1 or len(layout.text_keys) > 1:
        raise _Misfit("turns have their role and text under differing keys")
    [role] = layout.role_keys
    return role, next(iter(layout.text_keys), "content")


def _tags(layout: RowLayout, format: str) -> dict[str, str]:
    role_key, text_key = _keys(layout)
    names = {"user": "human", "assistant": "gpt", "tool": "observation", FUNCTION_CALL: "function_call"}
    if format == "messages":
        names |= {"user": "user", "assistant": "assistant", "tool": "tool"}
    tags = {"role_tag": role_key, "content_tag": text_key}
    roles = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": FUNCTION_CALL}
    for tag, role in roles.items():
        tags[tag] = _one_name(layout, role, names[role])
    system = layout.roles.get("system", set()) | layout.roles.get("developer", set())
    if len(system) > 1:
        raise _Misfit(f"one role has several names: {', '.join(sorted(system))}")
    return tags | {"system_tag": next(iter(system), "system")}


def _one_name(layout: RowLayout, role: str, default: str) -> str:
    name = layout.name_of(role, default)
    if name is None:
        raise _Misfit(f"one role has several names: {', '.join(sorted(layout.roles[role]))}")
    return name


# --- TRL --------------------------------------------------------------------------------------------------------------

_TRL_TURNS = '''
roles = {roles}

def to_messages(row):
    """Roles and keys as chat templates know them."""
    turns = [{{"role": roles[t["{role}"].strip().lower()], "content": t["{text}"] or ""}} for t in row["{column}"]]
    {system}return {{"messages": turns}}

data = data.map(to_messages, remove_columns=data.column_names)'''
_TRL_PAIRS = '''
def to_messages(row):
    """System prompt, earlier rounds, the prompt with its input, the response."""
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for question, answer in row.get("history") or []:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt = row["instruction"] + (f"\\n\\n{row['input']}" if row.get("input") else "")
    return {"prompt": [*turns, {"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": row["output"]}]}

data = data.map(to_messages, remove_columns=data.column_names)'''


def trl_lines(layout: RowLayout, format: str, files: list[str]) -> str:
    """Python that trains with `trl.SFTTrainer`."""
    lines = f'data = load_dataset("json", data_files={json.dumps(files)}, split="train")'
    if format == "template":
        raise _Misfit("prompt and response are made by corpus.template; map the rows to prompt and completion")
    if format == "instruction":
        lines += "\n" + _TRL_PAIRS
    elif format != "prompt_completion":
        lines += _trl_turns(layout, format)
    return (
        f"from datasets import load_dataset\nfrom trl import SFTTrainer\n\n{lines}\n"
        'SFTTrainer("Qwen/Qwen3-0.6B", train_dataset=data).train()'
    )


def _trl_turns(layout: RowLayout, format: str) -> str:
    column = _turns_column(layout, format)
    role, text = _keys(layout)
    names = {name.strip().lower(): kind for kind, several in layout.roles.items() for name in several}
    if FUNCTION_CALL in layout.roles:
        raise _Misfit("tool calls stand in turns of their own; give them as tool_calls")
    system = next((name for name in _SYSTEM if name in layout.filled), None)
    known = all(name == kind for kind, several in layout.roles.items() for name in several)
    if known and (column, role, text) == ("messages", "role", "content") and not system:
        return ""
    if layout.has_tool_calls:
        raise _Misfit("tool calls need the keys and roles role, content, user, assistant, tool; some rows have others")
    prompt = ""
    if system:
        prompt = f'if row["{system}"]:\n        turns.insert(0, {{"role": "system", "content": row["{system}"]}})\n    '
    return "\n" + _TRL_TURNS.format(roles=json.dumps(names), role=role, text=text, column=column, system=prompt)


# --- axolotl ----------------------------------------------------------------------------------------------------------


def axolotl_lines(layout: RowLayout, format: str, files: list[str]) -> str:
    """The `datasets` of an axolotl configuration."""
    if format == "template":
        raise _Misfit("prompt and response are made by corpus.template; write prompt and completion columns")
    kind: dict[str, Any]
    if format == "instruction":
        if lost := sorted(layout.filled & {"system", "history", "tools"}):
            raise _Misfit(f"its type alpaca does not read {', '.join(lost)}")
        kind = {"type": "alpaca"}
    elif format == "prompt_completion":
        if layout.is_of_turns:
            raise _Misfit("prompt and completion are lists of turns; join them into messages")
        fields = {"field_instruction": "prompt", "field_output": "completion"}
        kind = {"type": {**fields, "format": "{instruction}", "no_input_format": "{instruction}"}}
    else:
        kind = _axolotl_turns(layout, format)
    return yaml.safe_dump(
        {"datasets": [{"path": file, "ds_type": "json", **kind} for file in files]}, sort_keys=False, width=1000
    ).rstrip()


def _axolotl_turns(layout: RowLayout, format: str) -> dict[str, Any]:
    if system := next((name for name in _SYSTEM if name in layout.filled), None):
        raise _Misfit(f"its type chat_template does not read the column {system!r}; make it the first turn")
    if FUNCTION_CALL in layout.roles:
        raise _Misfit("tool calls stand in turns of their own; give them as tool_calls")
    column = _turns_column(layout, format)
    role, text = _keys(layout)
    kind: dict[str, Any] = {
        "type": "chat_template",
        "field_messages": column,
        "message_property_mappings": {"role": role, "content": text},
        "roles": {kind: sorted(names) for kind, names in sorted(layout.roles.items())},
        "roles_to_train": ["assistant"],
    }
    marks = [key for key in ("train", "training", "weight") if key in layout.other_keys]
    return kind | ({"message_field_training": marks[0]} if marks else {})
