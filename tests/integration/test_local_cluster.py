"""scripts/local-cluster: every role a process, a worker killed in the middle, and nothing left behind."""
import os
import signal
import subprocess

import pytest

import harness
from harness import LocalCluster, wait_until
from streams import Streams

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
        assert f"sluice\0{role}\0" in open(f"/proc/{pid}/cmdline").read()
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
    again.wait_tokens(STREAMS * TOKENS // 4)
    os.kill(cluster.pids_of("scheduler")[0], signal.SIGKILL)
    assert again.texts() == expected


def test_a_colocated_cluster_says_the_same_as_a_disaggregated_one(cluster):
    expected = Streams(cluster.port, STREAMS, TOKENS).texts()
    cluster.stop()
    with LocalCluster(prefill=0, decode=0, mixed=1) as mixed:
        mixed.wait_ready()
        assert Streams(mixed.port, STREAMS, TOKENS).texts() == expected


@pytest.mark.parametrize("flags", [["--prefill", "1"], ["--decode", "1"], ["--prefill", "x", "--decode", "1"], ["--nonsense"]])
def test_wrong_flags_are_refused(flags):
    ran = subprocess.run([harness.ROOT / "scripts" / "local-cluster", "--model", harness.MODEL, "--port", str(harness.free_port()), *flags],
                         capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr
