"""Ray's authentication token: a fresh one for an embedded Ray; for a cluster, the one stored where Ray looks for it."""

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
"""Places where Ray looks for a token, in its order."""


class TokenError(UserError):
    """A cluster requires a token that was not found, or rejects the one that was; nothing was started."""


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """Token mode with a fresh token for the Ray that is started inside the block; the token is deleted afterwards.

    Ray's processes get the path of a file that only this user can read, so the token appears in no command line,
    environment or log. The user's own token and RAY_AUTH_* are restored after the block.
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
    """Delete tokens left behind by this user's killed processes on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if folder.stat().st_uid != os.getuid():
                continue
            owner = json.loads((folder / "owner.json").read_text())
            if owner["machine"] == machine_id() and start_time(int(owner["pid"])) != owner["process_start"]:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables for the block; None removes one."""
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
    """Clear the mode and token that Ray caches per process; another Ray in the same process has another token."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def take_token_if_there() -> bool:
    """Turn on token mode if a token is found and the user has set no mode → whether there is a token.

    `ray start` does the same, so a cluster that was started with a token is joined with it. Ray's own driver does this
    only if it has found the cluster by itself.

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
    """One line for a cluster that has rejected this process because it lacks the right token."""
    if os.environ.get(_MODE, "token").lower() != "token":
        return f"{address} requires a token, but {_MODE}={os.environ[_MODE]} prevents sending one; unset {_MODE}"
    if has_token:
        return (
            f"{address} rejects this machine's token (the first of {WHERE_RAY_LOOKS}). Replace it with the cluster's: "
            "`ray get-auth-token` on its head prints it"
        )
    return (
        f"{address} requires a token, and this machine has none ({WHERE_RAY_LOOKS}). `ray get-auth-token` on the "
        "cluster's head prints it"
    )
