"""Two builds of different minor versions of the protocol at work together: every process of a cluster is replaced, one after the other and under
load, by one of the other build, and back again. No request fails, and no token is another one.

The other build is `sluice_next_minor` (next_minor.cpp), and in a nightly run also the one that SLUICE_OTHER_BINARY names, an older release say:
scripts/try-upgrade makes it of a commit.
"""
from __future__ import annotations

import os
import pathlib
import secrets
import subprocess
import tempfile
import threading

import pytest

import harness
from harness import wait_until

pytestmark = pytest.mark.process
NEXT = harness.BINARY.parent / "tests" / "integration" / "sluice_next_minor"
TOKENS, STREAM_TOKENS, ASKING = 8, 120, 2


class Fleet:
    """Schedulers (two, of which one leads, where both builds can), a prefill and a decode worker and a gateway, each of a build of its own choice."""

    def __init__(self, model, builds):
        self.model = model
        self.environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        self.lease = tempfile.TemporaryDirectory(prefix="sluice-leader-")
        printed = [subprocess.run([build, "config", "print"], capture_output=True, text=True, timeout=60, check=True).stdout for build in builds]

        def known(*settings):
            """Those that all builds know, as flags."""
            return [word for setting in settings if all(f"\n{setting.split('=')[0]}: " in text for text in printed) for word in ("--set", setting)]

        self.scheduler_flags = known(f"scheduler.leader_lease={self.lease.name}", "scheduler.suspect_ms=60000", "scheduler.lease_ms=60000")
        self.scheduler_ports = [harness.free_port() for _ in range(2 if "leader_lease" in " ".join(self.scheduler_flags) else 1)]
        self.gateway_flags = known("gateway.place_wait_max_ms=60000", "gateway.drain_timeout_ms=120000", "gateway.worker_lost_after_ms=600000")
        self.worker_flags = known("worker.drain_timeout_ms=120000")
        self.started = []  # all processes that ever were
        self.running = {}  # name -> process; its port (of /ready) beside it

    def start(self, name, build):
        role = name.split("-")[0]
        port = harness.free_port()
        at = ["--scheduler", ",".join(f"127.0.0.1:{number}" for number in self.scheduler_ports)]
        if role == "scheduler":
            flags = ["--listen", f"127.0.0.1:{self.scheduler_ports[int(name.split('-')[1])]}", "--admin-port", str(port), *self.scheduler_flags]
        elif role == "gateway":
            flags = ["--model", self.model, *at, "--host", "127.0.0.1", "--port", str(port), *self.gateway_flags]
        else:
            flags = ["--model", self.model, *at, "--listen", "127.0.0.1:0", "--threads", "1", "--admin-port", str(port), *self.worker_flags]
        process = harness.Process([build, role, *flags], self.environment)
        process.name, process.port = name, port
        self.started.append(process)
        return process

    def wait_ready(self, process):
        def is_ready():
            assert process.is_alive(), f"{process.name} ended with {process.child.returncode}:\n{process.output()}"
            try:
                return harness.request(process.port, "GET", "/ready").status == 200
            except OSError:
                return False

        wait_until(is_ready, f"{process.name} is ready", 120)
        return process

    def names(self):
        return [f"scheduler-{index}" for index in range(len(self.scheduler_ports))] + ["prefill", "decode", "gateway"]

    def start_all(self, build):
        for name in self.names():
            self.running[name] = self.start(name, build)
        for process in self.running.values():
            self.wait_ready(process)

    def leads(self, process):
        return sum(value for (name, _), value in harness.metrics(process.port).items() if name == "sluice_scheduler_leads") == 1

    def by_turns(self):
        """Names in the order in which they are replaced: of schedulers first who stands by."""
        schedulers = [name for name in self.names() if name.startswith("scheduler")]
        if len(schedulers) > 1:
            wait_until(lambda: sum(self.leads(self.running[name]) for name in schedulers) == 1, "one scheduler leads", 60)
            schedulers.sort(key=lambda name: self.leads(self.running[name]))
        return [*schedulers, "prefill", "decode", "gateway"]

    def output(self):
        return "\n".join(f"--- {process.name} {process.command[0]}\n{process.output()[-3000:]}" for process in self.started)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        print(self.output())  # shown when the test fails
        for process in self.started:
            process.__exit__()
        self.lease.cleanup()


