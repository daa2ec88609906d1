"""BERTScore: greedy cosine similarity between the token vectors of two texts (Zhang et al. 2020,
https://arxiv.org/abs/1904.09675), over one hidden layer of any encoder supported by transformers.

A separate implementation, because the package bert-score does not run with transformers 5. Memory: the vectors of one
batch of pairs, about 6 KB per token.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.errors import foreign_named
from s2l_ray.evaluation.tasks import EvaluationError

if TYPE_CHECKING:
    import torch

MIN_REFERENCES_FOR_IDF = 100
_MAX_LENGTH = 512
_PAIRS = 64


class BertScorer:
    """Scores summaries with an encoder; call it with texts.

    Args:
        model: a folder or a hub id.
        layer: hidden layer whose vectors are compared; 0 is the embedding.
        idf: weight tokens by their rarity in the references.
        baseline: file of baselines to rescale by, with columns LAYER, P, R, F as in bert-score.

    Raises:
        EvaluationError: the model or the baseline cannot be used.
    """

    def __init__(
        self,
        model: str,
        layer: int,
        idf: bool = False,
        baseline: str | None = None,
        revision: str | None = None,
        device: str = "cpu",
    ) -> None:
        import transformers

        cure = "Give a folder or hub id of an encoder (evaluation.bertscore.model)"
        with foreign_named(EvaluationError, f"BERTScore cannot load {model!r}", cure):
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
            self.model: Any = transformers.AutoModel.from_pretrained(model, revision=revision).float().eval().to(device)
        config = self.model.config
        num_layers = int(config.num_hidden_layers)
        if not 0 <= layer <= num_layers:
            raise EvaluationError(
                f"bertscore.layer={layer}, but {model} has layers 0 to {num_layers}; choose one of them"
            )
        self.layer, self.idf, self.device = layer, idf, device
        self.baseline = None if baseline is None else read_baseline(baseline, layer)
        positions = getattr(config, "max_position_embeddings", _MAX_LENGTH) - max(0, config.pad_token_id or 0)
        self.max_length = min(positions, self.tokenizer.model_max_length, _MAX_LENGTH)
        commit = revision or getattr(config, "_commit_hash", None) or "local"
        self.name = f"BERTScore({model}@{commit}, layer {layer}, {'rescaled' if self.baseline else 'raw'})"

    def __call__(self, summaries: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """F1 of each pair in percent, (N,); an empty text scores 0."""
        weights = self._weights(references) if self.idf else None
        scores = np.zeros(len(summaries))
        pairs = [i for i in range(len(summaries)) if summaries[i].strip() and references[i].strip()]
        pairs.sort(key=lambda i: len(summaries[i]) + len(references[i]))  # so that a batch has texts of similar length
        for begin in range(0, len(pairs), _PAIRS):
            batch = pairs[begin : begin + _PAIRS]
            scores[batch] = self._f1([summaries[i] for i in batch], [references[i] for i in batch], weights)
        if self.baseline is not None:
            filled = np.zeros(len(summaries), dtype=bool)
            filled[pairs] = True
            scores = np.where(filled, (scores - self.baseline) / (1 - self.baseline), 0.0)
        return 100 * scores

    def _weights(self, references: Sequence[str]) -> tuple[dict[int, float], float]:
        if len(references) < MIN_REFERENCES_FOR_IDF:
            raise EvaluationError(
                f"bertscore.idf with {len(references)} references: that is too few to estimate rarity; set idf: false, "
                f"or give at least {MIN_REFERENCES_FOR_IDF}"
            )
        n = len(references)
        found: Counter[int] = Counter()
        for reference in references:
            found.update(set(self._encode([reference])["input_ids"][0]))
        return {token: math.log((n + 1) / (count + 1)) for token, count in found.items()}, math.log(n + 1)

    def _encode(self, texts: list[str], **options: Any) -> Any:
        return self.tokenizer(texts, truncation=True, max_length=self.max_length, **options)

    def _embed(
        self, texts: list[str], weights: tuple[dict[int, float], float] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embed texts → unit vectors (B, T, D), whether there is a token (B, T), and the tokens' weights (B, T)."""
        import torch

        encoded = self._encode(texts, padding=True, return_tensors="pt", return_special_tokens_mask=True)
        special = encoded.pop("special_tokens_mask").to(self.device).bool()
        encoded = {name: value.to(self.device) for name, value in encoded.items()}
        with torch.no_grad():
            hidden = self.model(**encoded, output_hidden_states=True).hidden_states[self.layer]
        present = encoded["attention_mask"].bool()
        importance = present.float()
        if weights is not None:
            table, unseen = weights
            ids = encoded["input_ids"].tolist()
            importance = torch.tensor([[table.get(token, unseen) for token in row] for row in ids], device=self.device)
        # [CLS] and [SEP] can be matched, but have no weight.
        return torch.nn.functional.normalize(hidden, dim=-1), present, importance * (present & ~special)

    def _f1(
        self, summaries: list[str], references: list[str], weights: tuple[dict[int, float], float] | None
    ) -> np.ndarray:
        given, given_present, given_weights = self._embed(summaries, weights)
        wanted, wanted_present, wanted_weights = self._embed(references, weights)
        similarity = given @ wanted.transpose(1, 2)  # (B, T, U)
        both = given_present[:, :, None] & wanted_present[:, None, :]
        similarity = similarity.masked_fill(~both, -2.0)
        precision = _weighted(similarity.amax(dim=2), given_weights)
        recall = _weighted(similarity.amax(dim=1), wanted_weights)
        total = precision + recall
        f1 = 2 * precision * recall / total.where(total != 0, 1.0)
        return f1.where(total > 0, 0.0).double().cpu().numpy()


def _weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted means, (B, T) → (B,); 0 if all weights are 0."""
    total = weights.sum(dim=1)
    return (values * weights).sum(dim=1) / total.where(total > 0, 1.0)


def read_baseline(path: str, layer: int) -> float:
    """The baseline F1 by which a layer's scores are rescaled.

    Raises:
        EvaluationError: the file does not exist or is not a baseline file, or it lacks the layer.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = {row["LAYER"]: float(row["F"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"bertscore.rescale={path} is not a table with columns LAYER, P, R, F: {error}; use bert-score's file for "
            "the model, or leave rescale out"
        ) from error
    if str(layer) not in rows or not rows[str(layer)] < 1:
        raise EvaluationError(
            f"bertscore.rescale={path} has no usable value for layer {layer}; it has layers {', '.join(rows)}"
        )
    return rows[str(layer)]
