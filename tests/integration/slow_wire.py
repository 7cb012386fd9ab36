"""A TCP wire between two processes of one host that is as slow as a test wants it, and gets slower where the test says so."""
from __future__ import annotations

import contextlib
import socket
import threading
import time

CATCH_UP_S = 0.1  # of a thread that is woken late
PIECE = 4096  # bytes that go on at once: a message is on the wire for as long as its length says


class SlowWire:
    """Listens at `host`:`port` and passes on to 127.0.0.1:`port`: what goes there at `bytes_per_s` (None: as fast as it comes), what comes back at once.

    Both ends talk to it through small buffers, so what it has not passed on yet is soon what the sender has not sent."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.changed = threading.Condition()
        # Guarded by it:
        self.bytes_per_s: float | None = None
        self.passed = 0
        self.free_at = 0.0  # when the wire has carried what it took
        self.slow_from: tuple[int, float] | None = None
        self.is_closed = False
        self.sockets: set[socket.socket] = set()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE)
        self.listener.bind((host, port))
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def set_rate(self, bytes_per_s: float | None) -> None:
        with self.changed:
            self.bytes_per_s, self.slow_from = bytes_per_s, None
            self.free_at = 0.0
            self.changed.notify_all()

    def slow_after(self, more_bytes: int, bytes_per_s: float) -> None:
        """When so many more have passed it is so slow."""
        with self.changed:
            self.slow_from = self.passed + more_bytes, bytes_per_s

    def is_slow(self) -> bool:
        """Whether it has come to that."""
        with self.changed:
            return self.slow_from is not None and self.passed >= self.slow_from[0]

    def close(self) -> None:
        with self.changed:
            self.is_closed = True
            sockets = [self.listener, *self.sockets]
            self.changed.notify_all()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE)
            with self.changed:
                if self.is_closed:
                    near.close()
                    return
                self.sockets |= {near, far}
            try:
                far.connect(("127.0.0.1", self.port))
            except OSError:
                self.end(near, far)
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.pump, args=(near, far, self.carry), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, lambda _: None), daemon=True).start()

    def end(self, *sockets: socket.socket) -> None:
        with self.changed:
            self.sockets -= set(sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # also wakes the other thread that uses it
            one.close()

    def pump(self, source: socket.socket, sink: socket.socket, carry) -> None:
        try:
            while piece := source.recv(PIECE):
                carry(len(piece))
                sink.sendall(piece)
        except OSError:
            pass
        self.end(source, sink)

    def carry(self, count: int) -> None:
        """Returns when the wire has carried so many bytes, behind those that it took before."""
        with self.changed:
            if self.bytes_per_s is not None:
                self.free_at = max(self.free_at, time.monotonic() - CATCH_UP_S) + count / self.bytes_per_s
            while not self.is_closed and (wait := self.free_at - time.monotonic()) > 0:
                self.changed.wait(wait)
            self.passed += count
            if self.slow_from is not None and self.passed >= self.slow_from[0]:
                self.bytes_per_s = self.slow_from[1]
