"""fp32 or bf16: resolves `precision: auto` from the workers' hardware and the model's size.

The result is stored with the run: if it is resumed on another kind of machine, another precision would restart its
trainings from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.errors import first_line
from s2l_ray.execution.node_facts import NodeFacts
from s2l_ray.execution.placement import PlacementError
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageError

Precision = Literal["fp32", "bf16"]

MIN_CPU_WIDTH = 512
"""Hidden size from which bf16 pays off on CPUs with matrix units. Measured with AMX on two cores: at 512 (Pythia-70M)
training is 1.7 and scoring 1.9 times as fast as in fp32, at 576 (SmolLM2-135M) 1.9 and 2.8 times; at 48 and 96 both are
half as fast, because casting takes longer than multiplying."""

_NOTE = "precision.json"


def choose_precision(model: TrainedModelConfig, device: str, nodes: Sequence[NodeFacts], width: int) -> Precision:
    """Resolve the section's `precision` for these nodes.

    Args:
        device: cpu or gpu.
        nodes: nodes that may get the model's workers; empty if they are not up yet.
        width: the model's hidden size.

    Raises:
        PlacementError: bf16 is required, but the hardware does not support it.
    """
    lacking = [n for n in nodes if not (n.gpus_have_bf16 if device == "gpu" else n.cpu_multiplies_bf16)]
    if model.precision == "auto":
        wide = device == "gpu" or (bool(nodes) and width >= MIN_CPU_WIDTH)
        return "bf16" if wide and not lacking else "fp32"
    if model.precision == "bf16" and lacking:
        what = "GPUs before compute capability 8.0 lack bf16" if device == "gpu" else "CPUs without amx_bf16"
        raise PlacementError(
            f"{model.section}.precision=bf16 on {lacking[0].name} would be unusably slow ({what}); use fp32 (auto "
            "chooses it there)"
        )
    return model.precision


def keep_precision(
    storage: Storage, model: TrainedModelConfig, chosen: Precision, say: Callable[[str], None]
) -> Precision:
    """The precision of this run's model: `chosen`, or the one the run began with; reports if they differ.

    Args:
        storage: the run's folder; its lock is held.
    """
    if model.precision != "auto":
        return chosen
    fields = model.stored(include={"model", "revision", "gguf_file", "from_config", "random_weights"})
    identity, noted = fingerprint([model.section, fields])[:16], _read_note(storage, say)
    kept = noted.get(identity, chosen)
    if identity not in noted:
        kept_now = noted | {identity: chosen}
        storage.write_json(_NOTE, {"precisions": kept_now, "digest": fingerprint(kept_now)})
    elif kept != chosen:
        cost = "slowly" if kept == "bf16" else "more slowly than it could"
        say(
            f"[{model.section}] this run started in {kept} and stays with it, {cost} on this hardware, because another "
            f"precision would start over. To start over, set {model.section}.precision={chosen}"
        )
    return kept


def _read_note(storage: Storage, say: Callable[[str], None]) -> dict[str, Precision]:
    """The precisions by model, also as earlier versions noted them, without a digest; those of a damaged note are not
    used: at worst, a stage is rebuilt."""
    try:
        found = storage.read_json(_NOTE)
        precisions = found["precisions"] if "digest" in found else found
        if "digest" in found and fingerprint(precisions) != found["digest"]:
            raise ValueError("its digest does not fit")
        if not all(value in ("fp32", "bf16") for value in precisions.values()):
            raise ValueError("it holds something other than fp32 and bf16")
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StorageError) as error:
        say(
            f"[run] {storage.uri_of(_NOTE)}, which says in which precision this run trains, was changed or is damaged "
            f"({first_line(error)}): `precision: auto` is decided anew. If that is another than before, models are "
            "trained again; to keep the earlier one, set proxy.precision and target.precision"
        )
        return {}
    return dict(precisions)
