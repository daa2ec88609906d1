"""Checks before any node is started: models, tokenizers, held-out files, DeepSpeed's file, loggers.

Loads no weights.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from s2l_ray.artifacts.runner import check_run_writable
from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import UserError, foreign_named, shown
from s2l_ray.selection.gradient_sample import LEAST_PER_CLUSTER
from s2l_ray.storage.filesystems import absolute
from s2l_ray.storage.folder import Storage
from s2l_ray.text.redact import strip_credentials


class PreflightError(UserError):
    """The run would fail later; the message says why and how to fix it."""


def preflight(config: S2LConfig, opened: Storage | None = None) -> None:
    """Raises ModelError, ZeroConfigError, HeldOutError, … or PreflightError for what would fail hours later.

    Args:
        opened: the folder of the run that is continued, which may have been moved from where its configuration says;
            None: that of the configuration, which need not exist yet.
    """
    from s2l_ray.execution.local_ray import check_temp_folder
    from s2l_ray.execution.session import is_embedded
    from s2l_ray.observability.loggers import check_loggers
    from s2l_ray.stages.evaluation.models import check_subsets
    from s2l_ray.stages.evaluation.tasks import check_evaluation
    from s2l_ray.stages.heldout.stage import check_heldout_files, check_objective_set
    from s2l_ray.stages.query_files import check_query_files

    if opened is None:
        _check_folder(config.run_uri)
    else:
        check_run_writable(opened)
    if is_embedded(config.resources):
        check_temp_folder()
    check_loggers(config.loggers)
    on_cpu = config.resources.device == "cpu"
    for model in (config.proxy, config.target):
        if model is not None:
            _check_model(model, is_embedded(config.resources), on_cpu and model is config.proxy)
    check_query_files(config)
    _check_gradients(config)
    if config.target is not None:
        _check_target(config.target, config.resources.target.workers)
        check_objective_set(config)
        check_heldout_files(config)
    if config.evaluation is not None:
        check_evaluation(config)
        check_subsets(config)


def _check_gradients(config: S2LConfig) -> None:
    """Refuse a sample too small to have two examples of every cluster, which would otherwise fail only after
    clustering."""
    num_clusters = config.clusters.num_clusters
    needed = LEAST_PER_CLUSTER * num_clusters
    if config.gradients is not None and config.gradients.num_examples < needed:
        raise PreflightError(
            f"gradients.num_examples={config.gradients.num_examples:,} is less than two for each of "
            f"clusters.num_clusters={num_clusters:,}, so differences within clusters could not be measured; raise it "
            f"to {needed:,}, lower clusters.num_clusters, or remove the section gradients"
        )


def without_evaluation(config: S2LConfig) -> S2LConfig:
    """The configuration for a command that asks no test questions, so that nothing in that section can cause a
    refusal."""
    return config.model_copy(update={"evaluation": None})


def _check_folder(run_uri: str) -> None:
    _refuse_lost_folder(run_uri)
    name = f"run_dir={shown(strip_credentials(run_uri))}"
    with foreign_named(PreflightError, f"{name} cannot be accessed", "Check that you can write to it, or set another"):
        _refuse_folder_within_run(run_uri)
        _refuse_others_config(run_uri)
        check_run_writable(Storage.open(run_uri), name, "choose another run_dir")


def _refuse_lost_folder(run_uri: str) -> None:
    """Refuse a folder in a Ray job's copy of its working directory, which Ray deletes some time after the job."""
    if "/runtime_resources/working_dir_files/" in absolute(run_uri):
        raise PreflightError(
            f"run_dir={run_uri} would be in this job's temporary working directory and be lost with it; set "
            "run_dir=s3://bucket/… or a folder that all nodes mount"
        )


def _refuse_folder_within_run(run_uri: str) -> None:
    """Refuse a folder inside another run's, because rebuilding a stage of that run deletes unknown files in its
    folder."""
    from s2l_ray.data.discovery import run_folder_above

    outer = run_folder_above(run_uri)
    if outer is not None:
        raise PreflightError(
            f"run_dir={strip_credentials(run_uri)} would be inside another run's folder ({outer}), and that run "
            "deletes unknown files when it rebuilds a stage; set run_dir to a folder outside it"
        )


