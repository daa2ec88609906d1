"""The section `selection`: which selectors choose how much, and what their choice is based on.

A setting for all selectors applies to those that have it and overrides their defaults; `options` overrides it for one
selector. None always means the selector's own default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator
from pydantic.fields import FieldInfo

from s2l_ray.config.budgets import check_budgets, plain_budgets
from s2l_ray.config.section import Location, Section, above_limit, bounded, refuse_repeated
from s2l_ray.errors import UserError, listed, shown

if TYPE_CHECKING:
    from s2l_ray.selection.registry import SelectorOptions

Snapshot = Literal["late", "early", "start", "first"]
GuardRule = Literal["rise", "not_learnt", "prompt_gain", "local"]
Weighting = Literal["none", "cluster"]

SOURCES = "sources"
"""The need for the source of every example."""
QUERY = "query_embeddings"
"""The need for (Q, d) embeddings of the user's own examples of the task."""
SCALARS = ("mean_probability", "min_probability", "token_accuracy", "el2n")
"""Columns that scoring writes at every snapshot beside the loss; all come from logits that the loss needs anyway."""
LOSS_UNCONDITIONAL = "loss_unconditional"
EMBEDDINGS = ("embedding", "prompt_embedding", "position_weighted_embedding")
PASSES = (*EMBEDDINGS, LOSS_UNCONDITIONAL)
"""Columns computed only where a selector asks for them: each takes a pass over the corpus with a snapshot's weights."""
FACET = "facet:"
"""Prefix of needs that name a facet."""

RULE_OF = {"max_rise_nats": "rise", "max_local_excess_nats": "local", "neighbours": "local"}
"""Setting of a guard → the rule that reads it."""


class GuardConfig(Section):
    rules: list[GuardRule] | None = None
    """Which examples are selected after all others: `rise`, whose loss ends above its minimum; `not_learnt`, whose loss
    ends no lower than it began; `prompt_gain`, whose loss the prompt does not lower; `local`, whose loss exceeds that
    of the nearest prompts. []: none, even if the selector has its own."""
    max_rise_nats: float | None = bounded(None, 1e6, "no loss rises that far", ge=0)
    """`rise`: how far the last loss may be above the minimum (nats per token); None: 0.2."""
    max_local_excess_nats: float | None = bounded(None, 1e6, "no loss is that far above the others", ge=0)
    """`local`: how far the last loss may be above the neighbours' median (nats per token); None: 1."""
    neighbours: int | None = bounded(None, 1024, "neighbours that far away carry no information", ge=1)
    """`local`: how many nearest prompts to compare with; None: 20."""
    min_kept_share: float | None = bounded(None, 1.0, "a share cannot exceed 1", ge=0)
    """Fail if a smaller share of the examples would remain eligible; None: 0.8."""

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ReferenceConfig(Section):
    model: Literal["proxy", "target"] = "proxy"
    """Model that provides scores and embeddings. `target`: the target, first fine-tuned on everything, which costs more
    than any subset saves on a single target; see `s2l run --dry-run`. Trajectories and clusters still use the proxy."""
    snapshot: Snapshot | None = None
    """Snapshot of that model that selectors score with: `late` (last), `early` (first at or after `early_share` of the
    steps), `first` (first recorded), or `start` (untrained, with trajectories.include_step_zero). For the target,
    `first` and `start` both mean the model before fine-tuning."""
    early_share: float = bounded(0.1, 1.0, "the end of training", ge=0)
    """Position of the early snapshot: the first at or after this share of the optimiser steps."""
    embedding_dim: int | None = bounded(None, 65_536, "no model's hidden states are that wide", ge=2)
    """Project embeddings to this many dimensions with random signs, if the corpus is too large to store them in full
    (float16); None: the full dimension."""


class QueryConfig(Section):
    paths: list[Location] = Field(default=[])
    """Files with your own examples of the task, prompts with responses, for selectors that choose the nearest examples.
    Read like the corpus if their columns match, otherwise in their own format."""


