"""What is trained on, for every kind of tokenizer: the whole text, and each response after the prompt's own ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data.render import Renderer
from s2l_ray.data.units import UnusableRow

CORPUS = [
    "What is 2 + 2? The answer is 4, surely.", "### User:\nAdd\n\n### Assistant:\n  12 and 34567", "foo  bar\n\nbaz",
    "Below is an instruction that describes a task.", "été 漢字 naïve\tcafé", "a the then there is an answer",
]  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]


def _wrapped(backend: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer


def _bpe(pre_tokenizer: Any, decoder: Any, normalizer: Any = None, byte_fallback: bool = False) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=byte_fallback))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoder
    by_bytes = [f"<0x{i:02X}>" for i in range(256)] if byte_fallback else []
    alphabet = [] if byte_fallback else pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS * 4, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + by_bytes, initial_alphabet=alphabet)
    )
    return _wrapped(backend)


def byte_level(add_prefix_space: bool = False) -> Any:
    from tokenizers import decoders, pre_tokenizers

    return _bpe(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space), decoders.ByteLevel())


def byte_level_trimmed() -> Any:
    """As GPT-NeoX: offsets without the leading space."""
    from tokenizers import processors

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def byte_level_llama3() -> Any:
    from tokenizers import Regex, decoders, pre_tokenizers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return _bpe(
        pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        decoders.ByteLevel(),
    )


def sentencepiece_bpe_legacy() -> Any:
    """As Llama 2: a normalizer puts ▁ before every piece of text, after control tokens too."""
    from tokenizers import decoders, normalizers

    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _bpe(None, decoder, normalizer, byte_fallback=True)


def sentencepiece_bpe_without_prefix() -> Any:
    """As Gemma."""
    from tokenizers import decoders, normalizers

    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _bpe(None, decoder, normalizers.Replace(" ", "▁"), byte_fallback=True)


def sentencepiece_metaspace(prepend: str) -> Any:
    from tokenizers import decoders, pre_tokenizers

    return _bpe(
        pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False),
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=prepend)]),
        byte_fallback=True,
    )


def unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    letters = sorted({c for text in CORPUS for c in text} | set("aé漢😀 \n\t#{}:42thensri"))
    backend.train_from_iterator(
        CORPUS * 4,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", initial_alphabet=letters),
    )
    return _wrapped(backend)


def python_bytes() -> Any:
    """A tokenizer without offsets, in Python."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def wordpiece() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    letters = sorted({c for text in CORPUS for c in text} | set("aé漢😀#{}:42thensri"))
    backend.train_from_iterator(
        CORPUS * 4, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=letters)
    )
    return _wrapped(backend)


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level,
    "byte-level BPE, prefix space": lambda: byte_level(add_prefix_space=True),
    "byte-level BPE, trimmed offsets": byte_level_trimmed,
    "byte-level BPE, Llama 3's pattern": byte_level_llama3,
    "SentencePiece BPE, Llama 2's": sentencepiece_bpe_legacy,
    "SentencePiece BPE, Gemma's": sentencepiece_bpe_without_prefix,
    "SentencePiece BPE, Metaspace first": lambda: sentencepiece_metaspace("first"),
    "SentencePiece BPE, Metaspace always": lambda: sentencepiece_metaspace("always"),
    "SentencePiece Unigram": unigram,
    "WordPiece": wordpiece,
    "Python": python_bytes,
}
_MADE: dict[str, Any] = {}


def tokenizer_of(kind: str) -> Any:
    if kind not in _MADE:
        _MADE[kind] = KINDS[kind]()
    return _MADE[kind]


TEXT = st.text(st.sampled_from("aé漢😀 \n\t#{}:42thensri"), max_size=12)
SAID = TEXT.filter(str.strip)


def check(kind: str, style: Any, turns: list[tuple[str, str]]) -> None:
    tokenizer = tokenizer_of(kind)
    messages = [{"role": role, "content": content} for role, content in turns]
    renderer = Renderer(tokenizer, style, 10_000)
    texts = renderer.texts(messages)
    [sequences] = renderer([messages])
    assert not isinstance(sequences, UnusableRow)
    spans = [(text.text, span) for text in texts for span in text.responses]
    starts = [
        (sequence.input_ids, sequence.response_mask, i)
        for sequence in sequences
        for i, is_response in enumerate(sequence.response_mask)
        if is_response and (i == 0 or not sequence.response_mask[i - 1])
    ]
    assert len(starts) == len(spans)
    trained = starts[-1][0][: starts[-1][2]]
    assert renderer.prompts([messages[:-1]]) == [trained] or not trained
    prefix = [] if style == "chat_template" else tokenizer("a")["input_ids"][: _prefix_length(tokenizer)]
    for (text, (start, end)), (ids, mask, first) in zip(spans, starts, strict=True):
        prompt = list(prefix) + tokenizer(text[:start], add_special_tokens=False)["input_ids"]
        assert ids[:first] == prompt
        last = next((i for i in range(first, len(mask)) if not mask[i]), len(mask))
        said, response = _decoded(tokenizer, ids[len(prefix) : last]), _decoded(tokenizer, ids[first:last])
        if kind.startswith("byte-level BPE") and "prefix" not in kind:
            assert (said, response) == (text[:end], text[start:end])
        else:  # not all others give back what they were given: what they make of the whole text counts
            whole = _decoded(tokenizer, tokenizer(text[:end], add_special_tokens=False)["input_ids"])
            # A word of WordPiece's that is cut in two may be unknown, or no longer.
            assert kind == "WordPiece" or _letters(said) in (_letters(text[:end]), _letters(whole))
            assert kind == "WordPiece" or _letters(response) == _letters(text[start:end])


def _letters(text: str) -> str:
    return "".join(text.split())


def _prefix_length(tokenizer: Any) -> int:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return next(i for i in range(9) if tokenizer("a")["input_ids"][i : i + len(plain)] == plain)


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("style", ["verbatim", "plain", "alpaca"])
@settings(max_examples=25, deadline=None)
@given(prompt=TEXT, response=SAID)
def test_single_turns(kind: str, style: str, prompt: str, response: str) -> None:
    check(kind, style, [("user", prompt), ("assistant", response)])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("space", [" ", "  ", "\t", "\n", " \n", "\n ", "\u3000", "\xa0"])
def test_white_space_before_a_response_is_the_prompts(kind: str, space: str) -> None:
    """Tokens that begin with it are reported without it, and would pass for the response's."""
    for response in ("2", "thens", "aé", " 2", "\n2"):
        check(kind, "verbatim", [("user", f"2{space}"), ("assistant", response)])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("style", ["turns", "chat_template"])
@settings(max_examples=10, deadline=None)
@given(first=SAID, answer=SAID, second=SAID, last=SAID)
def test_several_turns(kind: str, style: str, first: str, answer: str, second: str, last: str) -> None:
    check(kind, style, [("user", first), ("assistant", answer), ("user", second), ("assistant", last)])
