"""Credentials are kept out of what is stored and shown, and nothing else is."""

from __future__ import annotations

import re
import time

import pytest

from s2l_ray.text.redact import holds_credentials, redact_command, redact_text, split_user, strip_credentials

URIS = {
    "s3://KEY:SEC/RET@bucket/path?region=r": "s3://bucket/path?region=r",  # AWS's secrets hold slashes
    "s3://KEY:12/34@bucket/a@b": "s3://bucket/a@b",
    "s3://KEY:SEC+RE%2FT@bucket/p/a@b": "s3://bucket/p/a@b",
    "S3://KEY:SEC@bucket": "S3://bucket",
    "s3://b/p?Secret_Key=a&region=r&ACCESS_KEY=b&session_token=c": "s3://b/p?region=r",
    "https://b.s3.amazonaws.com/x?X-Amz-Credential=a%2Fb&X-Amz-Date=1&X-Amz-Signature=c&v=1": (
        "https://b.s3.amazonaws.com/x?v=1"
    ),
    "https://h/x?x%2Damz%2dsecurity%2Dtoken=a": "https://h/x",
    "https://storage.googleapis.com/b/x?X-Goog-Signature=a&X-Goog-Expires=9#part": (
        "https://storage.googleapis.com/b/x#part"
    ),
    "https://a.blob.core.windows.net/c/x?sv=2024&se=2026&sp=r&sig=a%2Bb": "https://a.blob.core.windows.net/c/x",
    "https://h/x?AWSAccessKeyId=a&Expires=1&Signature=b": "https://h/x",
    "abfs://container:key@account/p": "abfs://account/p",
    "abfs://account/c?account_key=a&tenant=b": "abfs://account/c?tenant=b",
    "simplecache::s3://KEY:SEC@b/x": "simplecache::s3://b/x",
    "zip://a.csv::https://u:p@h/b.zip?token=1": "zip://a.csv::https://h/b.zip",
    "https://h/?url=s3://K:S@b/x&token=abc&r=1": "https://h/?url=s3://b/x&r=1",
    "https://h/?url=s3%3A%2F%2FK%3AS%40b%2Fx&r=1": "https://h/?url=s3%3A%2F%2Fb%2Fx&r=1",
    "https://hf_token@huggingface.co/x": "https://huggingface.co/x",
    "https://u:p@ss@h/x": "https://h/x",
    "https://u:p?w#d@h/x": "https://h/x",
    "https://h/cb#access_token=a&state=b": "https://h/cb#state=b",
    "postgresql+psycopg://u:p@h:5432/db": "postgresql+psycopg://h:5432/db",
}

CLEAN_URIS = (
    "s3://bucket/data/*.jsonl?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
    "s3://b/p?a+b=c%20d&", "s3://b/x?", "gs://anonymous@b/x", "abfs://container@account/p", "hdfs://user@nn:8020/p",
    "ssh://git@github.com/x", "http://localhost:8265/@user/x", "https://medium.com/@name?u=https%3A%2F%2Fa.b%2F%40c",
    "http://[::1]:80/a@b", "https://h/x?se=2&sp=r&page_token_count=3", "s3://secret/password/token@y",
    "file:///a:b@c/x", "/data/KEY:SEC@x", "a@b.c", "secret_test", "", "sqlite:////data/m.db",
)  # fmt: skip


@pytest.mark.parametrize("uri", URIS)
def test_credentials_are_left_out_of_a_uri(uri: str):
    assert strip_credentials(uri) == URIS[uri]
    assert holds_credentials(uri)
    assert not holds_credentials(URIS[uri])


@pytest.mark.parametrize("uri", CLEAN_URIS)
def test_other_uris_come_back_as_they_are(uri: str):
    assert strip_credentials(uri) == uri
    assert redact_text(f"in '{uri}': 3 rows") == f"in '{uri}': 3 rows"


def test_a_secret_with_slashes_is_found_whole():
    assert split_user("s3://KEY:S/E@b/a@c?x=y") == ("s3://", "KEY:S/E", "b/a@c?x=y")
    assert split_user("s3://b/a@c") == ("s3://", "", "b/a@c")


def test_a_command_is_shown_without_credentials():
    command = [
        "s2l",
        "run",
        "a.yaml",
        "x.password=two words",
        "--token",
        "abc",
        "corpus.paths=[s3://K:S/E@b/x]",
        "seed=1",
    ]
    assert redact_command(command) == 's2l run a.yaml x.password="***" --token *** corpus.paths=[s3://***@b/x] seed=1'


@pytest.mark.parametrize("value", ["two words", 'a "quoted" word', "back\\slash and\nline", "plain"])
def test_an_options_value_is_masked_whole(value: str):
    for command in (["s2l", "--api-key", value, "x=1"], ["s2l", f"--api-key={value}", "x=1"]):
        shown = redact_command(command)
        assert not set(value.split()) & set(re.split(r"[\s\"]+", shown)), shown
        assert shown.startswith("s2l --api-key")
        assert shown.endswith(" x=1")


def test_a_long_word_is_looked_through_at_once():
    started = time.monotonic()
    word = "x" * 200_000
    assert redact_text(f"{word}; my_api_key=a=b&x=1;token=c") == f"{word}; my_api_key=***&x=1;token=***"
    assert time.monotonic() - started < 30, "it was cubic: minutes"
