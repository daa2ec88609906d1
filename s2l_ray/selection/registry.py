"""Registry of selectors by name: those of this package, of other installed packages, and those added by `register`.

A package provides selectors to every process, including workers on a cluster, through the entry-point group
`s2l_ray.selectors` (https://packaging.python.org/specifications/entry-points/); entries are instances of selectors.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from s2l_ray.config.selection import RULE_OF
from s2l_ray.errors import UserError, foreign_named, shown
from s2l_ray.selection.guards import GuardReport, evaluate_guard
from s2l_ray.selection.inputs import SelectionInputs
from s2l_ray.selection.options import GuardOptions, SelectorOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.selector import Selector
from s2l_ray.selection.selectors.cartography import CartographyAmbiguous, CartographyHard
from s2l_ray.selection.selectors.confidence_curriculum import ConfidenceCurriculum
from s2l_ray.selection.selectors.embedding_kmeans import EmbeddingKMeans
from s2l_ray.selection.selectors.facility_location import FacilityLocation
from s2l_ray.selection.selectors.forgetting import Forgetting
from s2l_ray.selection.selectors.high_learnability import HighLearnability
from s2l_ray.selection.selectors.ifd import InstructionFollowingDifficulty
from s2l_ray.selection.selectors.least_confidence import LeastConfidence
from s2l_ray.selection.selectors.middle_perplexity import MiddlePerplexity
from s2l_ray.selection.selectors.random import Random, RandomPerSource
from s2l_ray.selection.selectors.rds_plus import RdsPlus
from s2l_ray.selection.selectors.s2l import S2L
from s2l_ray.selection.selectors.s2l_robust import RobustS2L
from s2l_ray.text.nearest import nearest

ENTRY_POINTS = "s2l_ray.selectors"

_BUILT_IN: tuple[Selector, ...] = (
    S2L(), RobustS2L(), Random(), RandomPerSource(), LeastConfidence(), MiddlePerplexity(), HighLearnability(),
    FacilityLocation(), ConfidenceCurriculum(), EmbeddingKMeans(), InstructionFollowingDifficulty(), CartographyHard(),
    CartographyAmbiguous(), Forgetting(), RdsPlus(),
)  # fmt: skip
_ATTRIBUTES = ("name", "summary", "label", "Options", "needs", "order")


class UnknownSelector(UserError):
    """Error for an unknown selector."""


def register(selector: Selector) -> Selector:
    """Register a selector under its name in this process, and return it.

    Raises:
        UserError: it lacks an attribute of `Selector`, or the name is already in use.
    """
    _check_selector(selector)
    known = _selectors()
    if selector.name in known and type(known[selector.name]) is not type(selector):
        raise UserError(f"a selector with the name {selector.name!r} already exists; choose another name")
    known[selector.name] = selector
    return selector


def get_selector(name: str) -> Selector:
    """Return the selector with this name.

    Raises:
        UnknownSelector: there is none; the message lists the known ones and suggests the closest.
    """
    known = _selectors()
    if name in known:
        return known[name]
    near = nearest(str(name), known)
    hint = f"; did you mean {near!r}?" if near else ""
    raise UnknownSelector(f"unknown selector {shown(name)}; known: {', '.join(sorted(known))}{hint}")


def list_selectors() -> list[Selector]:
    """List all known selectors: this package's first, in the order of help and docs, then others by name."""
    first = [selector.name for selector in _BUILT_IN]
    return sorted(_selectors().values(), key=lambda s: (first.index(s.name) if s.name in first else len(first), s.name))


def registered_here() -> tuple[Selector, ...]:
    """Return the selectors that were registered only in this process and must be passed to other processes."""
    offered = {type(one) for one in _BUILT_IN} | {type(one) for one in _offered()}
    return tuple(one for one in list_selectors() if type(one) not in offered)


def describe_selectors() -> str:
    """Return one line for each selector, for help and docs."""
    selectors = list_selectors()
    width = max(len(selector.name) for selector in selectors)
    return "\n".join(f"{selector.name:{width}}  {selector.summary}" for selector in selectors)


def resolve_options(
    name: str, own: Mapping[str, Any] | None = None, shared: Mapping[str, Any] | None = None
) -> SelectorOptions:
    """Return the typed options of a selector.

    Args:
        own: settings for this selector; unknown keys are refused.
        shared: settings for all selectors (`stratify`, `guard`, `reference` …); those that the selector has override
            its defaults. Single keys of `guard` can be set; the others keep the selector's values.

    Raises:
        UserError: the selector is unknown, or does not have an option.
    """
    options = get_selector(name).Options
    own = dict(own or {})
    unknown = sorted(set(own) - set(options.model_fields))
    if unknown:
        raise UserError(
            f"selection.options.{name} sets {', '.join(unknown)}, which the selector {name} does not have; remove it. "
            f"The selector's options are {', '.join(sorted(options.model_fields))}"
        )
    applicable = {key: value for key, value in (shared or {}).items() if key in options.model_fields}
    merged = applicable | own
    if "guard" in merged:
        guards = [_plain_guard(options().guard), _plain_guard(applicable.get("guard")), _plain_guard(own.get("guard"))]
        merged["guard"] = {key: value for guard in guards for key, value in guard.items()}
    # Remove shared settings that have no effect with this selector's other options: no subset's key may depend on them.
    if "weights_cap" not in own and merged.get("weights", "none") == "none":
        merged.pop("weights_cap", None)
    if "guard" in merged:
        rules = merged["guard"].get("rules", [])
        idle = {key for key, rule in RULE_OF.items() if rule not in rules} | (set() if rules else {"min_kept_share"})
        merged["guard"] = {key: value for key, value in merged["guard"].items()
                           if key not in idle or key in _plain_guard(own.get("guard"))}  # fmt: skip
    return options.model_validate(merged)


def _plain_guard(guard: GuardOptions | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of a guard that were set explicitly."""
    return guard.model_dump(exclude_unset=True) if isinstance(guard, GuardOptions) else dict(guard or {})


def needs_of(name: str, options: SelectorOptions | None = None) -> frozenset[str]:
    """Return what a selector reads with these options, including its guard."""
    selector = get_selector(name)
    options = _checked(selector, options)
    return frozenset(selector.needs(options)) | options.guard.needs()


def order_examples(
    name: str,
    inputs: SelectionInputs,
    seed: int,
    options: SelectorOptions | None = None,
    max_budget: int | None = None,
    guard: GuardReport | None = None,
) -> Ordering:
    """Guard, group and rank all examples once; `.take(budget)` then takes milliseconds per million for any budget.

    Args:
        options: the selector's options; None: its defaults.
        max_budget: the largest budget that will be taken; None: everything.
        guard: result of `evaluate_guard` with the same rules; None: it is computed.

    Raises:
        MissingSignal: the selector needs columns that the run does not have.
        UserError: there are no examples, or the arguments are impossible.
    """
    selector = get_selector(name)
    options = _checked(selector, options)
    num_examples = inputs.num_examples
    if not num_examples:
        raise UserError("there are no examples to choose from; the corpus is empty")
    if max_budget is not None and not 1 <= max_budget <= num_examples:
        raise UserError(f"max_budget={max_budget} is not between 1 and the {num_examples} examples there are")
    inputs.require(f"the selector {name}", needs_of(name, options))
    if options.guard.rules:
        guard = guard or evaluate_guard(inputs, options.guard)
        eligible = guard.eligible if inputs.eligible is None else guard.eligible & inputs.eligible
        inputs = replace(inputs, eligible=eligible)
    ordering = selector.order(inputs, seed, options, max_budget or num_examples)
    return replace(ordering, guard=guard if options.guard.rules else None)


def _check_selector(selector: Selector) -> None:
    lacking = [name for name in _ATTRIBUTES if not hasattr(selector, name)]
    if lacking:
        raise UserError(
            f"{shown(selector)} is not a selector: it lacks {', '.join(lacking)}; "
            "see s2l_ray.selection.selector.Selector"
        )
    if not isinstance(selector.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", selector.name):
        raise UserError(
            f"{shown(selector.name)} cannot be the name of a selector, which is part of file names; use lower-case "
            "letters, digits and underscores, starting with a letter"
        )
    if not (isinstance(selector.Options, type) and issubclass(selector.Options, SelectorOptions)):
        raise UserError(f"the Options of selector {selector.name} must be a subclass of SelectorOptions")


def _checked(selector: Selector, options: SelectorOptions | None) -> SelectorOptions:
    if options is None:
        return selector.Options()
    if not isinstance(options, selector.Options):
        raise UserError(
            f"the options of the selector {selector.name} must be {selector.Options.__name__}, not "
            f"{type(options).__name__}; create them with resolve_options"
        )
    return options


@functools.cache
def _selectors() -> dict[str, Selector]:
    """Return this process's table of selectors; entry points are loaded on first use."""
    known = {selector.name: selector for selector in _BUILT_IN}
    for selector in _offered():
        if selector.name in known:
            raise UserError(
                f"the selector {selector.name} of {type(selector).__module__} has a name that is already in use; "
                "remove one of the packages"
            )
        known[selector.name] = selector
    return known


@functools.cache
def _offered() -> tuple[Selector, ...]:
    """Load the selectors of installed packages."""
    found = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        with foreign_named(UserError, f"the selector {entry.name} of {entry.value} cannot be loaded",
                           "Repair or remove the package that offers it"):  # fmt: skip
            selector = entry.load()
            _check_selector(selector)
        found.append(selector)
    return tuple(found)
