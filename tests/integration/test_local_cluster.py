"""scripts/local-cluster: every role a process, a worker killed in the middle, and nothing left behind."""
import os
import signal
import subprocess
import sys

import pytest

import harness
from harness import LocalCluster, wait_until
from streams import Streams

pytestmark = pytest.mark.process
STREAMS, TOKENS = 24, 100


@pytest.fixture
def cluster():
    with LocalCluster(prefill=2, decode=2) as cluster:
        try:
            yield cluster.wait_ready()
        finally:
            print(cluster.output(), cluster.logs(), sep="\n")  # shown when the test fails


def workers_in_use(cluster):
    pids = [pid for role, pid in cluster.pids() if role in ("prefill", "decode", "mixed") and harness.pid_exists(pid)]
    return sum(harness.blocks_in_use(cluster.admin_port(pid)) for pid in pids)


def test_every_role_is_a_process_that_ends_with_the_cluster(cluster):
    roles = sorted(role for role, _ in cluster.pids())
    assert roles == ["decode", "decode", "gateway", "prefill", "prefill", "scheduler"]
    for role, pid in cluster.pids():
        assert harness.pid_exists(pid), role
        assert f"{harness.BINARY.name}\0{role}\0" in open(f"/proc/{pid}/cmdline").read()
    case = harness.golden_cases()[2]
    answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0)
    assert case["prompt"] + answer.json()["choices"][0]["text"] == case["output_text"]
    assert cluster.stop(signal.SIGTERM) == 0
    assert not any(harness.pid_exists(pid) for _, pid in cluster.pids())


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_script(signal_number):
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        pids = [pid for _, pid in cluster.pids()]
        assert len(pids) == 4
        cluster.stop(signal_number)
        wait_until(lambda: not any(harness.pid_exists(pid) for pid in pids), "all children have ended")


def test_a_decode_worker_killed_in_the_middle_changes_no_token(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    assert len(set(expected)) > STREAMS // 2
    again = Streams(cluster.port, STREAMS, TOKENS)
    again.wait_tokens(STREAMS * TOKENS // 4)
    victim = cluster.pids_of("decode")[0]
    os.kill(victim, signal.SIGKILL)
    assert again.texts() == expected
    wait_until(lambda: f"decode {victim} has ended" in cluster.output(), "the script says which process has ended")
    wait_until(lambda: workers_in_use(cluster) == 0, "no block is leaked on the survivors")
    assert Streams(cluster.port, STREAMS, TOKENS).texts() == expected  # the others go on


def test_a_prefill_worker_killed_in_the_middle_changes_no_token(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    again = Streams(cluster.port, STREAMS, TOKENS)
    os.kill(cluster.pids_of("prefill")[0], signal.SIGKILL)
    assert again.texts() == expected
    wait_until(lambda: workers_in_use(cluster) == 0, "no block is leaked on the survivors")


def test_a_stopped_decode_worker_is_left_behind(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    again = Streams(cluster.port, STREAMS, TOKENS)
    again.wait_tokens(STREAMS * TOKENS // 4)
    victim = cluster.pids_of("decode")[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        assert again.texts() == expected
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_until(lambda: workers_in_use(cluster) == 0, "no block is leaked, on the one that came back neither")


def test_the_scheduler_can_die_without_a_stream_noticing(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    again = Streams(cluster.port, STREAMS, TOKENS)
    again.wait_all_begun()  # one that is still to be placed would need it
    os.kill(cluster.pids_of("scheduler")[0], signal.SIGKILL)
    assert again.texts() == expected


def test_a_colocated_cluster_says_the_same_as_a_disaggregated_one(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    cluster.stop()
    with LocalCluster(prefill=0, decode=0, mixed=1) as mixed:
        mixed.wait_ready()
        assert Streams(mixed.port, STREAMS, TOKENS).texts() == expected


# The roles of a cluster whose decode worker ends in the very moment that is asked for: while the script waits for the gateway's first
# answer. The gateway gives it when the worker is gone (FIRST), and what FOLLOWING says to every later question.
PLANTED_ROLES = """#!{python}
import http.server, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
role, flags = sys.argv[1], sys.argv[2:]
pid_file, go_file = folder / "decode.pid", folder / "go"
def wait_until(condition):
    while not condition():
        time.sleep(0.01)  # the test has the deadline, and the kernel ends this with the script
def is_gone():
    try:
        return (pathlib.Path("/proc") / pid_file.read_text() / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
if role == "decode":
    (folder / "writing").write_text(str(os.getpid()))
    (folder / "writing").rename(pid_file)
    wait_until(go_file.exists)
    sys.exit(3)
if role != "gateway":
    wait_until(lambda: False)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = {following}
        if not go_file.exists():
            status = {first}
            wait_until(pid_file.exists)
            go_file.touch()
            wait_until(is_gone)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(flags[flags.index("--port") + 1])), Handler).serve_forever()
"""


def cluster_of_planted_roles(folder, first, following):
    binary = folder / "sluice"
    binary.write_text(PLANTED_ROLES.format(python=sys.executable, folder=str(folder), first=first, following=following))
    binary.chmod(0o755)
    return LocalCluster(prefill=1, decode=1, binary=binary)


@pytest.mark.parametrize("first", [503, 200])
def test_a_worker_that_ends_when_the_gateway_is_ready_is_survived_whenever_the_script_sees_it(tmp_path, first):
    """It said "could not start" and took everything down when it saw the end before it had seen that the gateway was ready."""
    with cluster_of_planted_roles(tmp_path, first, 200) as cluster:
        cluster.wait_ready()
        [victim] = cluster.pids_of("decode")
        wait_until(lambda: f"decode {victim} has ended (status 3)" in cluster.output(), "the script says which process has ended")
        assert cluster.is_alive() and all(harness.pid_exists(pid) for role, pid in cluster.pids() if role != "decode")
        assert cluster.stop(signal.SIGTERM) == 0
        assert "could not start" not in cluster.output()


def test_a_worker_that_ends_before_the_gateway_is_ready_ends_the_start(tmp_path):
    with cluster_of_planted_roles(tmp_path, 503, 503) as cluster:
        assert cluster.wait() == 1
        [victim] = cluster.pids_of("decode")
        assert f"decode {victim} has ended (status 3)" in cluster.output() and "could not start" in cluster.output()
        assert "ready http" not in cluster.output()
        assert not any(harness.pid_exists(pid) for _, pid in cluster.pids())


@pytest.mark.parametrize("flags", [["--prefill", "1"], ["--decode", "1"], ["--prefill", "x", "--decode", "1"], ["--nonsense"]])
def test_wrong_flags_are_refused(flags):
    ran = subprocess.run([harness.ROOT / "scripts" / "local-cluster", "--model", harness.MODEL, "--port", str(harness.free_port()), *flags],
                         capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr
