"""`sluice drain`: a worker finishes what runs on it and gets nothing new; nobody who waits for an answer notices."""
import json
import os
import re
import signal
import subprocess
import time

import pytest

import harness
from harness import LocalCluster, post, wait_until

pytestmark = pytest.mark.process
STREAMS, TOKENS = 8, 200
RUNNING, GENERATED = "sluice_worker_requests_running", "sluice_worker_generation_tokens_total"


@pytest.fixture
def cluster(slow_model):
    # Nobody takes a worker that is stopped for one that is lost, but for gRPC's own pings.
    with LocalCluster(prefill=1, decode=2, model=slow_model, settings=["gateway.worker_lost_after_ms=600000", "scheduler.suspect_ms=600000",
                                                     "scheduler.lease_ms=600000"]) as cluster:
        try:
            yield cluster.wait_ready()
        finally:
            print(cluster.output(), cluster.logs(), sep="\n")  # shown when the test fails


def scheduler_of(cluster):
    return re.search(r"^sluice scheduler at (\S+)$", cluster.logs(), re.MULTILINE)[1]


def worker_id_of(cluster, pid):
    """As the scheduler's log writes it: the worker that says where it listens is the one that registered from there."""

    def found():
        if address := re.search(rf"^sluice \w+-{pid} at (\S+?): ", cluster.logs(), re.MULTILINE):
            return re.search(rf"worker ([0-9a-f]{{16}}) incarnation \S+ at {re.escape(address[1])} registered", cluster.logs())
        return None

    wait_until(lambda: found() is not None, f"worker {pid} has registered")  # the gateway is ready with one of each role
    return found()[1]


def drain(cluster, worker_id, key=None):
    return ask(cluster, "--worker", worker_id, key=key)


