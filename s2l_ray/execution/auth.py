"""Ray's token: one of its own for an embedded Ray; for a cluster the one that lies where Ray keeps it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2l_ray.errors import UserError
from s2l_ray.storage.processes import at_abrupt_end, machine_id, start_time

_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_FOLDER = "s2l-ray-token-"

WHERE_RAY_LOOKS = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token"
"""In Ray's order."""


class TokenError(UserError):
    """A cluster wants a token that is not here, or refuses the one that is; nothing was started."""


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """Token mode, with a fresh token that is gone after the block, for the Ray that is started inside it.

    Ray's processes find it by the path of a file that only this user reads: neither command lines nor environments nor
    logs show it. The user's own token and RAY_AUTH_* are as before after the block.
    """
    _remove_stale()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER))  # mode 0700
    try:
        owner = {"machine": machine_id(), "pid": os.getpid(), "process_start": start_time(os.getpid())}
        (folder / "owner.json").write_text(json.dumps(owner))
        path = folder / "token"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with (
            at_abrupt_end(lambda: shutil.rmtree(folder, ignore_errors=True)),
            environment({_MODE: "token", _TOKEN_PATH: str(path), _TOKEN: None}),
        ):
            _forget_cached()
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _forget_cached()


def _remove_stale() -> None:
    """Tokens of processes that were killed, on this machine and of this user."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if folder.stat().st_uid != os.getuid():
                continue
            owner = json.loads((folder / "owner.json").read_text())
            if owner["machine"] == machine_id() and start_time(int(owner["pid"])) != owner["process_start"]:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Environment variables for the block; None takes one away."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(changes: dict[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _forget_cached() -> None:
    """Ray caches mode and token for the process; another Ray in the same process has another one."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def take_token_if_there() -> bool:
    """Token mode where a token lies in Ray's place and the user has set no mode → whether there is a token.

    `ray start` does the same, so a cluster that was started with a token is joined with it. Ray's own driver does it
    only where it has found the cluster by itself.

    Raises:
        TokenError: the variable names a file that cannot be read.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    _forget_cached()  # RAY_AUTH_* may have been set after Ray was imported
    try:
        if maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            return AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        return False
    except Exception as error:
        raise TokenError(
            f"no token can be read from {_TOKEN_PATH}={os.environ.get(_TOKEN_PATH)}; correct the variable, or unset it "
            "to use ~/.ray/auth_token"
        ) from error


def explain_refusal(address: str, has_token: bool) -> str:
    """One line for a cluster that has refused this process for lack of the right token."""
    if os.environ.get(_MODE, "token").lower() != "token":
        return f"{address} wants a token, but {_MODE}={os.environ[_MODE]} forbids to send one; unset {_MODE}"
    if has_token:
        return (
            f"{address} refuses the token that lies here ({WHERE_RAY_LOOKS}: the first counts). Put the cluster's "
            "there: `ray get-auth-token` on its head shows it"
        )
    return (
        f"{address} wants a token, and none lies here ({WHERE_RAY_LOOKS}). `ray get-auth-token` on the cluster's head "
        "shows it"
    )
