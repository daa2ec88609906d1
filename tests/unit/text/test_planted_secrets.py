"""A random secret, planted wherever one can stand, is in nothing that is stored or shown; all else comes through."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from io import StringIO
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.cli import main
from s2l_ray.config import load_config, to_yaml
from s2l_ray.data.units import ReadUnit
from s2l_ray.errors import UserError, describe, shown
from s2l_ray.observability.progress import Progress
from s2l_ray.text.display import one_line
from s2l_ray.text.redact import holds_credentials, redact_command, redact_text, strip_credentials

_WORD = string.ascii_letters + string.digits
secrets = st.builds("{}{}{}".format, st.sampled_from("kKz"), st.text(_WORD + "/+", min_size=14, max_size=40),
                    st.sampled_from(["q7", "Z9"]))  # fmt: skip

_PARAMETERS = (
    "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "sig", "access_key",
    "SECRET_KEY", "session_token", "account_key", "token", "api_key", "apiKey", "AWSAccessKeyId", "Signature", 
    "sas_token", "client_secret", "X%2DAmz%2DSignature", "x-amz-signature", "password", "refresh_token", "sharedKey",
)  # fmt: skip

URIS: list[Callable[[str], str]] = [
    lambda s: f"s3://AKID:{s}@bucket/p/*.jsonl?region=r",
    lambda s: f"s3://AKID:{quote(s, safe='')}@bucket",
    lambda s: f"s3a://{quote(s, safe='')}@bucket/x",
    lambda s: f"gs://user:{s}@bucket/x@y",
    lambda s: f"https://user:{quote(s, safe='')}@host:8080/a",
    lambda s: f"https://{quote(s, safe='')}@host/a",
    lambda s: f"abfs://container:{s}@account/a",
    lambda s: f"hdfs://user:{quote(s, safe='')}@node:8020/a",
    lambda s: f"simplecache::s3://AKID:{s}@bucket/x",
    lambda s: f"https://host/?from=s3%3A%2F%2FAKID%3A{quote(s, safe='')}%40bucket&x=1",
    lambda s: f"https://host/x?se=2026&sp=r&sig={quote(s, safe='')}&x=1",
    *(lambda s, p=p: f"https://host/x?a=b&{p}={quote(s, safe='')}" for p in _PARAMETERS),
    *(lambda s, p=p: f"s3://bucket/x?{p}={s}&region=r" for p in _PARAMETERS),
]
MESSAGES: list[Callable[[str], str]] = [
    lambda s: f"Authorization: Bearer {s}",
    lambda s: f"headers {{'Authorization': 'Basic {s}', 'x': 1}}",
    lambda s: f"'X-Api-Key': \"{s}\"",
    lambda s: f'{{"password": "{s}", "user": "me"}}',
    lambda s: rf"body {{\"secret_key\": \"{s}\"}}",
    lambda s: f"password={s} host=x",
    lambda s: f"PASSWORD = '{s} and {s}'",
    lambda s: f"aws_secret_access_key: {s}",
    lambda s: f"AccountName=x;AccountKey={s};EndpointSuffix=y",
    lambda s: f"started with --hf-token {s} --verbose",
    lambda s: f"sessionToken={s}",
    lambda s: f"token hf_{s.replace('/', 'a').replace('+', 'b')} refused",
    lambda s: f"sk-proj-{s.replace('/', '-').replace('+', '_')}0123456789",
    lambda s: f"ghp_{s.replace('/', 'a').replace('+', 'b')}012345",
]


def _forms(secret: str) -> set[str]:
    plain = secret.replace("/", "a").replace("+", "b")
    return {secret, quote(secret, safe=""), plain, secret.replace("/", "-").replace("+", "_")}


def _clean(outputs: list[str], secret: str) -> None:
    for output in outputs:
        for form in _forms(secret):
            assert form not in output


@pytest.mark.thorough
@settings(max_examples=4, deadline=None)
@given(secrets)
def test_no_planted_secret_comes_through(secret: str):
    for plant in URIS:
        uri = plant(secret)
        assert holds_credentials(uri), uri
        assert strip_credentials(strip_credentials(uri)) == strip_credentials(uri)
        _clean([strip_credentials(uri), ReadUnit(uri, "jsonl").origin], secret)
        _clean([redact_command(["s2l", "run", f"corpus.paths=[{uri}]"])], secret)
    for plant in URIS + MESSAGES:
        text = plant(secret)
        for message in (text, f"Cannot open '{text}': why", f"[{text!r}]\nnext"):
            _clean([redact_text(message), one_line(message, 10**6), str(UserError(message))], secret)
            _clean([describe(OSError(message)), shown({"a": [text]}), shown(text)], secret)
    out = StringIO()
    progress = Progress(out, interactive=False)
    for plant in URIS + MESSAGES:
        progress.say(plant(secret))
    _clean([out.getvalue()], secret)


@pytest.mark.thorough
@settings(max_examples=2, deadline=None)
@given(secrets)
def test_no_planted_secret_is_stored_and_keys_do_not_depend_on_it(secret: str):
    for plant in URIS:
        uri = plant(secret)
        tree = {"corpus": {"paths": [uri]}, "heldout": {"files": {"token": [uri]}}, "run_dir": uri,
                "proxy": {"model": "m", "tokenizer": uri}}  # fmt: skip
        config = load_config(tree)
        assert config.corpus.paths == [uri]  # what runs has them
        _clean([to_yaml(config), str(config.stored()), str(config.corpus.stored()), str(config.proxy.stored())], secret)
        again = load_config(yaml.safe_load(to_yaml(config)))
        assert again.stored() == config.stored()  # the settings in a stage's key


words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=60).map(
    str.strip
)
words = words.filter(bool)  # control characters are refused in a configuration
names = st.sampled_from(["secret_test", "password_qa", "token", "api_key", "access_key", "credentials", "sig"])


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(
    words,
    names,
    st.sampled_from(["password={{password}} {}", "https://u:p@host/{} {{x}}", "hf_abcdefghijklmnopqrst {}"]),
)
def test_what_is_no_location_is_stored_as_it_was_given(word: str, name: str, pattern: str):
    prompt = pattern.format(word.replace("{", "").replace("}", ""))
    config = load_config(
        {
            "corpus": {"paths": ["/data/a:b@c"], "source_column": word, "drop_columns": [name, word],
                       "template": {"prompt": prompt, "response": "{api_key}"}},
            "heldout": {"files": {name: [f"s3://{name}/password=x@y/*.jsonl?region=r"]}},
            "proxy": {"model": "m", "from_config": None},
        }
    )  # fmt: skip
    assert load_config(yaml.safe_load(to_yaml(config))) == config
    assert config.stored() == config.model_dump(mode="json")


@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from("abz \n.,;!?()[]{}'\"<>|/\\@#%&*+-_~汉\x1b"), max_size=200))
def test_text_without_credentials_passes_unchanged(text: str):
    assert redact_text(text) == text
    assert strip_credentials(text) == text


@pytest.mark.thorough
@pytest.mark.parametrize("unit", [
    "abcdefgh", "=", ":", "://", "a://", "@", '"', "'", "\\", "password=", 'password="', 'password=\\"', "--token ",
    "a.", "-", "sk-", "eyJ", "-----BEGIN ", "a://?token=&", "a%3A%2F%2F", "s3://K:", "s3://K:S@b ", "a://x?#", " ",
    "Bearer ",
    "hf_", "&", "%", "a:", "password=\n", "token'", "eyJaaaaaaaaaaa.", "x" * 39 + "://", "Authorization: ", "%2525",
    "汉=",
])  # fmt: skip
def test_time_grows_with_the_text_and_no_faster(unit: str):
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        started = time.process_time()
        redact_text(text)
        strip_credentials(text)
        return time.process_time() - started

    once, twice, four = (min(seconds(size) for _ in range(2)) for size in (50_000, 100_000, 200_000))
    assert four < 8 * once + 0.2, (once, twice, four)  # quadratic: sixteen times, and minutes for a megabyte


SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.mark.parametrize(
    "command",
    [
        ["run", "x.yaml", "--bogus", "{uri}"], ["run", "x.yaml", "--bogus={uri}"], ["{uri}"],
        ["select", "r", "--{uri}"],
        ["select", "r", "--budget", "{uri}"], ["select", "r", "--budget", "1", "--seed", "{uri}"],
        ["run", "--dry-run={uri}"], ["submit", "x", "--command", "{uri}"], ["sweep", "x", "--within", "{uri}"],
        ["run", "x.yaml", "--api-key", "{secret} and more"], ["run", "x.yaml", "--password", "one {secret}"],
        ["verify", "r", "--token={secret}"], ["submit", "x", "--secret", "{secret}"],
        ["inspect", "r", "password={secret}"],
        ["inspect", "r", 'password="and {secret}"', "--examples", "{uri}"],
    ],
)  # fmt: skip
def test_the_command_lines_own_errors_hold_no_secret(command: list[str], capsys: pytest.CaptureFixture[str]):
    uri = f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/x"
    with pytest.raises(SystemExit) as ended:
        main([word.format(uri=uri, secret=SECRET) for word in command])
    shown = "".join(capsys.readouterr())
    assert ended.value.code == 2
    assert "error: " in shown
    assert not any(piece in shown for piece in SECRET.replace("+", "/").split("/")), shown
