"""Passes connections on to a server, and cuts them when a test says so, as a load balancer or a lost network does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CutRelay:
    """TCP from a port of 127.0.0.1 to another. ``accepted`` counts the connections."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._open: list[socket.socket] = []
        self._passes = threading.Event()
        self._passes.set()
        self.accepted = 0
        self.to_cut = 0
        """How many of the next connections are closed at once."""
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @contextmanager
    def passing(self) -> Iterator[CutRelay]:
        """Pass on until the block ends."""
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield self
        finally:
            self._passes.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            self._listener.close()
            self.cut()

    def cut(self) -> None:
        """End all connections, in the middle of whatever they carry."""
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Let connections wait until ``release``, as while nothing answers."""
        self._passes.clear()
        self.cut()

    def release(self) -> None:
        self._passes.set()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._passes.wait()
            if self.to_cut:
                self.to_cut -= 1
                here.close()
                continue
            with suppress(OSError):  # the server is away: its client is told so by a closed connection
                there = socket.create_connection(("127.0.0.1", self._upstream))
                self._open += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()
                continue
            here.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(2**16):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
