"""Two schedulers of which one leads: when it dies, stands still or both are gone, no stream notices, and new requests are placed again."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
STREAMS, TOKENS = 6, 200


def start(model, *settings):
    return LocalCluster(prefill=1, decode=1, model=model, schedulers=2, settings=["gateway.place_wait_max_ms=60000", *settings])


@pytest.fixture
def cluster(slow_model):
    with start(slow_model) as cluster:
        try:
            yield cluster.wait_ready()
        finally:
            print(cluster.output(), cluster.logs(), sep="\n")  # shown when the test fails


def sample(cluster, pid, name):
    return sum(value for (found, _), value in harness.metrics(cluster.admin_port(pid)).items() if found == name)


def leads(cluster, pid):
    return sample(cluster, pid, "sluice_scheduler_leads") == 1


def leader_and_other(cluster):
    """The schedulers, who leads first."""
    first, second = cluster.pids_of("scheduler")
    wait_until(lambda: leads(cluster, first) != leads(cluster, second), "one scheduler leads")
    return (first, second) if leads(cluster, first) else (second, first)


class OpenStreams:
    def __init__(self, cluster):
        self.streams = [harness.Stream(cluster.port, "/v1/completions", {"model": "slow", "prompt": f"Once upon a time, number {index},", "max_tokens": TOKENS,
                                                                     "temperature": 1, "seed": index, "ignore_eos": True}, seconds=300) for index in range(STREAMS)]
        assert [stream.status for stream in self.streams] == [200] * STREAMS
        self.chunks = [stream.chunks() for stream in self.streams]
        self.heads = [[next(chunks)] for chunks in self.chunks]

    def texts(self):
        texts = [harness.text_of([*head, *chunks]) for head, chunks in zip(self.heads, self.chunks)]
        for stream in self.streams:
            stream.close()
        return texts


def complete(cluster, seed=1):
    return harness.request(cluster.port, "POST", "/v1/completions", {"model": "slow", "prompt": "There was", "max_tokens": 4, "temperature": 1, "seed": seed}, seconds=120)


def retries(cluster):
    return sum(value for (name, _), value in harness.metrics(cluster.port).items() if name == "sluice_gateway_retries_total")


def test_a_killed_leader_costs_no_stream_and_new_requests_find_the_other(cluster):
    expected, text = OpenStreams(cluster).texts(), complete(cluster).json()["choices"][0]["text"]
    leader, other = leader_and_other(cluster)
    streams = OpenStreams(cluster)
    os.kill(leader, signal.SIGKILL)
    answer = complete(cluster)  # it waits in the gateway until somebody leads
    assert answer.status == 200 and answer.json()["choices"][0]["text"] == text, answer.body
    assert leads(cluster, other)
    assert streams.texts() == expected
    assert retries(cluster) == 0  # none was placed again
    assert OpenStreams(cluster).texts() == expected


def test_a_leader_that_stood_still_is_refused_when_it_wakes(cluster):
    expected = OpenStreams(cluster).texts()
    leader, other = leader_and_other(cluster)
    streams = OpenStreams(cluster)
    harness.freeze(leader)
    assert complete(cluster).status == 200
    assert leads(cluster, other)
    os.kill(leader, signal.SIGCONT)
    wait_until(lambda: sample(cluster, leader, "sluice_scheduler_leads") == 0, "the one that stood still leads no more")
    assert [complete(cluster, seed).status for seed in range(5)] == [200] * 5
    assert leads(cluster, other) and sample(cluster, leader, "sluice_scheduler_terms_total") == 1
    assert streams.texts() == expected
    # And back again: who stood by may lead once more.
    os.kill(other, signal.SIGKILL)
    assert complete(cluster).status == 200
    assert leads(cluster, leader)


def test_with_both_schedulers_gone_streams_run_on(cluster):
    expected = OpenStreams(cluster).texts()
    leader, other = leader_and_other(cluster)
    streams = OpenStreams(cluster)
    for pid in (other, leader):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: harness.request(cluster.port, "GET", "/health").status == 503, "the gateway has noticed")
    assert streams.texts() == expected
    assert retries(cluster) == 0


def test_a_leader_that_ends_in_order_hands_over_and_drain_finds_the_other(cluster):
    leader, other = leader_and_other(cluster)
    os.kill(leader, signal.SIGTERM)
    assert complete(cluster).status == 200  # by either: who was asked to end still places what has come
    wait_until(lambda: leads(cluster, other), "the other one leads")
    assert complete(cluster).status == 200
    addresses = re.findall(r"^sluice scheduler at ([^\s,]+),", cluster.logs(), re.MULTILINE)
    assert len(addresses) == 2
    worker = re.search(r"worker ([0-9a-f]{16}) incarnation", cluster.logs())[1]
    drained = subprocess.run([harness.BINARY, "drain", "--worker", worker, "--scheduler", ",".join(addresses)], stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=60, env={**os.environ, "SLUICE_CLUSTER_KEY": cluster.key})
    assert drained.returncode == 0, drained.stderr


def test_requests_that_come_while_leaders_die_are_all_answered(slow_model):
    """A leader is killed under requests without end."""
    with start(slow_model) as cluster:
        cluster.wait_ready()
        text = complete(cluster).json()["choices"][0]["text"]
        told: list[tuple[int, str]] = []
        is_over = threading.Event()

        def ask():
            while not is_over.is_set():
                answer = complete(cluster)
                told.append((answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.body.decode()))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            leader, other = leader_and_other(cluster)
            os.kill(leader, signal.SIGKILL)
            killed_at = time.monotonic()
            wait_until(lambda: leads(cluster, other), "the other one leads", 60)
            seen = len(told)
            wait_until(lambda: len(told) >= seen + 4, "requests are placed", 60)
            print(f"placed again {time.monotonic() - killed_at:.2f} s after the kill")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert told and set(told) == {(200, text)}, set(told)


def test_a_folder_that_cannot_be_used_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for path, words in ((file, "is a folder"), (tmp_path / "no" / "such", "cannot make the folder")):
        refused = subprocess.run([harness.BINARY, "scheduler", "--listen", "127.0.0.1:0", "--set", f"scheduler.leader_lease={path}"], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, timeout=60, env={**os.environ, "SLUICE_CLUSTER_KEY": "0" * 32})
        assert refused.returncode != 0 and "scheduler.leader_lease" in refused.stderr and words in refused.stderr, refused.stderr