def _refuse_others_config(run_uri: str) -> None:
    """Refuse a folder whose `config.yaml` no run has written, because the run would overwrite it with its own."""
    from s2l_ray.artifacts.run import CONFIG, RunError, read_config
    from s2l_ray.config.load import to_yaml
    from s2l_ray.config.stored import state_of
    from s2l_ray.data.discovery import run_folder_of

    storage = Storage.open(run_uri)
    if not storage.exists(CONFIG) or run_folder_of(run_uri) is not None:
        return
    try:
        content = storage.read_bytes(CONFIG)
        if state_of(content) == "intact" or content == to_yaml(read_config(storage)).encode():
            return  # of a run whose log and locks were left out of a copy
    except RunError:
        pass
    raise PreflightError(
        f"run_dir={strip_credentials(run_uri)} has a {CONFIG} that no run has written, and a run would overwrite it "
        "with its own; set run_dir to a folder of its own, such as runs/my"
    )


def _check_model(model: TrainedModelConfig, embedded: bool, trains_here: bool) -> None:
    """Check a section's model.

    Args:
        embedded: the model is loaded on this machine.
        trains_here: it is also trained in this machine's memory.
    """
    from s2l_ray.execution.placement import host_memory_bytes
    from s2l_ray.lm.checks import check_folder, check_size, foreign_refused, meta_model
    from s2l_ray.lm.load import check_length, check_tokenizer, load_model_config, load_tokenizer
    from s2l_ray.lm.vocabulary import check_trained_vocabulary, num_token_ids

    with foreign_refused(f"the model or tokenizer of the {model.section} cannot be used", "Use another one"):
        if model.train_tokenizer is not None:
            model_config = load_model_config(model, vocab_size=model.train_tokenizer.vocab_size)
            check_trained_vocabulary(model_config, model)
        else:
            tokenizer = load_tokenizer(model)
            check_tokenizer(tokenizer, model)
            model_config = load_model_config(model, vocab_size=num_token_ids(tokenizer))
            _check_prompt_format(model, model_config, tokenizer)
        check_length(model_config, model)
        check_folder(model)
        built = meta_model(model_config, model)
        if embedded:
            # Weights in fp32 and, if it is trained here, gradients and both of Adam's moments.
            check_size(built, model, host_memory_bytes(), 16 if trains_here else 4)


def _check_prompt_format(model: TrainedModelConfig, model_config: Any, tokenizer: Any) -> None:
    """Check that the parts common to all examples can be rendered, fit into `max_length`, and have embeddings."""
    from s2l_ray.data.render import Style, largest_probe_id, options_of
    from s2l_ray.lm.vocabulary import check_token_ids

    style: Style = "chat_template" if model.render == "chat_template" else "turns"
    try:
        largest = largest_probe_id(tokenizer, style, model.max_length, **options_of(model))
    except UserError as error:
        raise PreflightError(f"{model.section}: {error}") from None
    check_token_ids(largest, model_config, tokenizer, model, "every example contains")


def _check_target(target: TargetConfig, workers: int | None) -> None:
    if target.lora is not None:
        _import("peft", "target.lora", "leave target.lora out")
    if target.zero_stage in (1, 2, 3):
        _import("deepspeed", f"target.zero_stage={target.zero_stage}", "set target.zero_stage=0")
        from s2l_ray.lm.zero_config import Precision, make_zero_config

        # Batch sizes in the user's file are checked again once the number of workers is known.
        precision: Precision = "fp32" if target.precision == "fp32" else "bf16"
        what = f"target.deepspeed_config={shown(target.deepspeed_config)} cannot be used"
        if workers is not None or target.deepspeed_config is None:
            with foreign_named(PreflightError, what, "Correct it, or leave it out"):
                make_zero_config(target, target.zero_stage, precision, workers or 1, target.max_grad_norm)


def _import(package: str, wanted: str, else_: str) -> None:
    """Refuse a package that is missing, or is installed but cannot be imported, before the target fails hours later."""
    cure = f'pip install "s2l_ray[target]", here and on every node, or {else_}'
    what = f"{wanted} needs the package {package}, which is installed but cannot be imported"
    with foreign_named(PreflightError, what, f"Install compatible versions (constraints.txt; {cure})"):
        if importlib.util.find_spec(package) is None:
            raise PreflightError(f"{wanted} needs the package {package}, which is not installed; {cure}")
        if package == "deepspeed":
            from s2l_ray.lm.zero import import_deepspeed

            import_deepspeed()
        else:
            importlib.import_module(package)