def ask(cluster, *words, key=None):
    return subprocess.run([harness.BINARY, "drain", *words, "--scheduler", scheduler_of(cluster)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SLUICE_CLUSTER_KEY": cluster.key} if key is None else {**os.environ, **key})


def sample(cluster, pid, name):
    return sum(value for (found, _), value in harness.metrics(cluster.admin_port(pid)).items() if found == name)


def inflight(cluster):
    return sum(value for (name, _), value in harness.metrics(cluster.port).items() if name == "sluice_gateway_inflight_requests")


def retries(cluster):
    return sum(value for (name, _), value in harness.metrics(cluster.port).items() if name == "sluice_gateway_retries_total")


def is_ready(cluster, pid):
    return harness.request(cluster.admin_port(pid), "GET", "/ready").status == 200


class OpenStreams:
    """Streams that are read as far as the test wants; each with a prompt and a seed of its own."""

    def __init__(self, cluster):
        self.streams = [harness.Stream(cluster.port, "/v1/completions",
                                       {"model": "slow", "prompt": f"Once upon a time, number {index},", "max_tokens": TOKENS,
                                        "temperature": 1, "seed": index, "ignore_eos": True}) for index in range(STREAMS)]
        assert [stream.status for stream in self.streams] == [200] * STREAMS
        self.chunks = [stream.chunks() for stream in self.streams]
        self.heads = [[] for _ in self.streams]

    def read(self, count):
        for head, chunks in zip(self.heads, self.chunks):
            while len(head) < count:
                head.append(next(chunks))

    def texts(self):
        texts = [harness.text_of([*head, *chunks]) for head, chunks in zip(self.heads, self.chunks)]
        for stream in self.streams:
            stream.close()
        return texts


def test_a_drained_worker_finishes_what_runs_and_gets_nothing_new(cluster):
    expected = OpenStreams(cluster).texts()
    assert len(set(expected)) == STREAMS
    victim, other = cluster.pids_of("decode")
    worker_id = worker_id_of(cluster, victim)

    for _ in range(20):  # a stream may be over before the worker is stopped
        streams = OpenStreams(cluster)
        streams.read(5)  # of each more than the first token, so each is with a decode worker
        os.kill(victim, signal.SIGSTOP)
        stopped_at = time.monotonic()
        others = [other, *cluster.pids_of("prefill")]
        wait_until(lambda: all(sample(cluster, pid, RUNNING) == 0 for pid in others), "only the stopped worker has work")
        if inflight(cluster) > 0:
            break
        os.kill(victim, signal.SIGCONT)
        assert streams.texts() == expected
    else:
        pytest.fail("no stream outlived its first tokens")
    retries_before = retries(cluster)
    asked = drain(cluster, worker_id)
    os.kill(victim, signal.SIGCONT)
    stopped_s = time.monotonic() - stopped_at
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(f"worker {worker_id} at ") and "takes no new requests" in asked.stdout
    assert streams.texts() == expected
    if stopped_s < 5:  # else gRPC may have taken it for lost, by its pings
        assert retries(cluster) == retries_before == 0  # each ended where it ran
    wait_until(lambda: not is_ready(cluster, victim), "the worker says that it takes nothing")
    assert is_ready(cluster, other)

    wait_until(lambda: sample(cluster, victim, RUNNING) == 0, "nothing runs on the drained worker")
    before = sample(cluster, victim, GENERATED), sample(cluster, other, GENERATED)
    assert OpenStreams(cluster).texts() == expected
    assert sample(cluster, victim, GENERATED) == before[0]
    assert sample(cluster, other, GENERATED) >= before[1] + STREAMS * (TOKENS - 1)
    assert harness.request(cluster.port, "GET", "/health").status == 200

    os.kill(victim, signal.SIGTERM)
    wait_until(lambda: f"decode {victim} has ended (status 0)" in cluster.output(), "the drained worker can go")
    assert OpenStreams(cluster).texts() == expected


def test_a_worker_drained_while_requests_come_changes_no_text(cluster):
    """Also not that of those which are on their way to it."""
    expected = OpenStreams(cluster).texts()
    streams = OpenStreams(cluster)
    assert drain(cluster, worker_id_of(cluster, cluster.pids_of("decode")[0])).returncode == 0
    assert streams.texts() == expected


def test_workers_are_listed_and_one_is_drained_by_its_address(cluster):
    """As somebody does who has nothing but a terminal."""
    victim, other = cluster.pids_of("decode")
    known = {worker_id_of(cluster, pid): role for role in ("prefill", "decode") for pid in cluster.pids_of(role)}

    def listed():
        return {line.split()[0]: line.split() for line in ask(cluster, "--list").stdout.splitlines()}

    wait_until(lambda: all(row[2] == "ready" for row in listed().values()), "all workers are ready", 120)
    rows = listed()
    assert {worker: row[1] for worker, row in rows.items()} == known and len(known) == 3
    address = rows[worker_id_of(cluster, victim)][5]
    asked = ask(cluster, address)
    assert asked.returncode == 0 and asked.stdout.startswith(f"worker {worker_id_of(cluster, victim)} at {address} takes no new requests"), asked
    wait_until(lambda: listed()[worker_id_of(cluster, victim)][2] == "draining", "it is listed as one that drains", 120)
    assert listed()[worker_id_of(cluster, other)][2] == "ready"
    told = {row["worker"]: row for row in json.loads(ask(cluster, "--list", "--json").stdout)}
    assert {worker: [row["role"], row["state"], row["address"], row["model"]] for worker, row in told.items()} == {worker: [row[1], row[2], row[5], row[6]] for worker, row in listed().items()}
    alone = ask(cluster, address, "--json")
    assert alone.returncode != 0 and "--list" in alone.stderr


def test_when_the_last_worker_of_a_role_drains_the_gateway_is_not_ready(cluster):
    for pid in cluster.pids_of("decode"):
        assert drain(cluster, worker_id_of(cluster, pid)).returncode == 0
    wait_until(lambda: harness.request(cluster.port, "GET", "/health").status == 503, "the gateway hears of it")
    answer = post(cluster.port, "/v1/completions", model="slow", prompt="a", max_tokens=2)
    harness.assert_error(answer, 503)


def test_what_cannot_be_drained_is_said(cluster):
    unknown = drain(cluster, "00000000000000ff")
    assert unknown.returncode == 1 and "there is no worker 00000000000000ff; there are\n" in unknown.stderr
    listed = ask(cluster, "--list").stdout
    assert listed and listed in unknown.stderr
    for bad in ("0", "worker-1", "12345678901234567", "127.0.0.1"):  # the last one: several
        refused = drain(cluster, bad)
        assert refused.returncode == 1 and listed in refused.stderr, refused.stderr
    neither = ask(cluster)
    assert neither.returncode == 2 and "sluice drain WORKER`, or --list" in neither.stderr, neither.stderr
    both = ask(cluster, "--list", "--worker", "1")
    assert both.returncode != 0 and "excludes" in both.stdout + both.stderr, both
    keyless = drain(cluster, "00000000000000ff", key={})
    assert keyless.returncode == 2 and "--cluster-key-file" in keyless.stderr, keyless.stderr
    stranger = drain(cluster, "00000000000000ff", key={"SLUICE_CLUSTER_KEY": "0" * 32})
    assert stranger.returncode == 1 and "another cluster key" in stranger.stderr, stranger.stderr
