"""A real Valkey or Redis server for tests, on a port of this machine."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from harness import free_port, pid_exists, wait_until

# The package of the tools (scripts/bootstrap --test) has the server by the name of one of them, which it then goes by.
PROGRAMS = ["valkey-server", "redis-server", "valkey-check-rdb", "redis-check-rdb"]


def program() -> str:
    found = next((path for word in PROGRAMS if (path := shutil.which(word))), None)
    if found is None:
        pytest.skip("no Valkey and no Redis on this machine (scripts/bootstrap --test)")
    return found


class KeyValueServer:
    def __init__(self, *flags: str) -> None:
        self.program = program()
        self.folder = tempfile.TemporaryDirectory(prefix="sluice-kv-")
        self.port = free_port()
        self.flags = flags
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "KeyValueServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)
        self.folder.cleanup()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        log = pathlib.Path(self.folder.name) / "log"
        self.child = subprocess.Popen(["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder.name, "--save", "", "--logfile", str(log), *self.flags],
                                      executable=self.program, stdin=subprocess.DEVNULL)
        wait_until(lambda: self.ask("PING") == "+PONG", f"the server answers: {log}")

    def send_signal(self, number: int) -> None:
        assert self.child is not None
        os.kill(self.child.pid, number)
        if number == signal.SIGSTOP:  # until then it may still answer
            os.waitid(os.P_PID, self.child.pid, os.WSTOPPED | os.WNOWAIT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.child is None:
            return
        if pid_exists(self.child.pid):
            self.send_signal(number)
            if number != signal.SIGKILL:
                self.send_signal(signal.SIGCONT)
        self.child.wait(60)
        self.child = None

    def ask(self, *words: str) -> str | None:
        """The first line of the answer; None where nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words))
                with connection.makefile("rb") as answer:
                    return answer.readline().decode(errors="replace").rstrip("\r\n")
        except OSError:
            return None

    def documents(self) -> int:
        """Keys that are there, but for the two of the log."""
        answer = self.ask("DBSIZE")
        assert answer is not None and answer.startswith(":"), answer
        return int(answer[1:]) - 1 - (1 if self.ask("EXISTS", "sluice:purges") == ":1" else 0)
