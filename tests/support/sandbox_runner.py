"""A process of its own that uses the sandbox, for what cannot be done to the tests' own process.

    python sandbox_runner.py < request.json    # {"settings": {…}, "programs": […], "deny": [[number, errno], …]}

Prints {"results": […]} or {"refused": message, "unlocked": message}. `deny`: system calls that a filter refuses to this
process and all that it starts, as a container or an old kernel would.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from s2l_ray.evaluation.sandbox import EvaluationError, Sandbox, SandboxSettings
from s2l_ray.evaluation.sandbox.fork_server import ForkServer
from s2l_ray.evaluation.sandbox.lock import prctl
from s2l_ray.evaluation.sandbox.seccomp import ALLOW, install_filter
from s2l_ray.evaluation.sandbox.watch import ServerFault

LOAD, IF_EQUAL, RETURN, ERRNO = 0x20, 0x15, 0x06, 0x50000


def main() -> None:
    request = json.load(sys.stdin)
    if denied := request.get("deny"):
        prctl(38, 1)  # no_new_privs, without which only root may
        install_filter(refusing(denied))
    settings = SandboxSettings(**request["settings"])
    try:
        with Sandbox(settings) as sandbox:
            answer: dict[str, Any] = {
                "results": [asdict(result) for result in sandbox.run_many(request["programs"])],
                "report": sandbox.probe().plain(),
            }
    except EvaluationError as error:
        answer = {"refused": str(error), "unlocked": _without_self_test(settings, request["programs"])}
    print(json.dumps(answer))


def refusing(denied: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Each (number, errno) or (number, errno, value of the first argument) is refused, all else allowed."""
    code = []
    for number, error, *first in denied:
        body = [(RETURN, 0, 0, ERRNO | error)]
        if first:
            body = [(LOAD, 0, 0, 16), (IF_EQUAL, 0, 1, first[0]), *body]
        code += [(LOAD, 0, 0, 0), (IF_EQUAL, 0, len(body), number), *body]
    return [*code, (RETURN, 0, 0, ALLOW)]


def _without_self_test(settings: SandboxSettings, programs: list[str]) -> str:
    """What a server says that is asked to run a program although the node was refused."""
    try:
        server = ForkServer(settings)
    except ServerFault as error:
        return str(error)
    try:
        return f"it ran: {server.run(programs[0])}"
    except ServerFault as error:
        return str(error)
    finally:
        server.close()


if __name__ == "__main__":
    main()
