"""Why requests were late: real processes, faults put into them, and the cause that each has to be given. No test looks at how late."""
from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from typing import Any

import pytest

import harness
from harness import BINARY, LocalCluster, Stream, request, serve, wait_until

# Words that the tokenizer does not share, so that no prompt is another one's prefix.
WORDS = ["Once", "Then", "Lily", "Tom", "A bird", "The cat", "One day", "Ben", "Mom", "Sue"]

UNREFUSED = "scheduler.admit_by_prediction=false"  # what cannot be in time is late here, not refused


def prompt(number: int, words: int) -> str:
    return WORDS[number % len(WORDS)] + " saw the park" * words


def complete(port: int, number: int = 0, words: int = 1, tokens: int = 400, **targets: int) -> dict[str, Any]:
    """A whole answer of exactly `tokens` tokens."""
    answer = request(port, "POST", "/v1/completions", {"prompt": prompt(number, words), "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "slo": targets})
    assert answer.status == 200, answer.body
    return {**answer.json(), "request_id": answer.headers["x-request-id"]}


def timeline(port: int, name: str) -> dict[str, Any]:
    answer = request(port, "GET", f"/explain/{name}")
    assert answer.status == 200, answer.body
    return answer.json()


def in_parallel(count: int, work) -> list[Any]:
    """work(0) .. work(count - 1), each in a thread of its own."""
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(number)
        except Exception as error:  # told by whoever looks at the result
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def cause(told: dict[str, Any], slo: str = "all") -> str | None:
    return told["missed"].get(slo, {}).get("cause")


def stop_in_the_middle(cluster: LocalCluster, victims: list[int], tpot_ms: int, resume_after: float | None) -> dict[str, Any]:
    """Stops one process after the other while a stream is under way, until one stream has really been hit: its timeline."""
    for attempt in range(20):
        victim = victims[attempt % len(victims)]
        stream = Stream(cluster.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": prompt(attempt, 1), "max_tokens": 450, "ignore_eos": True, "temperature": 0, "stream": True,
                                                          "slo": {"tpot_ms": tpot_ms}}, headers={"x-request-id": f"hit-{attempt}"})
        chunks = stream.chunks()
        for _ in range(8):  # decode is under way, and far from its end
            next(chunks)
        os.kill(victim, signal.SIGSTOP)
        timer = threading.Timer(resume_after, os.kill, (victim, signal.SIGCONT)) if resume_after else None
        if timer:
            timer.start()
        try:
            for _ in chunks:
                pass
        finally:
            stream.close()
            if timer:
                timer.join()
            os.kill(victim, signal.SIGCONT)
        told = timeline(cluster.port, f"hit-{attempt}")
        if cause(told):
            return told
        wait_until(lambda: request(cluster.port, "GET", "/health").status == 200, "the cluster is ready again")
    raise AssertionError("no stream was hit in 20 attempts")


def test_a_stream_whose_worker_fell_silent_blames_the_loss():
    with LocalCluster(prefill=1, decode=2, settings=["gateway.worker_lost_after_ms=3000", UNREFUSED]) as cluster:
        cluster.wait_ready()
        told = stop_in_the_middle(cluster, cluster.pids_of("decode"), 4, None)  # either may have the stream
        assert cause(told) == "worker_lost", json.dumps(told, indent=1)
        [sequence] = told["sequences"]
        assert sequence["placements"] == 2
        [lost] = [event for event in sequence["events"] if event["event"] == "worker_lost"]
        assert lost["worker"] == told["missed"]["tpot"]["worker"]


def test_a_killed_worker_is_in_the_timeline_of_its_streams():
    count = 24
    with LocalCluster(prefill=0, decode=0, mixed=2, settings=[UNREFUSED]) as cluster:
        cluster.wait_ready()
        streams = [Stream(cluster.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": prompt(number, 1), "max_tokens": 450, "ignore_eos": True, "stream": True},
                          headers={"x-request-id": f"kill-{number}"}) for number in range(count)]
        # Stopped at once, in the middle of the latest at least: a fast machine is through with all of them before a test has looked.
        victim, other = cluster.pids_of("mixed")
        os.kill(victim, signal.SIGSTOP)
        os.kill(other, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        for stream in streams:
            for _ in stream.chunks():
                pass
        told = [timeline(cluster.port, f"kill-{number}")["sequences"][0] for number in range(count)]
        moved = [one for one in told if any(event["event"] == "worker_lost" for event in one["events"])]
        assert moved, json.dumps(told[0], indent=1)
        for one in moved:
            placed = [event["worker"] for event in one["events"] if event["event"] == "placed"]
            [lost] = [event["worker"] for event in one["events"] if event["event"] == "worker_lost"]
            assert one["placements"] == 2
            assert lost == placed[0] != placed[1]


def test_a_slow_decode_worker_is_blamed_for_its_steps():
    with LocalCluster(prefill=1, decode=1, settings=["gateway.worker_lost_after_ms=20000", UNREFUSED]) as cluster:
        cluster.wait_ready()
        told = stop_in_the_middle(cluster, cluster.pids_of("decode"), 5, 3.5)
        assert cause(told) == "decode_batch", json.dumps(told, indent=1)
        summary = request(cluster.port, "GET", "/explain?since=3600").json()
        assert summary["bottleneck"] == "decode_batch"
        assert [worker["worker"] for worker in summary["workers"] if worker["cause"] == "decode_batch"][0] == told["missed"]["all"]["worker"]


def test_who_waits_for_memory_is_told_so():
    # Room for one prompt of 200 tokens at a time.
    with serve("--set", "engine.kv_pool_bytes=400000", "--set", UNREFUSED, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        answers = in_parallel(5, lambda number: complete(server.port, number, words=40, tokens=60, ttft_ms=5))
        told = [timeline(server.port, answer["request_id"]) for answer in answers]
        assert all(one["sequences"][0]["prompt_tokens"] > 160 for one in told), [one["sequences"][0]["prompt_tokens"] for one in told]
        last = max(told, key=lambda one: one["sequences"][0]["ttft_ms"])
        assert cause(last, "ttft") == "queue_prefill", json.dumps(last, indent=1)
        spent = last["sequences"][0]["ttft_spent_ms"]
        assert max(spent, key=spent.get) == "queue_prefill"


def test_who_loses_its_memory_is_told_so():
    with serve("--set", "engine.kv_pool_bytes=400000", "--set", UNREFUSED, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        answers = in_parallel(8, lambda number: complete(server.port, number, tokens=280, tpot_ms=1))
        told = [timeline(server.port, answer["request_id"]) for answer in answers]
        # Who lost its memory waits until another is through: longer than a token, on any machine. Whether the mean of all tokens is late, too, is the machine's affair.
        lost = [one["sequences"][0].get("late_spent_ms", {}).get("preempted", 0) for one in told]
        assert max(lost) > 1, json.dumps(told, indent=1)
        missed = [cause(one, "tpot") for one in told if "tpot" in one["missed"]]
        if "preempted" in missed:
            row = frozenset({("model", harness.MODEL_ID), ("slo_class", "default"), ("slo", "tpot"), ("cause", "preempted")})
            assert harness.metrics(server.port)[("sluice_gateway_slo_misses_total", row)] == missed.count("preempted")


def test_a_client_that_takes_nothing_is_the_cause():
    with serve("--set", "gateway.send_buffer_bytes_max=2048", "--set", "gateway.socket_send_bytes=2048", "--set", "gateway.write_timeout_ms=200", "--set", UNREFUSED) as server:
        server.wait_ready()
        body = json.dumps({"prompt": "Once", "max_tokens": 480, "ignore_eos": True, "stream": True, "logprobs": 5, "slo": {"ttft_ms": 60000}}).encode()
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            lazy.connect(("127.0.0.1", server.port))
            lazy.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nx-request-id: lazy\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: request(server.port, "GET", "/explain/lazy").status == 200, "the request has ended")
        told = timeline(server.port, "lazy")
        assert told["status"] == 499
        assert cause(told) == "client"
        summary = request(server.port, "GET", "/explain").json()
        assert summary["missed"] == 0  # the client's doing is no miss
        assert summary["bottleneck"] is None


def test_who_is_refused_is_told_so():
    with serve("--set", "worker.queue_requests_max=1", "--set", UNREFUSED, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()

        def ask(number: int) -> tuple[int, str]:
            answer = request(server.port, "POST", "/v1/completions", {"prompt": prompt(number, 1), "max_tokens": 300, "ignore_eos": True})
            return answer.status, answer.headers["x-request-id"]

        answers = in_parallel(12, ask)
        refused = [name for status, name in answers if status == 429]
        assert refused, answers
        for name in refused:
            assert cause(timeline(server.port, name)) in ("refused", "worker_lost"), timeline(server.port, name)


@pytest.fixture(scope="module")
def server():
    with serve("--set", UNREFUSED, prefill=1, decode=1) as one:
        one.wait_ready()
        yield one


def sluice(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BINARY, "explain", *words], capture_output=True, text=True, timeout=60)


def test_the_timeline_of_a_split_request_holds_both_workers_and_what_was_predicted(server):
    answer = complete(server.port, tokens=20)
    told = timeline(server.port, answer["id"])
    assert told["request_id"] == answer["request_id"]
    [sequence] = told["sequences"]
    names = [event["event"] for event in sequence["events"]]
    assert names == ["received", "parsed", "asked_for_place", "placed", "first_token", "handed_over", "ended"]
    assert sequence["completion_tokens"] == 20
    workers = {event["event"]: event.get("worker") for event in sequence["events"]}
    assert workers["first_token"] != workers["handed_over"]
    for name in ("first_token", "handed_over"):
        says = next(event["worker_says"] for event in sequence["events"] if event["event"] == name)
        assert says["total_ms"] > 0 and says["steps"] >= 1
    assert sequence["predicted"]["ttft_ms"] > 0 and sequence["actual"]["ttft_ms"] > 0
    assert told["missed"] == {}


def test_the_command_tells_people_and_programs(server):
    answer = complete(server.port, 3, tokens=10, ttft_ms=1)
    told = sluice(answer["request_id"], "--url", server.url)
    assert told.returncode == 0, told.stderr
    for part in ("first_token", "handed_over", "from the placement on: TTFT predicted"):
        assert part in told.stdout
    as_json = json.loads(sluice(answer["request_id"], "--url", server.url, "--json").stdout)
    assert as_json == timeline(server.port, answer["request_id"])
    summary = sluice("--since", "1h", "--url", server.url)
    assert summary.returncode == 0 and summary.stdout.startswith("last 3600 s: "), summary.stdout
    assert json.loads(sluice("--json", "--url", server.url).stdout)["since_s"] == 600


def test_the_command_says_what_is_wrong(server):
    unknown = sluice("nobody", "--url", server.url)
    assert unknown.returncode == 1 and "explain.requests_max" in unknown.stderr
    assert sluice("--since", "soon", "--url", server.url).returncode == 2
    assert sluice("a/b", "--url", server.url).returncode == 2
    assert sluice("x", "--url", "http://127.0.0.1:1").returncode == 1


def test_nothing_is_told_to_whoever_comes_through_a_proxy(server):
    assert request(server.port, "GET", "/explain", headers={"X-Forwarded-For": "192.0.2.1"}).status == 403
    assert request(server.port, "GET", "/explain").status == 200


def test_where_nothing_is_recorded_that_is_said():
    with serve("--set", "explain.requests_max=0", "--set", UNREFUSED, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        answer = complete(server.port, tokens=5, ttft_ms=1)
        told = request(server.port, "GET", f"/explain/{answer['request_id']}")
        assert told.status == 404 and "explain.requests_max" in told.json()["error"]["message"]
        assert not [name for name, _ in harness.metrics(server.port) if name == "sluice_gateway_slo_misses_total"]
