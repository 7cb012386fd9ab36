"""Faults put into real processes, a hundred late requests each: nearly all of them have to be given the fault's cause. Takes minutes; the cases one by one are in
test_explain.py."""
from __future__ import annotations

import collections
import os
import signal
import time

import pytest

import harness
from harness import LocalCluster, Stream, request, serve
from test_explain import UNREFUSED, cause, complete, in_parallel, prompt, timeline

pytestmark = pytest.mark.nightly

LATE = 100  # requests that miss a target, at least
PATIENT = ["gateway.worker_lost_after_ms=20000", "scheduler.lease_ms=60000", "scheduler.suspect_ms=20000", UNREFUSED]
ROUNDS_MAX = 40


def check(port: int, names: list[str], expected: str) -> None:
    """Of those that were late at least 95 of 100 say `expected`."""
    causes = collections.Counter(cause(timeline(port, name)) for name in names)
    late = sum(causes.values()) - causes[None]
    assert late >= LATE, causes
    assert causes[expected] >= 0.95 * late, causes


def stop_for(pids: list[int], seconds: float) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)  # the fault itself
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def open_streams(cluster: LocalCluster, first: int, count: int, tokens: int, tpot_ms: int) -> list[Stream]:
    return [Stream(cluster.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": prompt(number, 1), "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True,
                                                     "slo": {"tpot_ms": tpot_ms}}, headers={"x-request-id": f"late-{number}"}) for number in range(first, first + count)]


def drain(streams: list[Stream]) -> None:
    for stream in streams:
        for _ in stream.chunks():
            pass
        stream.close()


@pytest.mark.timeout(900)
def test_a_slow_link():
    # Every message of the prefill worker is held up for two seconds, and a stream waits for its KV: 16 tokens in 100 ms each leave 1.5 s.
    with LocalCluster(prefill=1, decode=1, settings=["test.kv_fault_plan=delay:probability=1,ms=2000", "worker.kv_lease_ms=60000", "worker.room_pending_ms=60000",
                                                     "worker.kv_wait_ms=60000", *PATIENT]) as cluster:
        cluster.wait_ready()
        names = [answer["request_id"] for _ in range(6) for answer in in_parallel(20, lambda number: complete(cluster.port, number, tokens=16, tpot_ms=100))]
        check(cluster.port, names, "handoff")


@pytest.mark.timeout(900)
def test_a_decode_worker_that_stands_still():
    with LocalCluster(prefill=1, decode=1, settings=PATIENT) as cluster:
        cluster.wait_ready()
        victims = cluster.pids_of("decode")
        names: list[str] = []
        hit = 0
        for _ in range(ROUNDS_MAX):
            streams = open_streams(cluster, len(names), 12, 400, 10)
            names += [f"late-{number}" for number in range(len(names), len(names) + len(streams))]
            for stream in streams:
                chunks = stream.chunks()
                for _ in range(4):
                    next(chunks)
            stop_for(victims, 5)  # 400 tokens in 10 ms each leave 4 s
            drain(streams)
            hit += sum(cause(timeline(cluster.port, name)) is not None for name in names[-len(streams):])
            if hit >= LATE:
                break
        check(cluster.port, names, "decode_batch")


@pytest.mark.timeout(900)
def test_a_worker_that_hangs_and_is_killed():
    names: list[str] = []
    told: collections.Counter = collections.Counter()
    for _ in range(ROUNDS_MAX):
        with LocalCluster(prefill=0, decode=0, mixed=2, settings=PATIENT) as cluster:
            cluster.wait_ready()
            streams = open_streams(cluster, 0, 40, 400, 10)
            for stream in streams:
                chunks = stream.chunks()
                for _ in range(2):
                    next(chunks)
            victim = cluster.pids_of("mixed")[0]
            os.kill(victim, signal.SIGSTOP)
            time.sleep(5)  # it hangs
            os.kill(victim, signal.SIGKILL)
            drain(streams)
            names = [f"late-{number}" for number in range(len(streams))]
            told += collections.Counter(cause(timeline(cluster.port, name)) or "in time" for name in names)
        late = sum(told.values()) - told["in time"]
        if late >= LATE:
            break
    assert late >= LATE, told
    assert told["worker_lost"] >= 0.95 * late, told


@pytest.mark.timeout(900)
def test_a_full_pool():
    # Room for one prompt of 200 tokens and its answer at a time; the twelfth waits for eleven.
    with serve("--set", "engine.kv_pool_bytes=400000", "--set", UNREFUSED, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        names: list[str] = []
        late = 0
        for _ in range(ROUNDS_MAX):
            fresh = [answer["request_id"] for answer in in_parallel(12, lambda number: complete(server.port, number, words=40, tokens=60, ttft_ms=40))]
            late += sum(cause(timeline(server.port, name), "ttft") is not None for name in fresh)
            names += fresh
            if late >= LATE:
                break
        check(server.port, names, "queue_prefill")
        assert request(server.port, "GET", "/explain?since=3600").json()["bottleneck"] == "queue_prefill"
