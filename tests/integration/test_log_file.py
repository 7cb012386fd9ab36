"""A log that turns over by itself, for who has no journal: log.file."""
import re
import resource
import subprocess

import pytest

import harness
from harness import wait_until

pytestmark = pytest.mark.process
BYTES = 65536
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+[+-]\d\d:\d\d (?:info|warning|error|debug) serve \S.*")


def flags(folder):
    return [word for one in (f"log.file={folder}/{{role}}.log", f"log.file_bytes_max={BYTES}", "log.files_max=2") for word in ("--set", one)]


def ask(server, count):
    for _ in range(count):
        assert harness.request(server.port, "GET", "/v1/models").status == 200


def test_a_log_turns_over_and_no_line_is_torn(tmp_path):
    with harness.serve(*flags(tmp_path)) as server:
        server.wait_ready()

        def is_turned():
            ask(server, 50)
            return (tmp_path / "serve.2.log").exists()

        wait_until(is_turned, "it has turned over twice", 120)
        ask(server, 400)  # and goes on to: the oldest has gone
        again = subprocess.run([harness.BINARY, "serve", "--model", harness.MODEL, "--port", "0", *flags(tmp_path)], capture_output=True, text=True, timeout=60)
        assert again.returncode == 1 and "another process writes" in again.stderr and "{role}" in again.stderr
        assert server.stop() == 0
        assert "access" not in server.output()
    files = {path.name for path in tmp_path.glob("*.log")}
    assert files == {"serve.log", "serve.1.log", "serve.2.log"}
    lines = []
    for name in files:
        text = (tmp_path / name).read_text()
        assert len(text) <= BYTES and text.endswith("\n")
        lines += text.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    ids = re.findall(r'"request_id":"([^"]+)"', "\n".join(lines))
    assert len(ids) > 300 and len(set(ids)) == len(ids)

    with harness.serve(*flags(tmp_path)) as server:  # nobody writes it any more
        server.wait_ready()
        assert server.stop() == 0


def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path):
    """Its file can grow no more, as on a disk that is full."""
    port = harness.free_port()
    with harness.Server(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "start", harness.BINARY, "serve", "--model", harness.MODEL, "--port", str(port), *flags(tmp_path)], port) as server:
        server.wait_ready()
        before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        most = 8192  # more than what it says elsewhere
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (most, before[1]))
        ask(server, 100)
        wait_until(lambda: "LOG ERROR" in server.output(), "it is told where there is room")
        size = (tmp_path / "serve.log").stat().st_size
        assert size <= most
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
        ask(server, 5)
        wait_until(lambda: (tmp_path / "serve.log").stat().st_size > size, "it goes on")
        assert server.stop() == 0


def test_a_log_in_a_folder_that_is_not_there_is_said(tmp_path):
    done = subprocess.run([harness.BINARY, "scheduler", "--listen", "127.0.0.1:0", "--set", f"cluster.key={'1' * 32}", *flags(tmp_path / "none")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "log.file: " in done.stderr and "scheduler.log" in done.stderr, done.stderr
