"""Keep credentials out of whatever is stored or shown: manifests, locks, logs, error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

MASK = "***"

# `token` is a word of the trade here: only a key that *ends* in the singular is a credential (`hf_token`), and neither
# counts (`batch_tokens`) nor the special tokens of a tokenizer (`eos_token`) are.
_TOKEN_KEY = re.compile(r"(?:^|[_.-])token$", re.IGNORECASE)
_SPECIAL_TOKEN_KEY = re.compile(
    r"(?:^|[_.-])(?:bos|eos|pad|unk|sep|cls|mask|special|image|stop)[_-]token$", re.IGNORECASE
)
_SECRET_WORDS = r"secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|credential"
_SECRET_KEY = re.compile(_SECRET_WORDS, re.IGNORECASE)

_SECRET_QUERY = re.compile(rf"(?:{_SECRET_WORDS})|token$|^sig$|^signature$", re.IGNORECASE)
# In two steps: one pattern for all of it takes minutes on a word of some ten thousand letters.
_ASSIGNED_KEY = re.compile(r"(?<![\w.-])([\w.-]+)=")
_ASSIGNED_SECRET = re.compile(rf"(?:{_SECRET_WORDS})|(?:\b|_)token$|\bsig$", re.IGNORECASE)
_ASSIGNED_VALUE = re.compile(r"[^&\s#'\"]+")
_USERINFO = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)([^/\s@'\"]+)@")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
# In Azure's URIs the part before @ names the container.
_CONTAINER_SCHEMES = ("abfs://", "abfss://", "wasb://", "wasbs://")


def redact(obj: Any) -> Any:
    """A copy of plain data without its secrets.

    Values under keys that mean a credential become `***` (numbers under a `token` key stay: they are counts), and so
    do, inside any string, the user part and the secret query parameters of a URI, `secret_key=…` assignments and
    Hugging Face tokens. Mappings, lists and tuples are walked; everything else is returned as it is.
    """
    if isinstance(obj, Mapping):
        return {key: _redact_value(str(key), value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [redact(value) for value in obj]
    if isinstance(obj, str):
        return redact_text(obj)
    return obj


def redact_text(text: str) -> str:
    """`text` with the credentials in its URIs, assignments and hub tokens replaced by `***`."""
    text = _USERINFO.sub(_mask_userinfo, text)
    return _HUB_TOKEN.sub(MASK, _mask_assignments(text))


def _mask_assignments(text: str) -> str:
    pieces, at = [], 0
    for key in _ASSIGNED_KEY.finditer(text):
        value = _ASSIGNED_VALUE.match(text, key.end())
        if key.start() >= at and value and _ASSIGNED_SECRET.search(key.group(1)):
            pieces += [text[at : key.end()], MASK]
            at = value.end()
    return "".join([*pieces, text[at:]])


def strip_credentials(uri: str) -> str:
    """The URI without user part and secret query parameters; still opens where the environment has the credentials."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    netloc = parts.netloc
    if "@" in netloc and (":" in netloc.rpartition("@")[0] or not uri.startswith(_CONTAINER_SCHEMES)):
        netloc = netloc.rpartition("@")[2]
    kept = [
        (name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if not is_secret_query(name)
    ]
    query = "&".join(f"{quote(name)}={quote(value, safe=':/')}" for name, value in kept)
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def is_secret_query(name: str) -> bool:
    """Whether a URI's query parameter of this name holds a credential."""
    return bool(_SECRET_QUERY.search(name))


def _redact_value(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(key):
        return MASK
    is_token = _TOKEN_KEY.search(key) and not _SPECIAL_TOKEN_KEY.search(key)
    return MASK if is_token and not isinstance(value, (int, float)) else redact(value)


def _mask_userinfo(match: re.Match[str]) -> str:
    scheme, user = match.groups()
    if ":" not in user and scheme.lower() in _CONTAINER_SCHEMES:
        return match.group(0)
    return f"{scheme}{MASK}@"
