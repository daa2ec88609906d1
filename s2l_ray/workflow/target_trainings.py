"""Trains a run's targets: one after another, or several in parallel if a single machine has the resources."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.stage import Stage, StageSpec
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.heldout.stage import heldout_spec
from s2l_ray.stages.heldout_evaluation.stage import base_evaluation_spec, heldout_evaluation_spec
from s2l_ray.stages.heldout_scores import HeldOutScores
from s2l_ray.stages.target.stage import target_spec
from s2l_ray.stages.tokens.stage import tokens_spec


@dataclass
class _Training:
    spec: StageSpec
    tokens: Stage
    heldout: Stage | None
    scores: HeldOutScores | None
    scores_base: str
    """The target in whose training the initial model, which this one shares, is scored."""
    making: Future[Stage] | None
    """The training in its thread; None: the target is trained when `finish` is called."""


class TargetTrainings:
    """Starts the training of targets and waits for it. A context manager: an exception stops all trainings in progress,
    which can later resume from their checkpoints.

    A thread only builds the target's own stage. The stages before and after it, and the record of the run, stay in the
    caller's thread, so that the stages of a run have the same order however many targets train at once.

    Args:
        at_once: how many targets may train at once; 1: each is trained by `finish`, in the caller's thread.
    """

    def __init__(self, context: RunContext, at_once: int = 1) -> None:
        self._context = context
        self._begun: dict[str, _Training] = {}
        self._scores_base: dict[str, str] = {}
        """Key of the base model's evaluation → the first target that starts from that model, whose training scores
        it."""
        self._threads = ThreadPoolExecutor(at_once, "s2l-target") if at_once > 1 else None

    def __enter__(self) -> TargetTrainings:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._threads is None:
            return
        if kind is not None:
            from s2l_ray.execution.training_task import end_trainings

            self._threads.shutdown(wait=False, cancel_futures=True)
            going = [training.making for training in self._begun.values() if training.making is not None]
            while going := [making for making in going if not making.done()]:  # one of them may just be about to start
                end_trainings(self._context.run.storage)
                wait(going, timeout=0.2)
        self._threads.shutdown()

    def begin(self, name: str) -> None:
        """Train the target on the subset called `name`, or on everything (`full`), as soon as there is room.

        Its tokens and the held-out sets are built before this returns.
        """
        if name not in self._begun:
            self._begun[name] = training = self._prepare(name)
            if self._threads is not None:
                training.making = self._threads.submit(self._context.runner.make, training.spec)

    def finish(self, name: str) -> Stage:
        """Wait for the target's training, evaluate it on the held-out sets, and return it."""
        self.begin(name)
        training, runner = self._begun[name], self._context.runner
        trained = runner.record(self._wait(training.making) if training.making else runner.make(training.spec))
        if training.heldout is None or training.scores is None:
            return trained
        training.scores.trained(trained)
        first = self._begun[training.scores_base]
        if first.making is not None and first.scores is not None:
            first.scores.trained(self._wait(first.making))
        base = runner.ensure(base_evaluation_spec(self._context, training.tokens, training.heldout, first.scores))
        runner.ensure(heldout_evaluation_spec(self._context, name, trained, base, training.heldout, training.scores))
        return trained

    def _prepare(self, name: str) -> _Training:
        context, run, ensure = self._context, self._context.run, self._context.runner.ensure
        target = context.config.target
        assert target is not None
        corpus, corpus_tokens = run.stage("corpus"), run.stage("tokens")
        subset = None if name == FULL else run.subset(name)
        tokens = ensure(tokens_spec(context, corpus, target, f"target-tokens/{name}", subset))
        wanted = heldout_spec(context, corpus, tokens)
        heldout, scores, first = None, None, name
        if wanted is not None:
            heldout = ensure(wanted)
            base = base_evaluation_spec(context, tokens, heldout)
            first = self._scores_base.setdefault(base.key, name)
            scores = HeldOutScores(
                context, name, tokens, heldout, lambda: first != name or context.runner.find(base) is not None
            )
        spec = target_spec(context, name, subset, tokens, corpus_tokens, heldout, scores)
        return _Training(spec, tokens, heldout, scores, first, None)

    def _wait(self, wanted: Future[Stage]) -> Stage:
        """Wait for one training; raises the error of any training immediately."""
        going = [training.making for training in self._begun.values() if training.making is not None]
        while not wanted.done():
            done, _ = wait(going, return_when=FIRST_EXCEPTION, timeout=0.5)
            for each in done:
                each.result()
        return wanted.result()