class SelectionConfig(Section):
    budgets: list[int | float] = Field(default=[0.11])
    """Sizes of the subsets: whole numbers are counts of examples, fractions (0, 1] shares of the corpus."""
    selectors: list[str] = Field(default=["s2l"])
    """Selection rules; `s2l selectors` lists them."""
    stratify: bool | str = False
    """Balance sources first and select within each (for s2l, as in the authors' code), instead of globally (Algorithm
    1); or, with the name of a facet, balance its values (see corpus.facets)."""
    seed: int | None = bounded(None, 2**32 - 1, "the largest seed that all libraries accept, 32 bits", ge=0)
    """Seed of this section; None: the run's seed."""
    allocation_exponent: float | None = bounded(None, 1.0, "small clusters would contribute nothing", ge=0)
    """α: clusters are weighted by size^α. 0 takes the same number from each (the paper), 1 in proportion to size."""
    weights: Weighting | None = None
    """`cluster`: weight selected examples by the number they represent, in the subset's files and the target's loss."""
    weights_cap: float | None = bounded(None, 1e6, "a single example could dominate a batch", ge=1)
    """Largest weight, in multiples of the median; None: 10."""
    reference: ReferenceConfig = ReferenceConfig()
    """Model and snapshot that provide the scores and embeddings used by selectors."""
    query: QueryConfig = QueryConfig()
    """Your own examples of the task, for `rds_plus`."""
    guard: GuardConfig = GuardConfig()
    """Rules against wrong answers: flagged examples are selected after all others, and counted."""
    options: dict[str, dict[str, Any]] = Field(default={})
    """Settings of individual selectors (`facility_location: {neighbours: 64}`)."""

    @field_validator("budgets", mode="before")
    @classmethod
    def _plain(cls, budgets: Any) -> Any:
        if isinstance(budgets, list) and any(isinstance(b, bool) for b in budgets):
            raise ValueError(
                f"{budgets!r} holds a boolean, which is neither a count nor a share; give for example [0.11]"
            )
        return plain_budgets(budgets)

    @field_validator("budgets")
    @classmethod
    def _budgets(cls, budgets: list[int | float]) -> list[int | float]:
        if not budgets:
            raise ValueError("selection.budgets is empty: no subset would be chosen; give for example [0.11]")
        return check_budgets("selection.budgets", budgets)

    @field_validator("selectors")
    @classmethod
    def _selectors(cls, names: list[str]) -> list[str]:
        from s2l_ray.selection.registry import get_selector

        for name in names:
            get_selector(name)
        if not names:
            raise ValueError("selection.selectors is empty: no subset would be chosen; give for example [s2l]")
        refuse_repeated("selection.selectors", names)
        return names

    def shared(self) -> dict[str, Any]:
        """The settings for all selectors, under the names of their options."""
        found = {
            "stratify": self.stratify or None, "allocation_exponent": self.allocation_exponent,
            "weights": self.weights, "weights_cap": self.weights_cap, "reference": self.reference.snapshot,
            "guard": self.guard.given() or None,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def options_of(self, selector: str) -> SelectorOptions:
        """The selector's typed options: settings for all selectors, overridden by those for this one."""
        from s2l_ray.selection.registry import resolve_options

        return resolve_options(selector, self.options.get(selector), self.shared())

    def needs_of(self, selector: str) -> frozenset[str]:
        """What the selector reads; see selection.signals."""
        from s2l_ray.selection.registry import needs_of

        return needs_of(selector, self.options_of(selector))

    def query_need(self, selector: str) -> str | None:
        """The embedding by which the selector compares the user's examples of the task, as `column@snapshot`; None if
        it does not use them.

        Raises:
            UserError: the selector reads several embeddings, or none, to compare them with.
        """
        from s2l_ray.selection.registry import get_selector

        needs = frozenset(get_selector(selector).needs(self.options_of(selector)))
        if QUERY not in needs:
            return None
        found = sorted(need for need in needs if need.partition("@")[0] in EMBEDDINGS)
        if len(found) != 1:
            others = ", ".join(found) or "no embedding"
            raise UserError(
                f"the selector {selector} reads examples of the task ({QUERY}), and {others} to compare them with; it "
                "must read exactly one embedding"
            )
        return found[0]

    def subset_name(self, selector: str, budget: int | float) -> str:
        """The subset's name, such as `s2l-0.11`; 1 example and 1.0, all of them, differ."""
        mark = "-stratified" if getattr(self.options_of(selector), "stratify", False) else ""
        return f"{selector}{mark}-{budget!r}"

    def settings_of(self, selector: str) -> dict[str, Any]:
        """Settings that the selection depends on besides inputs, budget and seed; those at their defaults are left
        out."""
        options = self.options_of(selector)
        settings: dict[str, Any] = {"stratify": getattr(options, "stratify", False)}
        if changed := options.model_dump(mode="json", exclude_defaults=True, exclude={"stratify"}):
            settings["options"] = changed
        needs = self.needs_of(selector)
        if any(need.endswith("@early") for need in needs):
            settings["early_share"] = self.reference.early_share
        if self.reference.embedding_dim is not None and reads_embeddings(needs):
            settings["embedding_dim"] = self.reference.embedding_dim
        if self.reference.model != "proxy" and at_reference(needs):
            settings["reference_model"] = self.reference.model
        return settings

    def facets_needed(self) -> dict[str, str]:
        """Facet → the selector that reads it."""
        needs = {need: name for name in self.selectors for need in self.needs_of(name)}
        return {need.removeprefix(FACET): name for need, name in needs.items() if need.startswith(FACET)}

    def contradictions(self) -> Iterator[str]:
        faults = list(self._faults_of_options())
        yield from faults
        if not faults:
            yield from self._without_effect()
            yield from self._guard_without_effect()

    def _faults_of_options(self) -> Iterator[str]:
        for name in dict.fromkeys([*self.options, *self.selectors]):
            try:
                self.options_of(name)
            except ValidationError as error:
                for fault in error.errors(include_url=False):
                    place = ".".join(map(str, fault["loc"]))
                    value = shown(fault["input"])
                    if (excess := above_limit(_option_at(name, fault["loc"]), fault["type"])) is not None:
                        yield f"the options of {name}: {place}: {value} {excess}"
                        continue
                    said = fault["msg"].removeprefix("Value error, ")
                    yield f"the options of {name}: {place}: {said[:1].lower()}{said[1:]}, got {value}"
            except UserError as error:
                yield str(error)

    def _without_effect(self) -> Iterator[str]:
        for key, value in self.shared().items():
            if not any(takes(name, key) for name in self.selectors):
                here = "reference.snapshot" if key == "reference" else key
                asked = "true" if value is True else value
                yield (
                    f"{here}={asked} would do nothing: the selector {', '.join(self.selectors)} does not take it; "
                    f"leave it out, or choose {', '.join(listed(_that_take(key), 4))}"
                )
        weighted = any(getattr(self.options_of(name), "weights", "none") != "none" for name in self.selectors)
        if self.weights_cap is not None and not weighted:
            cap = f"weights_cap={self.weights_cap:g}"
            yield f"{cap} would do nothing without weights; set weights=cluster, or leave it out"
        default = type(self.reference).model_fields["early_share"].default
        early = any(need.endswith("@early") for name in self.selectors for need in self.needs_of(name))
        if self.reference.early_share != default and not early:
            yield (
                f"reference.early_share={self.reference.early_share:g} would do nothing: no selector looks at the "
                "early snapshot; set reference.snapshot=early, or leave it out"
            )

        model = self.reference.model
        if model != "proxy" and not any(at_reference(self.needs_of(name)) for name in self.selectors):
            yield (
                f"reference.model={model} would do nothing: no selector scores by one snapshot; leave it out, or "
                f"choose {', '.join(listed(_that_take('reference'), 4))}"
            )
        dim = self.reference.embedding_dim
        if dim is not None and not any(reads_embeddings(self.needs_of(name)) for name in self.selectors):
            yield f"reference.embedding_dim={dim} would do nothing: no selector looks at embeddings; leave it out"

    def _guard_without_effect(self) -> Iterator[str]:
        used = {rule for name in self.selectors for rule in self.options_of(name).guard.rules}
        for key, value in self.guard.given().items():
            rule = RULE_OF.get(key)
            if key != "rules" and (rule not in used if rule else not used):
                add = f"guard.rules=[{rule}]" if rule else "guard.rules"
                yield f"guard.{key}={value} would do nothing without {rule or 'a rule'}; set {add} too, or leave it out"


def options_class(selector: str) -> type[BaseModel]:
    """The section of a selector's options. Raises UserError if there is no such selector."""
    from s2l_ray.selection.registry import get_selector

    return get_selector(selector).Options


def _option_at(selector: str, path: Sequence[int | str]) -> FieldInfo | None:
    """The field of a selector's options at `path`; None if there is none."""
    fields: Mapping[str, FieldInfo] = options_class(selector).model_fields
    for name in path[:-1]:
        inner = fields[str(name)].annotation if str(name) in fields else None
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return fields.get(str(path[-1])) if path else None


def at_reference(needs: Iterable[str]) -> list[str]:
    """Those of one snapshot, which is the reference model's; `losses` and `column@all` are the proxy's."""
    return sorted(need for need in needs if "@" in need and not need.endswith("@all"))


def reads_embeddings(needs: Iterable[str]) -> bool:
    return any("embedding" in need for need in needs)


def takes(selector: str, option: str) -> bool:
    """Whether an option that is set for all means anything to this one."""
    from s2l_ray.selection.registry import get_selector

    return option in get_selector(selector).Options.model_fields


def _that_take(option: str) -> list[str]:
    from s2l_ray.selection.registry import list_selectors

    return [one.name for one in list_selectors() if takes(one.name, option)]


_OPTIONS = TypeAdapter(dict[str, dict[str, Any]])


def for_selector(tree: dict[str, Any], selector: str) -> dict[str, Any]:
    """The section as plain data, for this selector alone: what is set and means nothing to it is left out."""
    tree = tree | {"selectors": [selector]}
    try:
        unset = {"stratify": False, "allocation_exponent": None, "weights": None, "weights_cap": None}
        tree |= {key: value for key, value in unset.items() if not takes(selector, key)}
        reference = ReferenceConfig.model_validate(tree.get("reference") or {})
        guard = GuardConfig.model_validate(tree.get("guard") or {})
        options = _OPTIONS.validate_python(tree.get("options") or {})
        loose = SelectionConfig.model_construct(**(tree | {"reference": reference, "guard": guard, "options": options}))
        rules = loose.options_of(selector).guard.rules
        needs = loose.needs_of(selector)
    except (UserError, ValidationError):
        return tree  # validation of the whole configuration says what is wrong
    kept = {"model"} if at_reference(needs) else set()
    kept |= {"snapshot"} if takes(selector, "reference") else set()
    kept |= {"early_share"} if any(need.endswith("@early") for need in needs) else set()
    kept |= {"embedding_dim"} if reads_embeddings(needs) else set()
    tree["reference"] = reference.model_dump(include=kept)
    if QUERY not in needs:
        tree["query"] = {}
    of_rules = {key for key in RULE_OF if RULE_OF[key] in rules} | ({"min_kept_share"} if rules else set())
    tree["guard"] = guard.model_dump(include=of_rules | {"rules"})
    return tree
