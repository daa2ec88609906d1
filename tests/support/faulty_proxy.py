"""A TCP proxy in front of a server that can be made to fail: the server behind it keeps its data."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal

Mode = Literal["pass", "reset", "busy", "refuse", "hang"]
_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class FaultyProxy:
    """`with FaultyProxy("127.0.0.1:9000") as proxy:` forwards `proxy.address`, as long as `proxy.mode` is "pass".

    "reset" ends every connection by RST, "busy" answers every request with 503, "refuse" does not listen at all,
    "hang" says nothing any more on any connection, old or new, as when a cable is pulled.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.partition(":")
        self._server = (host, int(port))
        self._listener: socket.socket | None = None
        self._mode: Mode = "pass"
        self._open: set[socket.socket] = set()
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self.faults = 0
        """Connections that were failed."""

    def __enter__(self) -> FaultyProxy:
        self._listen(0)
        assert self._listener is not None
        self._port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._stop_listening()
        self._end_all()

    def set(self, mode: Mode) -> None:
        """From now on; connections that are open end."""
        was, self._mode = self._mode, mode
        if mode == "refuse":
            self._stop_listening()
        elif was == "refuse":
            self._listen(self._port)
        if mode not in ("pass", "hang"):
            self._end_all()

    def _listen(self, port: int) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._mode == "hang":
            self.faults += 1
            with self._mutex:
                self._open.add(client)
            return
        if self._mode != "pass":
            self.faults += 1
            with contextlib.suppress(OSError):
                if self._mode == "busy":
                    client.recv(65536)
                    client.sendall(_BUSY)
            _end(client, reset=self._mode == "reset")
            return
        server = socket.create_connection(self._server)
        with self._mutex:
            self._open |= {client, server}
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        with self._mutex:
            self._open -= {client, server}
        _end(client)
        _end(server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        lost = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._mode == "hang":  # lost; nobody is told
                    if self._ended.wait(0.1):
                        return
                    lost = True
                if lost:
                    continue
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _end_all(self) -> None:
        with self._mutex:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _end(end: socket.socket, reset: bool = False) -> None:
    with contextlib.suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