class Load:
    """Requests without end, at the gateway that is there: what a Service in front of them does. None is tried twice."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.told = []
        self.is_over = threading.Event()
        self.ports = [0] * ASKING  # at which each one asks now
        self.threads = [threading.Thread(target=self.ask, args=(index,)) for index in range(ASKING)]

    def complete(self, port, seed):
        answer = harness.request(port, "POST", "/v1/completions", {"model": "slow", "prompt": f"Once upon a time, number {seed},", "max_tokens": TOKENS, "ignore_eos": True,
                                                                   "temperature": 1, "seed": seed}, seconds=120)
        return answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.body.decode()

    def ask(self, index):
        number = 0
        while not self.is_over.is_set():
            self.ports[index] = port = self.fleet.running["gateway"].port
            number += 1
            try:
                self.told.append((number % 3, *self.complete(port, number % 3)))
            except OSError as error:
                self.told.append((number % 3, 0, repr(error)))

    def wait_more(self, count=4):
        before = len(self.told)
        wait_until(lambda: len(self.told) >= before + count, "requests are answered", 120)

    def wait_at(self, port):
        wait_until(lambda: self.ports == [port] * ASKING, "all ask the new gateway", 120)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join()


def long_stream(port):
    stream = harness.Stream(port, "/v1/completions", {"model": "slow", "prompt": "Once there was a long tale", "max_tokens": STREAM_TOKENS, "temperature": 1, "seed": 9,
                                                      "ignore_eos": True}, seconds=300)
    assert stream.status == 200
    chunks = stream.chunks()
    return stream, [next(chunks)], chunks


def text_of(opened):
    stream, head, chunks = opened
    text = harness.text_of([*head, *chunks])
    stream.close()
    return text


def replace(fleet, load, name, build):
    """By a process of the other build, while a stream runs through the old one and requests come without end."""
    old = fleet.running[name]
    stream = long_stream(fleet.running["gateway"].port)
    if name.startswith("scheduler"):  # another one stands by meanwhile, or requests wait: its port is the same
        assert old.stop(seconds=180) == 0
        fleet.running[name] = fleet.wait_ready(fleet.start(name, build))
    else:
        fleet.running[name] = fleet.wait_ready(fleet.start(name, build))
        if name == "gateway":
            load.wait_at(fleet.running[name].port)
        assert old.stop(seconds=180) == 0
    load.wait_more()
    return text_of(stream)


def roll(model, build, other):
    """From `build` to `other` and back."""
    with Fleet(model, [build, other]) as fleet:
        fleet.start_all(build)
        port = fleet.running["gateway"].port
        with Load(fleet) as load:
            expected = {seed: load.complete(port, seed) for seed in range(3)}
            assert {status for status, _ in expected.values()} == {200}, expected
            tale = text_of(long_stream(port))
            load.wait_more()
            for to in (other, build):
                tales = {name: replace(fleet, load, name, to) for name in fleet.by_turns()}
                assert {name: text for name, text in tales.items() if text != tale} == {}
                assert {process.command[0] for process in fleet.running.values()} == {str(to)}
        wrong = [one for one in load.told if one[1:] != expected[one[0]]]
        assert wrong == [] and len(load.told) > 4 * 2 * len(fleet.running)
        return fleet.output()


@pytest.mark.timeout(600)
def test_a_cluster_is_replaced_by_one_of_the_next_minor_version_and_back(slow_model):
    assert NEXT.exists(), f"{NEXT} is built by the target tests_integration"
    output = roll(slow_model, harness.BINARY, NEXT)
    assert "which nobody has released" in output


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_cluster_of_another_build_is_replaced_by_ours_and_back(slow_model):
    other = os.environ.get("SLUICE_OTHER_BINARY")
    if not other:
        pytest.skip("SLUICE_OTHER_BINARY names no other build (scripts/try-upgrade makes one)")
    roll(slow_model, pathlib.Path(other).resolve(), harness.BINARY)
