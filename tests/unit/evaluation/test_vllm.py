"""What vLLM is given and what is made of its answers, without vLLM: the rows, Ray's own configuration, parts and their
resuming, which engine a node's packages and cards allow, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from s2l_ray.config import load_config
from s2l_ray.config.evaluation import EvaluationConfig, GenerationConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import PROGRAM_STEM
from s2l_ray.evaluation.questions import parts, read_questions
from s2l_ray.evaluation.sandbox import SandboxSettings
from s2l_ray.evaluation.tasks import Task
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.generate import Decoding, Generated, Generator
from s2l_ray.stages.evaluation.engines import Engine, EngineNode, choose_engine
from s2l_ray.stages.evaluation.generate_vllm import (
    BATCH,
    Request,
    VllmTask,
    answer,
    completion_of,
    model_of,
    processor_config,
    remote_options,
    rows_of,
)
from s2l_ray.stages.evaluation.part import PartJob, Wanted
from s2l_ray.stages.evaluation.tasks import check_evaluation
from s2l_ray.stages.evaluation.worker import EvaluationWorker, ModelJob
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.answering_model import questions

NUM, PER_PART = 24, 8
TASK = Task("mine", "number")
ON_GPUS = Placement("gpu", 3, 2.0, 1.0, "H100", 8, {"memory": 5.0, "fast": 1.0})
VLLM = Engine("vllm", "bfloat16", "0.29.0", True)
HOPPER = EngineNode("a", "0.29.0", "NVIDIA H100", (9, 0))
BY_ID = ModelSource(TargetConfig(model="EleutherAI/pythia-70m", revision="abc", max_length=64))


def configured(**generation: Any) -> EvaluationConfig:
    return EvaluationConfig(tasks=["gsm8k"], generation=GenerationConfig(**generation))


# Rows, and Ray's configuration.


def test_ids_go_in_and_only_ends_of_training_end_a_completion():
    row = {"row": 0, "prompt_ids": [5, 6, 7], "seed": 9}
    sent = Request(512, (2, 31), 0.0)(row)
    assert sent == {
        "tokenized_prompt": [5, 6, 7],
        "sampling_params": {"temperature": 0.0, "max_tokens": 512, "detokenize": False, "stop_token_ids": [2, 31],
                            "ignore_eos": True},
    }  # fmt: skip
    assert (
        Request(512, (2,), 0.7)(row)["sampling_params"] | {"temperature": 0.7, "seed": 9}
        == (Request(512, (2,), 0.7)(row)["sampling_params"])
    )
    assert answer({**sent, "row": 4, "generated_tokens": [8, 2], "generated_text": "", "params": "…"}) == {
        "row": 4, "new_ids": [8, 2],
    }  # fmt: skip


def test_rows_are_numbered_through_the_parts_and_seeded_by_question_and_sample():
    [*asked] = read_questions(TASK, [json.dumps(row) for row in questions(3)], "made up")
    pairs = [(question, sample) for question in asked for sample in range(50)]
    waiting = [Wanted("cot", pairs, [[i % 300, 1] for i in range(150)]), Wanted("pot", pairs[:7], [[9]] * 7)]
    tables = rows_of(waiting, seed=3)
    assert [table.num_rows for table in tables] == [BATCH, 157 - BATCH]
    whole = pa.concat_tables(tables)
    assert whole["row"].to_pylist() == list(range(157))
    assert whole["prompt_ids"].to_pylist()[149:152] == [[149, 1], [9], [9]]
    seeds = whole["seed"].to_pylist()
    assert len(set(seeds)) == 157
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == pa.concat_tables(rows_of(waiting, seed=3))["seed"].to_pylist()
    assert set(seeds).isdisjoint(pa.concat_tables(rows_of(waiting, seed=4))["seed"].to_pylist())


@pytest.mark.parametrize(
    ("new_ids", "made"),
    [
        ([7, 8, 2], Generated((7, 8), "eos")),
        ([31], Generated((), "eos")),
        ([7, 2, 9], Generated((7,), "eos")),
        ([7, 7, 7, 7], Generated((7, 7, 7, 7), "length")),
        ([7, 7, 7, 31], Generated((7, 7, 7), "eos")),
    ],
)
def test_how_a_completion_ended_is_told_from_its_tokens(new_ids, made):
    assert completion_of(new_ids, (2, 31), 4) == made
    assert made.num_new_tokens == len(new_ids) or 9 in new_ids


def test_a_completion_that_the_engine_cut_short_is_no_answer():
    with pytest.raises(EvaluationError, match=r"ended a completion after 2 tokens.*engine=transformers"):
        completion_of([7, 8], (2,), 4)


def test_rays_own_configuration():
    config = processor_config(BY_ID, VLLM, ON_GPUS, 1536, num_rows=10_000)
    assert config.model_source == "EleutherAI/pythia-70m"
    assert config.engine_kwargs == {
        "trust_remote_code": False, "revision": "abc", "dtype": "bfloat16", "max_model_len": 1536,
        "tensor_parallel_size": 1, "skip_tokenizer_init": True, "generation_config": "vllm",
        "enable_prefix_caching": False, "disable_log_stats": True, "task_type": "generate",
    }  # fmt: skip
    stages = ("chat_template_stage", "tokenize_stage", "detokenize_stage", "prepare_multimodal_stage")
    assert not any(getattr(config, stage) for stage in stages)
    assert not config.should_continue_on_error
    assert config.get_concurrency() == {"min_size": 3, "max_size": 3}
    assert config.accelerator_type == "H100"
    assert config.runtime_env == {"env_vars": {"VLLM_BATCH_INVARIANT": "1"}}
    few = processor_config(BY_ID, replace(VLLM, batch_invariant=False), ON_GPUS, 9, num_rows=BATCH + 1)
    assert few.concurrency == (2, 2)
    assert few.runtime_env == {"env_vars": {"VLLM_BATCH_INVARIANT": "0"}}


def test_an_engine_of_several_gpus_is_placed_by_vllm_itself():
    assert remote_options(ON_GPUS, 3) == {
        "max_restarts": 3, "max_task_retries": 3, "num_cpus": 2.0, "memory": 5.0, "resources": {"fast": 1.0},
    }  # fmt: skip
    wide = replace(ON_GPUS, gpus_per_worker=4.0)
    assert remote_options(wide, -1) == {"max_restarts": -1, "max_task_retries": -1}
    assert processor_config(BY_ID, VLLM, wide, 9, 1).engine_kwargs["tensor_parallel_size"] == 4


def test_a_target_is_loaded_from_its_folder(tmp_path):
    exported = Storage.open(tmp_path)
    assert model_of(replace(BY_ID, exported=exported)) == (str(tmp_path), {"trust_remote_code": False})


# Which engine.


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([HOPPER], VLLM),
        ([HOPPER, replace(HOPPER, name="b", card="NVIDIA A100", capability=(8, 0))],
         replace(VLLM, batch_invariant=False)),
    ],
)  # fmt: skip
def test_vllm_is_what_every_node_has(nodes, chosen):
    assert choose_engine(configured(engine="vllm"), BY_ID, ON_GPUS, nodes) == chosen


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([HOPPER, replace(HOPPER, name="b", vllm=None)], "vllm is not installed on b, which may host a worker"),
        ([replace(HOPPER, card=None)], "torch sees no GPU on a"),
        ([HOPPER, replace(HOPPER, name="b", vllm="0.33.0")], r"different versions.*0\.29\.0 on a, 0\.33\.0 on b"),
        ([], "no node that can hold a worker answers"),
    ],
)
def test_nodes_that_cannot_run_vllm_are_named(nodes, said):
    with pytest.raises(EvaluationError, match=rf"engine=vllm: .*{said}"):
        choose_engine(configured(engine="vllm"), BY_ID, ON_GPUS, nodes)


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_vllm_is_chosen_by_name_alone(engine):
    """As long as nobody has run it on a GPU."""
    on_cpus = replace(ON_GPUS, device="cpu", gpus_per_worker=0.0)
    assert choose_engine(configured(engine=engine), BY_ID, on_cpus, []) == Engine("transformers", "float32")
    assert choose_engine(configured(engine=engine), BY_ID, ON_GPUS, [HOPPER]) == Engine("transformers", "bfloat16")


@pytest.mark.parametrize(
    ("changes", "placement", "said"),
    [
        ({}, replace(ON_GPUS, device="cpu", gpus_per_worker=0.0), "vLLM generates on GPUs, but the workers get none"),
        ({}, replace(ON_GPUS, gpus_per_worker=0.5), r"a worker gets 0\.5 GPU .*vLLM needs whole ones"),
        ({"temperature": 3.0}, ON_GPUS, r"temperature=3, but vLLM samples only at 0\.01 to 2"),
        ({"temperature": 0.001}, ON_GPUS, r"temperature=0\.001"),
    ],
)
def test_what_vllm_cannot_do_is_refused_with_a_cure(changes, placement, said):
    with pytest.raises(EvaluationError, match=said) as error:
        choose_engine(configured(engine="vllm", **changes), BY_ID, placement, [HOPPER])
    assert "engine=transformers" in str(error.value)


def test_adapters_and_gguf_files_are_transformers(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    adapted = replace(BY_ID, exported=Storage.open(tmp_path))
    from_gguf = ModelSource(BY_ID.config.model_copy(update={"gguf_file": "m.gguf"}))
    for source, said in ((adapted, "lora.export=merged"), (from_gguf, r"m\.gguf")):
        with pytest.raises(EvaluationError, match=said):
            choose_engine(configured(engine="vllm"), source, ON_GPUS, [HOPPER])
        assert choose_engine(configured(), source, ON_GPUS, [HOPPER]).name == "transformers"


def test_what_can_be_told_before_any_node_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tree = tiny_run_config(tmp_path / "run")
    files = [str(write_jsonl(tmp_path / "mine.jsonl", questions(3)))]
    tree["evaluation"] = {"tasks": ["custom"], "custom": {"mine": {"files": files, "rule": "number"}},
                          "generation": {"engine": "vllm"}}  # fmt: skip
    with pytest.raises(EvaluationError, match=r"package vllm is not installed on this machine.*ray\[llm\]"):
        check_evaluation(load_config(tree))
    tree["resources"]["device"] = "cpu"
    with pytest.raises(EvaluationError, match=r"resources\.device=cpu: vLLM generates on GPUs"):
        check_evaluation(load_config(tree))
    tree["resources"] |= {"device": "gpu", "ray_address": "10.0.0.1:6379"}  # others generate: they are asked
    check_evaluation(load_config(tree))


def test_version_and_batch_invariance_name_the_texts():
    assert Engine("transformers", "float32").settings == {"engine": "transformers", "dtype": "float32"}
    assert VLLM.settings == {"engine": "vllm", "dtype": "bfloat16", "engine_version": "0.29.0",
                             "batch_invariant": True}  # fmt: skip
    assert Engine.of(VLLM.settings) == VLLM
    assert VLLM.describe() == "vllm 0.29.0 (batch-invariant), bfloat16"


# Parts: what answers the rows here is transformers, by the ids and limits that vLLM would be sent.


@pytest.fixture(scope="module")
def job(answering_model: Path) -> ModelJob:
    source = ModelSource(TargetConfig(model=str(answering_model), render="plain", max_length=64))
    settings = SandboxSettings(seconds=30, processes=2, packages=())
    return ModelJob(source, "plain", {}, False, "float32", "cpu", 1, settings)


@pytest.fixture(scope="module")
def worker(job: ModelJob) -> Iterator[EvaluationWorker]:
    made = EvaluationWorker(job)
    yield made
    made.sandbox().close()


def jobs_in(out: Storage, max_new_tokens: int = 24) -> list[PartJob]:
    asked = read_questions(TASK, [json.dumps(row) for row in questions(NUM)], "made up")
    return [
        PartJob("key", number, some, ("pot", "cot"), PROGRAM_STEM, max_new_tokens, 400, 1, 0.0, 0, out)
        for number, some in enumerate(parts(asked, PER_PART))
    ]


class Answering:
    """Answers rows in an order of its own, and dies after so many of them."""

    def __init__(self, model: Any, dies_after: int | None = None) -> None:
        self.model, self.left = model, dies_after
        self.asked: list[int] = []

    def __call__(self, tables: Any, config: Any, request: Request, options: Any, what: str) -> Iterator[Any]:
        rows = pa.concat_tables(tables).to_pylist()
        self.asked.append(len(rows))
        longest = max(len(row["prompt_ids"]) for row in rows) + request.max_new_tokens
        assert config.engine_kwargs["max_model_len"] >= longest
        for row in sorted(rows, key=lambda row: row["seed"]):
            if self.left == 0:
                raise EvaluationError("vLLM could not answer")
            self.left = None if self.left is None else self.left - 1
            sent = request(row)
            sampling = sent["sampling_params"]
            decoding = Decoding(sampling["max_tokens"], tuple(sampling["stop_token_ids"]), 0)
            [done] = Generator(self.model, decoding, torch.device("cpu"))([sent["tokenized_prompt"]])
            end = sampling["stop_token_ids"][:1] if done.finish == "eos" else []
            made = answer({"row": row["row"], "generated_tokens": [*done.ids, *end]})
            yield made["row"], made["new_ids"]


def task_of(job: ModelJob, answering: Answering) -> VllmTask:
    return VllmTask(job, VLLM, ON_GPUS, "NVIDIA H100", 3, "generation/mine", answering)


def files_in(out: Storage) -> dict[str, bytes]:
    return {entry.name: out.read_bytes(entry.name) for entry in out.list("generations")}


@pytest.mark.thorough
def test_parts_are_those_of_transformers_and_a_broken_pass_goes_on(job, worker, tmp_path):
    """Texts, statistics, programs between the passes; what was complete is not asked again."""
    alone = Storage.open(tmp_path / "alone").recording()
    expected = [worker.run(part) for part in jobs_in(alone)]

    out = Storage.open(tmp_path / "vllm").recording()
    broken = Answering(worker.model, dies_after=20)
    ran: list[int] = []

    def run_programs(some: list[PartJob]) -> None:
        assert [part.passes for part in some] == [("pot",)] * len(some)
        ran.extend(worker.run(part)["part"] for part in some)

    with pytest.raises(EvaluationError, match="could not answer"):
        task_of(job, broken).generate(jobs_in(out), run_programs)
    there = files_in(out)
    assert set(there) < {f"generations/pot-{i:05d}.parquet" for i in range(3)}
    assert there, "no part was complete after 20 of 24 completions"
    assert not ran

    going_on = Answering(worker.model)
    told: list[int] = []
    stats = task_of(job, going_on).generate(jobs_in(out), run_programs, told.append)
    assert going_on.asked == [NUM - PER_PART * len(there), NUM // 2]
    assert ran == [0, 1, 2]
    assert sum(told) == NUM
    assert files_in(out) == files_in(alone)
    for one, other in zip(stats, expected, strict=True):
        assert one["content"] == other["content"]
        assert one["finish"] == other["finish"]
        assert one["device"] == "NVIDIA H100"

    again = Answering(worker.model)
    task_of(job, again).generate(jobs_in(out), run_programs)
    assert again.asked == [], "everything was there"


def test_prompts_that_come_to_no_answer_are_counted(job, worker, tmp_path):
    """And not left to the driver, which has no weights."""

    class Forgetful(Answering):
        def __call__(self, *arguments: Any) -> Iterator[Any]:
            yield from list(super().__call__(*arguments))[1:]

    out = Storage.open(tmp_path).recording()
    with pytest.raises(EvaluationError, match=rf"no answer to 1 of {NUM:,} prompts of generation/mine.*engine=transf"):
        task_of(job, Forgetful(worker.model)).generate(jobs_in(out), lambda some: None)


def test_prompts_that_do_not_fit_are_quarantined_without_weights(job, worker, tmp_path):
    out = Storage.open(tmp_path).recording()
    [first, *_] = task_of(job, Answering(worker.model)).generate(jobs_in(out, max_new_tokens=93), lambda some: None)
    assert first["quarantined"] == 2 * PER_PART  # in either pass
    assert first["finish"] == {}


def test_one_module_imports_rays_llm():
    package = Path(__file__).parents[3] / "s2l_ray"
    found = [path.name for path in package.rglob("*.py") if "from ray.data.llm" in path.read_text()]
    assert found == ["generate_vllm.py"]
