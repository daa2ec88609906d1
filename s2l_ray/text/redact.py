"""Keep credentials out of what is stored or shown: out of URIs and messages.

Data and results are never passed to these functions. A credential is recognised by its place in a URI, by its shape, or
because a message assigns it to a name that denotes one; names of sources, columns or held-out sets do not matter.

Every function takes time proportional to the text, whatever its content, because messages can quote megabytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

MASK = "***"

# URIs.

_SEPARATOR = re.compile(r":(?:\\?/){2}")  # some JSON writers escape the slashes
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*$")
_LONGEST_SCHEME = 40
_URI_END = re.compile(r"[\s\"'<>`]")
_AUTHORITY_END = re.compile(r"[/?#\\]")
_MAY_HOLD_CREDENTIALS = re.compile(r"[@=]")
_SECTIONS = re.compile(r"([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_SECTIONS_IN_QUERY = re.compile(r"([^?#&]*)([?&][^#]*)?(#.*)?", re.DOTALL)
_ENCODED_SEPARATOR = re.compile("%3A%2F%2F", re.IGNORECASE)
_ENCODED_END = re.compile(r"[\s\"'<>`&#]")

_BUCKET_SCHEMES = frozenset(
    (
        "s3",
        "s3a",
        "s3n",
        "gs",
        "gcs",
        "r2",
        "oss",
        "cos",
        "cosn",
        "obs",
        "minio",
        "abfs",
        "abfss",
        "wasb",
        "wasbs",
        "az",
    )
)
"""Schemes whose buckets have no port, so that a colon before the first slash begins a secret (AWS's have slashes)."""
_CONTAINER_SCHEMES = frozenset(["abfs", "abfss", "wasb", "wasbs"])
"""Schemes in which the part before @ names a container."""
_USER_NAME_SCHEMES = frozenset(["ssh", "sftp", "scp", "git+ssh", "svn+ssh", "hdfs", "viewfs", "webhdfs"])
"""Schemes in which a user part without a password is a name that is needed to open the storage."""

_PARAMETER = re.compile(
    r"passw(?:or)?d$|passphrase$|pwd$|secret$|token$|credentials?$|signature$|apikey$|authorization$"
    r"|(?:access|secret|private|account|shared|storage|encryption|signing)key(?:id)?$|accessid$|connectionstring$"
    r"|^(?:sig|sas|auth|bearer|jwt)$|^x(?:amz|goog)"
)
"""Pattern for names of secret query parameters, reduced to lower-case letters and digits."""
_SIGNATURE = re.compile(r"^sig$|signature$")
_OF_A_SIGNATURE = frozenset(
    ("expires", "policy", "keypairid")  # AWS's old kind, Google's, CloudFront's
    + ("sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "sdd", "saoid", "suoid", "scid")  # Azure's
    + ("skoid", "sktid", "skt", "ske", "sks", "skv")
)
"""Parameters that belong to a signature in the same URI."""


def strip_credentials(uri: str) -> str:
    """Remove the user part and secret parameters from a URI; it still opens if the environment has the credentials.

    Other texts, and URIs without credentials, are returned unchanged.
    """
    return _clean_encoded(_clean_uris(uri, mask="", whole=True), mask="")


def holds_credentials(uri: str) -> bool:
    """Whether `strip_credentials` would remove something."""
    return strip_credentials(uri) != uri


def split_user(uri: str) -> tuple[str, str, str]:
    """Split a URI into (scheme with `://`, user part or "", the rest); a secret may contain slashes."""
    scheme, separator, body = uri.partition("://")
    at = _user_end(scheme.lower(), body) if separator else -1
    return scheme + separator, body[: max(0, at)], body[at + 1 :]


def _clean_uris(text: str, mask: str, whole: bool) -> str:
    """Replace credentials in the text's URIs by `mask`; if that is empty, secret parameters are removed.

    Args:
        whole: whether the text is one URI, so that neither spaces nor quotes end it.
    """
    schemes = _schemes(text, _SEPARATOR)
    pieces, done, in_query = [], 0, False
    for (scheme, _, start), limit in zip(schemes, _limits(schemes, text), strict=True):
        found = None if whole else _URI_END.search(text, start, limit)
        end = found.start() if found else limit
        pieces += [text[done:start], _clean_body(scheme, text[start:end], mask, in_query)]
        done = end
        # A URI can be a parameter of another one, whose remaining parameters then follow it.
        in_query = not found and (in_query or "?" in text[start:end])
    return "".join([*pieces, text[done:]])


def _schemes(text: str, separator: re.Pattern[str]) -> list[tuple[str, int, int]]:
    """Return (scheme, where it begins, where its `://` ends) for each URI."""
    schemes, done = [], 0
    for found in separator.finditer(text):
        scheme = _SCHEME.search(text[max(done, found.start() - _LONGEST_SCHEME) : found.start()])
        if scheme is not None:
            name = scheme.group().lower()
            schemes.append((name, found.start() - len(name), found.end()))
        done = found.end()
    return schemes


def _limits(schemes: list[tuple[str, int, int]], text: str) -> list[int]:
    """Return where each URI must end: at the scheme of the next one."""
    return [start for _, start, _ in schemes[1:]] + [len(text)] if schemes else []


def _clean_body(scheme: str, body: str, mask: str, in_query: bool) -> str:
    if not _MAY_HOLD_CREDENTIALS.search(body):
        return body
    at = _user_end(scheme, body)
    sections = (_SECTIONS_IN_QUERY if in_query else _SECTIONS).fullmatch(body, at + 1)
    assert sections is not None
    user = f"{mask}@" if mask and at >= 0 else ""
    path, query, fragment = sections.groups(default="")
    return user + path + _clean_parameters(query, mask) + _clean_parameters(fragment, mask)


def _clean_parameters(section: str, mask: str) -> str:
    """Clean the parameters of a section, which begins with `?` or `#`, or is empty."""
    parameters = section[1:].split("&")
    names = [_plain_name(p.partition("=")[0]) if "=" in p else "" for p in parameters]
    signed = any(_SIGNATURE.search(name) for name in names)
    secret = [bool(_PARAMETER.search(name)) or (signed and name in _OF_A_SIGNATURE) for name in names]
    if not any(secret):
        return section
    if mask:
        kept = [f"{p.partition('=')[0]}={mask}" if s else p for p, s in zip(parameters, secret, strict=True)]
    else:
        kept = [p for p, s in zip(parameters, secret, strict=True) if not s]
    return section[0] + "&".join(kept) if kept else ""


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", unquote(unquote(name)).lower().removeprefix("amp;"))


def _clean_encoded(text: str, mask: str) -> str:
    """Clean percent-encoded URIs, as they occur in parameters of other URIs."""
    pieces, done = [], 0
    schemes = _schemes(text, _ENCODED_SEPARATOR)
    for (scheme, _, start), limit in zip(schemes, _limits(schemes, text), strict=True):
        found = _ENCODED_END.search(text, start, limit)
        end = found.start() if found else limit
        body = unquote(text[start:end])
        cleaned = _clean_body(scheme, body, mask, in_query=False)
        if cleaned != body:
            pieces += [text[done:start], quote(cleaned, safe="*")]
            done = end
    return "".join([*pieces, text[done:]])


def _user_end(scheme: str, body: str) -> int:
    """Return the position of the @ after a credential; -1: there is none."""
    end = _authority_end(body, 0)
    at = body.rfind("@", 0, end)
    if at < 0:
        _, colon, port = body[:end].rpartition(":")
        is_port = port.isdecimal() and len(port) <= 5 and scheme not in _BUCKET_SCHEMES
        if not colon or is_port or body.startswith("["):
            return -1
        at = body.find("@", end)
        return max(at, body.rfind("@", at, _authority_end(body, at))) if at >= 0 else -1
    user = body[:at]
    named = scheme in _CONTAINER_SCHEMES or scheme in _USER_NAME_SCHEMES or user == "anonymous"
    return -1 if named and ":" not in user else at


def _authority_end(body: str, start: int) -> int:
    found = _AUTHORITY_END.search(body, start)
    return found.start() if found else len(body)


# Messages.


def _begins(letter: str, rest: str) -> str:
    # The letter comes first, so that the engine finds candidates by a fast scan for a character.
    return rf"{letter}(?<![A-Za-z0-9_-]{letter})(?:{rest})"


_KEY_SHAPES = re.compile(
    "|".join(
        (
            _begins("h", r"f_\w{16,}"),  # Hugging Face
            _begins("a", r"pi_org_\w{30,}"),
            _begins("w", r"andb_v\d_\w{30,}"),  # Weights & Biases; the old kind looks like a commit
            _begins("l", r"ocal-[0-9a-f]{40}"),
            _begins("g", r"h[pousr]_[A-Za-z0-9]{20,}|ithub_pat_\w{20,}|lpat-[\w-]{16,}"),  # GitHub, GitLab
            _begins("s", r"k[-_](?=[\w-]{0,200}\d)[\w-]{20,}"),  # OpenAI and those who followed
            _begins("A", r"(?:KIA|SIA|BIA|CCA|GPA|IDA|ROA|NPA|NVA)[A-Z0-9]{16}(?![A-Za-z0-9])"),  # AWS
            _begins("A", r"Iza[\w-]{30,}"),  # Google
            _begins("y", r"a29\.[\w.-]{20,}"),
            _begins("G", r"OCSPX-[\w-]{20,}"),
            _begins("x", r"ox[abeprs]-[\w-]{10,}"),  # Slack
            _begins("n", r"pm_\w{30,}"),
            _begins("p", r"ypi-[\w-]{30,}"),
            _begins("e", r"yJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"),  # JSON web tokens
            _begins("B", r"earer\s{1,3}[A-Za-z0-9._~+/=-]{20,}"),
            _begins("b", r"earer\s{1,3}[A-Za-z0-9._~+/=-]{20,}"),
            r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*",
        )
    )
)
# `token` is a technical term here: neither special tokens nor counts are credentials.
_NO_CREDENTIAL = "".join(
    rf"(?<!{word}[_-])"
    for word in ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "image", "stop", "special", "next", "max", "num")
)
_NAME = re.compile(
    rf"(?:(?P<header>authorization)|passw(?:or)?d|passphrase|(?<![a-z])pwd|secret|{_NO_CREDENTIAL}(?P<token>token)"
    r"|(?:api|access|secret|private|account|shared|storage|encryption|signing)[_. -]?key(?:[_. -]?id)?"
    r"|(?<![a-z])sig|signature|credentials?|connection[_ -]?string)$",
    re.IGNORECASE,
)
_NAME_ENDS = (
    *("word", "wd", "phrase", "secret", "token", "key", "id", "sig", "signature", "credential", "credentials"),
    *("string", "authorization"),
)
_LONGEST_NAME = 64
_ASSIGNS = re.compile(r"=(?!=)|:(?![:/])")
_BEFORE_VALUE = re.compile(r"\s{0,3}(?:[bruf]?(\\{0,3}[\"']))?")
_OPTION = re.compile(rf'--([A-Za-z][\w-]{{0,{_LONGEST_NAME}}})(\s{{1,3}})("(?:[^"\\\n]|\\.)*"|[^\s-]\S*)')
_BARE_VALUE = re.compile(r"[^\s&#'\"]*")
_QUOTED = {'"': re.compile(r'(?:[^"\\\n]|\\.)*'), "'": re.compile(r"(?:[^'\\\n]|\\.)*")}
for _quotes in [backslashes + quote_mark for backslashes in ("\\", "\\" * 2, "\\" * 3) for quote_mark in "\"'"]:
    # Text within text, as in JSON within a message, where the quotes themselves are escaped.
    _QUOTED[_quotes] = re.compile(rf"(?:[^\\\n]|(?!{re.escape(_quotes)})\\)*")
_REST_OF_LINE = re.compile(r"[^\r\n'\"]*")
_WORD_OR_NUMBER = re.compile(r"[^\W\d_]*|[-+]?[\d.,]+(?:e[-+]?\d+)?%?", re.IGNORECASE)
_NO_VALUE = frozenset(("", "None", "True", "False", "null", "true", "false"))


def redact_text(text: str) -> str:
    """Replace credentials in a message by `***`.

    This masks user parts and secret parameters of URIs, known shapes of keys (Hugging Face, AWS, GitHub, …), and values
    assigned to names of secrets: `password=…`, `"api_key": "…"`, `Authorization: Bearer …`, `--token …`. Use it for
    messages, logs and command lines, never for data or results, which it would change.
    """
    text = _clean_encoded(_clean_uris(text, MASK, whole=False), MASK)
    return _KEY_SHAPES.sub(MASK, _mask_options(_mask_assigned(text)))


def redact_command(arguments: Sequence[str]) -> str:
    """Return a command line as one text, with credentials masked."""
    quoted = []
    for argument in arguments:
        name, equals, value = argument.partition("=") if "=" in argument else ("", "", argument)
        # In quotes, a secret with spaces is masked completely.
        quoted.append(name + equals + json.dumps(value, ensure_ascii=False) if re.search(r"\s", value) else argument)
    return redact_text(" ".join(quoted))


def _mask_options(text: str) -> str:
    def mask(match: re.Match[str]) -> str:
        return f"--{match[1]}{match[2]}{MASK}" if _NAME.search(match[1]) else match[0]

    return _OPTION.sub(mask, text)


def _mask_assigned(text: str) -> str:
    pieces, done, at = [], 0, 0
    while (assigns := _ASSIGNS.search(text, at)) is not None:
        name = _name_before(text, max(at, assigns.start() - _LONGEST_NAME), assigns.start())
        at = assigns.end()
        if name is None:
            continue
        start, end = _assigned(text, at, name, assigns.group())
        if end > start:
            pieces += [text[done:start], MASK]
            done = at = end
    return "".join([*pieces, text[done:]])


def _name_before(text: str, start: int, end: int) -> re.Match[str] | None:
    """Return the name of a secret, with or without quotes, that ends at `end`."""
    before = text[start:end].rstrip().rstrip("\"'\\")
    return _NAME.search(before) if before.lower().endswith(_NAME_ENDS) else None


def _assigned(text: str, at: int, name: re.Match[str], sign: str) -> tuple[int, int]:
    """Return start and end of the secret assigned to the name; (0, 0): none."""
    before = _BEFORE_VALUE.match(text, at)
    assert before is not None
    start, quotes = before.end(), before.group(1)
    if quotes:
        return start, _closing(text, start, quotes)
    found = (_REST_OF_LINE if name["header"] else _BARE_VALUE).match(text, start)
    assert found is not None
    value = found.group().rstrip(",;.)]}:")
    if value in _NO_VALUE:
        return 0, 0
    is_plain = _WORD_OR_NUMBER.fullmatch(value) is not None
    # `password: unknown key` is a sentence, `password=unknown` is not; a token that is a number is a count.
    if is_plain and ((sign == ":" and not name["header"]) or (name["token"] and not value.isalpha())):
        return 0, 0
    return start, start + len(value)


def _closing(text: str, start: int, quotes: str) -> int:
    """Return where the quoted text ends, which is the end of the line if nothing closes it."""
    value = _QUOTED[quotes].match(text, start)
    assert value is not None
    return value.end()
