"""Metrics of summaries against the libraries that define them, BERTScore against a slow reference of its formula."""

import itertools
import json
import math

import numpy as np
import pytest

from s2l_ray.evaluation import summaries as metrics
from s2l_ray.evaluation.bertscore import BertScorer, read_baseline
from s2l_ray.evaluation.tasks import EvaluationError
from tests.support.paths import SHARED

REPORTS = SHARED / "data/clinical/test.jsonl"
WORDS = ["no", "acute", "cardiopulmonary", "process", "disease", "mild", "cardiomegaly", "stable", "effusion", ".", ",",
         "left", "lower", "lobe", "opacity", "1.", "2."]  # fmt: skip


def random_pairs(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(0, 14)))

    return [text() for _ in range(n)], [text() + " findings." for _ in range(n)]


def test_bleu_is_sacrebleus():
    import sacrebleu

    for seed in range(40):
        summaries, references = random_pairs(1 + seed % 7, seed)
        ours = metrics.bleu(metrics.bleu_counts(summaries, references).sum(axis=0, keepdims=True))[0]
        assert ours == pytest.approx(sacrebleu.corpus_bleu(summaries, [references]).score, abs=1e-9)


@pytest.mark.parametrize(
    ("summaries", "references"),
    [
        (["the cat"], ["a dog ran"]),  # nothing matches
        (["a dog"], ["a dog ran far away"]),  # no 4-grams at all
        (["a dog ran then slept"], ["a dog ran far away"]),  # no matching 4-gram: smoothed
        ([""], ["a dog"]),
        (["a b c d e", ""], ["a b c d e", "f"]),
    ],
)
def test_bleu_where_counts_are_zero(summaries, references):
    import sacrebleu

    ours = metrics.bleu(metrics.bleu_counts(summaries, references).sum(axis=0, keepdims=True))[0]
    assert ours == pytest.approx(sacrebleu.corpus_bleu(summaries, [references]).score, abs=1e-9)


def test_bleu_of_resamples_is_that_of_the_repeated_reports():
    import sacrebleu

    summaries, references = random_pairs(12, 3)
    counts = metrics.bleu_counts(summaries, references)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, 12, size=12)
        library = sacrebleu.corpus_bleu([summaries[i] for i in rows], [[references[i] for i in rows]]).score
        assert metrics.bleu(counts[rows].sum(axis=0, keepdims=True))[0] == pytest.approx(library, abs=1e-9)


def test_signature_is_that_of_the_defaults():
    assert metrics.bleu_signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_rouge_is_rouge_scores():
    from rouge_score.rouge_scorer import RougeScorer

    summaries, references = random_pairs(30, 1)
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    made = metrics.rouge(summaries, references)
    for i, (summary, reference) in enumerate(zip(summaries, references, strict=True)):
        scores = library.score(reference, summary)
        assert made[i] == pytest.approx([100 * scores[k].fmeasure for k in ("rouge1", "rouge2", "rougeL")], abs=1e-9)


ODD = [
    "",
    "   ",
    "... !!",
    ",",
    "No",
    "No change.",
    "NO CHANGE.",
    "No\u00a0change.",
    "Unveränderter Befund ≤5 mm",
    "无变化",
    "a \ud800 b",
    "&quot;No&quot; &amp; <b>change</b>",
    "x-ray 3.5-cm 1,000",
    "No change. " * 40,
    "b" * 5000,
    "\x00",
    "1. No change.\n2. None.",
]


@pytest.mark.thorough
def test_odd_texts_are_measured_as_the_libraries_do():
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    library = RougeScorer(["rougeL"], use_stemmer=True)
    for summary, reference in itertools.product(ODD, ODD):
        made = metrics.bleu(metrics.bleu_counts([summary], [reference]))[0]
        assert made == pytest.approx(BLEU().corpus_score([summary], [[reference]]).score, abs=1e-9), (
            summary,
            reference,
        )
        wanted = 100 * library.score(reference, summary)["rougeL"].fmeasure
        assert metrics.rouge([summary], [reference])[0, 2] == pytest.approx(wanted, abs=1e-9), (summary, reference)


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (" No acute disease.", "No acute disease."),
        ("No acute\ndisease. \n\nFindings: more", "No acute disease."),
        ("\n\n Mild edema.\n### Instruction:\nnext", "Mild edema."),
        ("Mild edema.\nFindings: the heart", "Mild edema."),
        ("Impression: Mild edema.", "Mild edema."),
        ("### Impression\nMild edema.", "Mild edema."),
        ("1. Mild edema.\n2. No effusion.", "1. Mild edema. 2. No effusion."),
        ("Summary of prior: stable.", "Summary of prior: stable."),
        ("MILD Edema</s> more", "MILD Edema"),
        ("", ""),
        ("\n\n\n", ""),
    ],
)
def test_cut(text, summary):
    assert metrics.cut(text) == summary


def test_cut_of_hostile_texts():
    for text in ("a " * 500_000, "\n" * 500_000, "#" * 500_000, "impression" * 50_000, "\x00" * 1000):
        assert len(metrics.cut(text)) <= metrics.MAX_CHARACTERS


@pytest.mark.parametrize(
    ("reference", "normal"),
    [
        ("No acute cardiopulmonary process.", True),
        ("1. No acute disease. 2. Old fracture.", True),
        ("Chest. Normal.", True),
        ("Negative for acute abnormality.", True),
        ("There is no evidence of disease.", True),
        ("Stable cardiomegaly. No acute disease.", False),
        ("1. Chest. No change, effusion.", False),
        ("Nodule in the left lung.", False),
    ],
)
def test_normal_references(reference, normal):
    assert metrics.is_normal(reference) is normal


def test_yardsticks():
    made = metrics.yardsticks(["1. Heart is normal. Lungs clear.", "Edema"])
    assert made == {"constant": [metrics.CONSTANT] * 2, "first_sentence": ["Heart is normal.", "Edema"]}
    assert list(metrics.yardsticks(["Edema", None])) == ["constant"]


def test_yardsticks_of_the_development_set():
    if not REPORTS.exists():
        pytest.skip("needs shared/data")
    rows = [json.loads(line) for line in REPORTS.read_text().split("\n") if line]
    references = [row["impression"] for row in rows]
    for kind, (rouge, bleu) in {"constant": (46, 7), "first_sentence": (7, 4)}.items():
        measured = metrics.measure(metrics.yardsticks([row["findings"] for row in rows])[kind], references)
        made = metrics.figures(measured, 0, "clinical", resamples=200)
        assert (round(made["rougeL"].value), round(made["bleu"].value)) == (rouge, bleu)
        assert all(e.low < e.value < e.high for e in made.values())


def test_figures_of_groups_and_differences():
    summaries, references = random_pairs(40, 5)
    better = [references[i] if i % 2 else summary for i, summary in enumerate(summaries)]
    first, second = metrics.measure(better, references), metrics.measure(summaries, references)
    made = metrics.differences(first, second, 0, "clinical", resamples=300)
    assert all(estimate.low > 0 for estimate in made.values())
    split = metrics.split_by_normality(references)
    assert (split["normal"] ^ split["abnormal"]).all()
    part = metrics.figures(second.of(split["normal"]), 0, "clinical", resamples=10)
    assert part["bleu"].num_questions == split["normal"].sum()
    same = metrics.differences(first, first, 0, "clinical", resamples=50)
    assert all(tuple(e[:3]) == (0, 0, 0) for e in same.values())
    assert metrics.figures(first, 1, "a", 50) == metrics.figures(first, 1, "a", 50)


def test_empty_summaries_score_nothing_and_count():
    made = metrics.measure(["", "No acute disease."], ["No acute disease."] * 2)
    assert made.num_empty == 1
    assert metrics.figures(made, 0, "t", 20)["rougeL"].value == pytest.approx(50)


@pytest.mark.parametrize("reference", ["Kein Anhalt für Pneumonie. Größe regelrecht.", "心肺未见异常", "Нет изменений"])
def test_other_languages_are_refused(reference):
    with pytest.raises(EvaluationError, match="ROUGE drops those"):
        metrics.measure(["x"] * 2, [reference, "No acute disease."])
    metrics.check_language(["No acute disease."] * 50 + ["Naïve patient."])


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [
        *special,
        *dict.fromkeys(word.strip(".") or "." for word in WORDS if word != "lobe"),
        "find",
        "##ings",
    ]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=24, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def slow_bert_score(scorer: BertScorer, summary: str, reference: str, idf: dict[int, float] | None = None) -> float:
    """Token by token, as the formulas stand in the paper."""
    import torch

    def vectors(text: str) -> tuple[list[int], list[np.ndarray]]:
        ids = scorer.tokenizer(text, truncation=True, max_length=scorer.max_length)["input_ids"]
        with torch.no_grad():
            hidden = scorer.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[scorer.layer][0]
        return ids, [v / np.linalg.norm(v) for v in hidden.double().numpy()]

    def one_way(tokens: list[int], own: list[np.ndarray], other: list[np.ndarray]) -> float:
        total = weight = 0.0
        for token, vector in zip(tokens, own, strict=True):
            importance = 0.0 if token in (2, 3) else 1.0 if idf is None else idf[token]
            total += importance * max(float(vector @ another) for another in other)
            weight += importance
        return total / weight if weight else 0.0

    if not summary.strip() or not reference.strip():
        return 0.0
    (ids, own), (other_ids, other) = vectors(summary), vectors(reference)
    precision, recall = one_way(ids, own, other), one_way(other_ids, other, own)
    return 200 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@pytest.mark.thorough
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_bert_score_is_the_slow_reference(tiny_bert, layer):
    scorer = BertScorer(tiny_bert, layer)
    summaries, references = random_pairs(70, 7)
    summaries[3] = "no acute " * 40  # longer than the model's window
    made = scorer(summaries, references)
    slow = [slow_bert_score(scorer, a, b) for a, b in zip(summaries, references, strict=True)]
    assert made == pytest.approx(slow, abs=1e-4)  # percent: 1e-6 of the score
    assert made[[i for i, text in enumerate(summaries) if not text.strip()]].max(initial=0) == 0
    assert scorer(["mild edema"], ["mild edema"]) == pytest.approx([100], abs=1e-3)
    assert scorer.name == f"BERTScore({tiny_bert}@local, layer {layer}, raw)"


@pytest.mark.thorough
def test_bert_score_with_idf(tiny_bert):
    scorer = BertScorer(tiny_bert, 2, idf=True)
    summaries, references = random_pairs(120, 9)
    encoded = [set(scorer.tokenizer(r, truncation=True, max_length=scorer.max_length)["input_ids"]) for r in references]
    counts = [sum(token in row for row in encoded) for token in range(scorer.tokenizer.vocab_size)]
    idf = {token: math.log(121 / (1 + count)) for token, count in enumerate(counts)}
    slow = [slow_bert_score(scorer, a, b, idf) for a, b in zip(summaries, references, strict=True)]
    assert scorer(summaries, references) == pytest.approx(slow, abs=1e-4)
    with pytest.raises(EvaluationError, match="at least 100"):
        scorer(summaries[:99], references[:99])


def test_bert_score_is_rescaled_by_the_file(tiny_bert, tmp_path):
    table = tmp_path / "baseline.tsv"
    table.write_text("LAYER,P,R,F\n0,0.1,0.1,0.1\n2,0.5,0.5,0.4\n")
    raw = BertScorer(tiny_bert, 2)(["mild effusion", ""], ["stable effusion", "mild"])
    scaled = BertScorer(tiny_bert, 2, baseline=str(table))(["mild effusion", ""], ["stable effusion", "mild"])
    assert scaled == pytest.approx([(raw[0] - 40) / 0.6, 0], abs=1e-9)
    faults = {
        "LAYER,F\n1,0.5\n": "no usable value for layer 2", "a,b\n1,2\n": "not a table", "LAYER,F\n2,1\n": "no usable",
    }  # fmt: skip
    for text, said in faults.items():
        table.write_text(text)
        with pytest.raises(EvaluationError, match=said):
            read_baseline(str(table), 2)


def test_models_and_layers_that_cannot_be_used(tiny_bert, tmp_path):
    with pytest.raises(EvaluationError, match="layers 0 to 3"):
        BertScorer(tiny_bert, 5)
    with pytest.raises(EvaluationError, match="cannot load"):
        BertScorer(str(tmp_path / "nothing"), 1)
