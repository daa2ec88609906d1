"""Selection: losses, clusters and scores determine an order of all examples, from which subsets of any size are cut.

Pure numpy, with faiss for neighbours and clusters; neither Ray nor torch.
"""

from s2l_ray.selection.allocation import AllocationRule, GroupLabel, power_quotas
from s2l_ray.selection.guards import GuardReport, HeldOutRecord, evaluate_guard
from s2l_ray.selection.inputs import ArrayEmbeddings, EmbeddingReader, Facet, SelectionInputs
from s2l_ray.selection.options import GuardOptions, SelectorOptions
from s2l_ray.selection.ordering import GroupQuota, Ordering, Selection
from s2l_ray.selection.registry import (
    UnknownSelector,
    describe_selectors,
    get_selector,
    list_selectors,
    needs_of,
    order_examples,
    register,
    resolve_options,
)
from s2l_ray.selection.selector import Selector
from s2l_ray.selection.signals import MissingSignal
from s2l_ray.selection.weights import cluster_weights

__all__ = [
    "AllocationRule",
    "ArrayEmbeddings",
    "EmbeddingReader",
    "Facet",
    "GroupLabel",
    "GroupQuota",
    "GuardOptions",
    "GuardReport",
    "HeldOutRecord",
    "MissingSignal",
    "Ordering",
    "Selection",
    "SelectionInputs",
    "Selector",
    "SelectorOptions",
    "UnknownSelector",
    "cluster_weights",
    "describe_selectors",
    "evaluate_guard",
    "get_selector",
    "list_selectors",
    "needs_of",
    "order_examples",
    "power_quotas",
    "register",
    "resolve_options",
]
