"""Measures the proxy's competence on examples that it was not trained on: the corpus's held-out share, scored in the
middle and at the end of training. Guards against wrong answers are blind if the proxy memorises; this shows if it does.

Memory: the held-out share and its tokens on the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s2l_ray.artifacts.models import CorpusArtifact, ProxyArtifact
from s2l_ray.artifacts.points import middle_point
from s2l_ray.artifacts.snapshots import Snapshot, weights_folder
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.model import RENDER_FIELDS
from s2l_ray.config.schema import S2LConfig
from s2l_ray.stages.competence import competence_name
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.reference import SCORES
from s2l_ray.stages.signals.query import write_parts
from s2l_ray.stages.signals.stage import Pass, run_signals
from s2l_ray.stages.tokenizer import open_tokenizer, tokenizer_fingerprint
from s2l_ray.storage.folder import Storage


def competence_specs(
    context: RunContext, selectors: Iterable[str], corpus: Stage, tokens: Stage, proxy: Stage
) -> list[StageSpec]:
    """Specify one stage for each snapshot with weights; none if no selector has a guard, or nothing is held out."""
    config = context.config
    guarded = any(config.selection.options_of(name).guard.rules for name in selectors)
    if not guarded or not CorpusArtifact.of(corpus).heldout["rows"]:
        return []
    snapshots = [Snapshot(**one) for one in ProxyArtifact.of(proxy).snapshots]
    middle, found = middle_point(snapshots), []
    if middle is not None and any(o.name.startswith(weights_folder(middle)) for o in proxy.manifest.outputs):
        found.append(_spec(context, corpus, tokens, proxy, snapshots[middle].step, weights_folder(middle).rstrip("/")))
    return [*found, _spec(context, corpus, tokens, proxy, snapshots[-1].step, "model")]


def _spec(context: RunContext, corpus: Stage, tokens: Stage, proxy: Stage, step: int, folder: str) -> StageSpec:
    config, made = context.config, CorpusArtifact.of(corpus)
    wanted = Pass("proxy", SCORES, step, None, tokens, proxy, folder)

    def build(out: Storage) -> StageResult:
        parts = _tokenise(config, corpus, tokens, out.sub("tokens"))
        return run_signals(context, wanted, "scores of all held-out examples", parts, out.sub("tokens"), out)

    settings = wanted.settings(context) | config.proxy.stored(include={*RENDER_FIELDS, "max_length"})
    inputs = wanted.inputs(context) | {"tokenizer": tokenizer_fingerprint(tokens), "split": made.heldout["fingerprint"]}
    return StageSpec(f"signals/{competence_name(step)}", settings, inputs, build, kind="signals")


def _tokenise(config: S2LConfig, corpus: Stage, tokens: Stage, folder: Storage) -> Sequence[tuple[int, int]]:
    from s2l_ray.data import user_files
    from s2l_ray.data.render import renderer_of

    made = CorpusArtifact.of(corpus)
    rows = user_files.read_split(corpus.storage, made.heldout["parts"])
    render = renderer_of(config.proxy, made.rendered_format, open_tokenizer(tokens))
    table, _ = user_files.tokenise("heldout.share", rows, render, user_files.UserFileError)
    return write_parts(table, folder)
