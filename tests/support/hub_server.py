"""A hub that takes what `huggingface_hub` uploads: the few addresses of its protocol that a push uses, and no more."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34


@dataclass
class Hub:
    """What it was given."""

    address: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    refuse: int | None = None
    """Answer every request with this status."""

    def take(self, path: str, body: bytes) -> dict[str, Any]:
        """A POST → its answer."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name] = asked
            prefix = "datasets/" if asked["type"] == "dataset" else ""
            return {"url": f"{self.address}/{prefix}{name}", "name": name, "id": name}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return {"files": modes}
        if "/commit/" in path:
            for line in body.splitlines():
                operation = json.loads(line)
                if operation["key"] == "file":
                    value = operation["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            place = path.removeprefix("/api/models/").removeprefix("/api/").partition("/commit/")[0]
            return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.address}/{place}/commit/{'0' * 40}"}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        raise KeyError(path)


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Serve it on this machine, in a thread, until `shutdown`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self._answer(hub.refuse or (200 if allowed else 401), lambda: hub.take(self.path.partition("?")[0], body))

        def do_GET(self) -> None:
            self._answer(hub.refuse or 404, dict)

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, make: Any) -> None:
            answer = json.dumps(make() if status == 200 else {"error": "refused by the test"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
