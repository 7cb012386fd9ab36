"""Processes of Sluice under test, and HTTP as bytes.

Everything listens on loopback (or inside namespaces that a test made) at a port that was free, and dies with the test run.
"""
from __future__ import annotations

import dataclasses
import http.client
import json
import os
import pathlib
import random
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = pathlib.Path(os.environ.get("SLUICE_BINARY") or ROOT / "build" / "release" / "sluice").resolve()
MODEL = ROOT / "models" / "stories260k"
MODEL_ID = "stories260k"
CONTEXT_TOKENS = 512
START_SECONDS = 60
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]


def golden_cases() -> list[dict[str, Any]]:
    """Greedy continuations of the demo model: prompt, prompt_ids, output_ids, output_text (which begins with the prompt)."""
    return json.loads((ROOT / "tests" / "data" / "stories260k" / "greedy_text.json").read_text())["cases"]


def free_port() -> int:
    """Free now, and not one that the kernel gives to outgoing connections, or that local-cluster or free_run_of_ports take."""
    for _ in range(100):
        port = random.SystemRandom().randrange(12000, 20000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """The first true value of `condition()`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


# --- processes ------------------------------------------------------------------------------------------------------------


class Process:
    """A child with its output in a file. Killed when the test run dies."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], environment: dict[str, str] | None = None,
                 stdin: int = subprocess.DEVNULL) -> None:
        self.command = [str(word) for word in command]
        self.log = tempfile.NamedTemporaryFile(prefix="sluice-test-", suffix=".log")
        self.child = subprocess.Popen([*DIE_WITH_PARENT, *self.command], stdin=stdin, stdout=self.log, stderr=subprocess.STDOUT,
                                      env={**os.environ, **(environment or {})})

    @property
    def pid(self) -> int:
        return self.child.pid

    def output(self) -> str:
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def wait(self, seconds: float = 60) -> int:
        """Exit status; negative for a signal."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} did not end within {seconds} s:\n{self.output()}") from None

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 60) -> int:
        if self.is_alive():
            self.child.send_signal(signal_number)
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.command} did not end within {seconds} s of signal {signal_number}:\n{self.output()}") from None
        # Whoever falls of itself says where.
        assert status >= 0 or status in (-signal_number, -signal.SIGKILL), f"{self.command} has ended by {signal.Signals(-status).name}:\n{self.output()}"
        return status

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_alive():
            self.child.kill()
            self.child.wait()


class Server(Process):
    """Something that answers HTTP at 127.0.0.1:port and is ready when /health says so."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], port: int, environment: dict[str, str] | None = None) -> None:
        super().__init__(command, environment)
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        if not self.is_alive():
            raise AssertionError(f"{self.command} ended with {self.child.returncode}:\n{self.output()}")
        try:
            return request(self.port, "GET", "/health").status == 200
        except OSError:
            return False

    def wait_ready(self, seconds: float = START_SECONDS) -> Server:
        try:
            wait_until(self.is_ready, f"{self.command} is ready", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None
        return self


def serve(*flags: str, model: pathlib.Path = MODEL, prefill: int = 1, decode: int = 1, mixed: int = 0,
          environment: dict[str, str] | None = None) -> Server:
    """`sluice serve`: all roles in one process. Not yet ready."""
    port = free_port()
    return Server([BINARY, "serve", "--model", model, "--port", str(port), "--prefill", str(prefill), "--decode", str(decode),
                   "--mixed", str(mixed), *flags], port, environment)


def make_slow_model(folder: pathlib.Path) -> pathlib.Path:
    """So slow that streams of it run while processes come and go."""
    with Process([BINARY, "model", "make", "--shape", "stories15m", folder / "slow"]) as made:
        assert made.wait() == 0, made.output()
    return folder / "slow"


class LocalCluster(Server):
    """scripts/local-cluster: a process for each role. The script says when the cluster is up: what a test does before, it does to the start."""

    ROLES = ("scheduler", "prefill", "decode", "mixed", "encode", "gateway")

    def __init__(self, prefill: int, decode: int, mixed: int = 0, model: pathlib.Path = MODEL, settings: Sequence[str] = (),
                 binary: pathlib.Path = BINARY, encoder: pathlib.Path | None = None, encode: int = 1, schedulers: int = 1, environment: dict[str, str] | None = None,
                 certificates: pathlib.Path | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sluice-cluster-")
        self.admin_base = free_run_of_ports(1 + schedulers + prefill + decode + mixed + encode)
        port = free_port()
        flags = [word for setting in settings for word in ("--set", setting)]
        self.key = secrets.token_hex(16)
        flags += ["--encoder", encoder, "--encode", str(encode)] if encoder else []
        flags += ["--certificates", certificates] if certificates else []
        super().__init__([ROOT / "scripts" / "local-cluster", "--binary", binary, "--model", model, "--port", str(port),
                          "--schedulers", str(schedulers), "--prefill", str(prefill), "--decode", str(decode), "--mixed", str(mixed), "--threads", "1",
                          "--log-dir", self.folder.name, "--admin-ports", str(self.admin_base), *flags], port, {"SLUICE_CLUSTER_KEY": self.key, **(environment or {})})

    def is_ready(self) -> bool:
        if not self.is_alive():
            raise AssertionError(f"{self.command} ended with {self.child.returncode}:\n{self.output()}\n{self.logs()}")
        return re.search(r"^ready http://", self.output(), re.MULTILINE) is not None

    def pids(self) -> list[tuple[str, int]]:
        """(role, pid) in the order of their start, as printed."""
        found = re.findall(rf"^({'|'.join(self.ROLES)}) (\d+)$", self.output(), re.MULTILINE)
        return [(role, int(pid)) for role, pid in found]

    def pids_of(self, role: str) -> list[int]:
        return [pid for name, pid in self.pids() if name == role]

    def admin_port(self, pid: int) -> int:
        return self.admin_base + [other for _, other in self.pids()].index(pid)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in sorted(pathlib.Path(self.folder.name).iterdir()))


def check_same_when_a_decode_worker_dies(ask: Callable[[int, int], Any], count: int = 6, model: pathlib.Path = MODEL, settings: Sequence[str] = ()) -> list[Any]:
    """`ask(port, seed)` for `count` seeds at once, three times: undisturbed, with one of two decode workers killed meanwhile, and without it. The answers, which must be the same."""

    def begin(port: int) -> tuple[list[threading.Thread], dict[int, Any]]:
        told: dict[int, Any] = {}
        threads = [threading.Thread(target=lambda seed=seed: told.__setitem__(seed, ask(port, seed))) for seed in range(count)]
        for thread in threads:
            thread.start()
        return threads, told

    rounds = []
    with LocalCluster(prefill=1, decode=2, model=model, settings=settings) as cluster:
        cluster.wait_ready()
        for kills in (False, True, False):
            threads, told = begin(cluster.port)
            if kills:
                wait_until(lambda told=told, threads=threads: told or not any(thread.is_alive() for thread in threads), "one has ended")
                os.kill(cluster.pids_of("decode")[0], signal.SIGKILL)
            for thread in threads:
                thread.join()
            rounds.append([told.get(seed) for seed in range(count)])  # None: it raised
    assert None not in rounds[0] and rounds[1] == rounds[0] and rounds[2] == rounds[0], rounds
    return rounds[0]


def free_run_of_ports(count: int) -> int:
    """The first of `count` neighbouring free ports, somewhere: test runs beside each other look in different places."""
    for _ in range(1000):
        first = random.SystemRandom().randrange(21000, 32000 - count)
        probes = []
        try:
            for port in range(first, first + count):
                probe = socket.socket()
                probes.append(probe)
                probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")


def pid_exists(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
            except OSError:
                continue
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def text_processes(pid: int) -> list[int]:
    """Those of a process and all below it that work on text."""
    found = []
    for one in sorted(family(pid)):
        try:
            if pathlib.Path(f"/proc/{one}/stat").read_text().rpartition(")")[0].endswith("(sluice-text"):
                found.append(one)
        except OSError:
            continue  # it has ended
    return found


def cpu_seconds(pid: int) -> float:
    """Also of children that have ended."""
    total = 0.0
    for one in family(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(fields[index]) for index in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total


def freeze(pid: int) -> None:
    """SIGSTOP, and waits until all of its threads stand: until one of them has got round to it, the others go on."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(pathlib.Path(f"{task}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T" for task in pathlib.Path(f"/proc/{pid}/task").iterdir()),
               f"process {pid} stands still", 60)


# --- HTTP -----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, seconds: float = 60) -> Answer:
    """One exchange on a connection of its own. `body`: bytes as they are, anything else as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method, path, body=data, headers={**all_headers, **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def post(port: int, path: str, **fields: Any) -> Answer:
    return request(port, "POST", path, fields)


def raw_exchange(port: int, data: bytes, seconds: float = 10) -> bytes:
    """Sends exactly these bytes and reads until the server closes or is silent. For requests that no client library would make."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        connection.settimeout(1)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return received


class Stream:
    """A streamed answer, event by event."""

    def __init__(self, port: int, path: str, body: dict[str, Any], headers: dict[str, str] | None = None, seconds: float = 60) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        self.connection.request("POST", path, body=json.dumps({**body, "stream": True}).encode(),
                                headers={"Content-Type": "application/json", **(headers or {})})
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}
        self.received = b""  # everything so far, as it came

    def events(self) -> Iterator[bytes]:
        """Each event without its blank line, as it came."""
        pending = b""
        while chunk := self.response.read1(65536):
            self.received += chunk
            pending += chunk
            while b"\n\n" in pending:
                event, pending = pending.split(b"\n\n", 1)
                yield event
        assert pending == b"", f"the stream ends inside an event: {pending!r}"

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The JSON of each data event before [DONE]; comments are passed over."""
        is_done = False
        for event in self.events():
            if event.startswith(b":"):
                continue
            assert not is_done, f"an event after [DONE]: {event!r}"
            assert event.startswith(b"data: ") and b"\n" not in event, f"not one data line: {event!r}"
            if event == b"data: [DONE]":
                is_done = True
                continue
            yield json.loads(event.removeprefix(b"data: "))
        assert is_done, "the stream ended without [DONE]"

    def close(self) -> None:
        """Goes away at once, in the middle if need be."""
        self.response.close()
        self.connection.close()


def stream_chunks(port: int, path: str, **fields: Any) -> list[dict[str, Any]]:
    stream = Stream(port, path, fields)
    assert stream.status == 200, stream.response.read()
    try:
        return list(stream.chunks())
    finally:
        stream.close()


def text_of(chunks: Sequence[dict[str, Any]], index: int = 0) -> str:
    """The text of one choice put together, chat or completions."""
    parts = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                parts.append(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
    return "".join(parts)


def assert_error(answer: Answer, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error form with all four keys, as JSON, with this status."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert {"message", "type", "param", "code"} <= set(error), error
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    if code is not None:
        assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param, error
    return error


# --- metrics --------------------------------------------------------------------------------------------------------------


def metrics(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of /metrics by name and labels."""
    answer = request(port, "GET", "/metrics")
    assert answer.status == 200, answer.body
    samples = {}
    for line in answer.body.decode().splitlines():
        match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        if match and not line.startswith("#"):
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            samples[match[1], labels] = float(match[3])
    return samples


def blocks_in_use(port: int) -> float:
    """KV blocks that belong to a running or transferring sequence, summed over the workers behind this /metrics."""
    found = {labels: value for (name, labels), value in metrics(port).items() if name == "sluice_worker_kv_blocks"}
    assert found, "sluice_worker_kv_blocks is not exported"
    return sum(value for labels, value in found.items() if dict(labels)["state"] in {"used", "pinned", "stranded"})
