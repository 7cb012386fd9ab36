"""A worker that reports as if all were well and fails everything: it is found out, and nobody who waits for an answer notices."""
from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import re
import subprocess

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
FAILING = harness.ROOT / "build" / "release" / "tests" / "integration" / "modelled_worker"
CLIENTS = 8
SETTINGS = ["scheduler.allow_mixed_numerics=true",  # what the failing one would compute has numbers of its own
            "scheduler.suspect_ms=60000", "scheduler.lease_ms=60000", "gateway.worker_lost_after_ms=600000",  # nobody is late on a machine with other work
            "gateway.retry_percent=100", "gateway.retry_floor_per_s=1000"]


class World:
    """Two workers that do their work, slowly enough that each has always some; one that has nothing to do since it fails what it gets."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.scheduler, = cluster.pids_of("scheduler")
        self.address = re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]
        self.numbers = itertools.count()
        self.threads = concurrent.futures.ThreadPoolExecutor(CLIENTS)

    def failing(self):
        command = [FAILING, self.address, "slow", str(harness.CONTEXT_TOKENS), "1000", "300", "100", "fails"]
        return harness.Process(command, {"SLUICE_CLUSTER_KEY": self.cluster.key}, subprocess.PIPE)

    def workers(self, state):
        return sum(value for (name, labels), value in harness.metrics(self.cluster.admin_port(self.scheduler)).items()
                   if name == "sluice_scheduler_workers" and {("role", "mixed"), ("state", state)} <= set(labels))

    def retries(self):
        return sum(value for (name, _), value in harness.metrics(self.cluster.port).items() if name == "sluice_gateway_retries_total")

    def ask(self, count):
        """So many answers, several at a time."""
        def one(index):
            answer = harness.post(self.cluster.port, "/v1/completions", model="slow", prompt=f"Number {index}: once upon a time", max_tokens=24, ignore_eos=True, temperature=0)
            assert answer.status == 200, answer.body
        list(self.threads.map(one, itertools.islice(self.numbers, count)))

    def states(self):
        told = subprocess.run([harness.BINARY, "drain", "--list", "--json", "--scheduler", self.address], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "SLUICE_CLUSTER_KEY": self.cluster.key})
        assert told.returncode == 0, told.stderr
        return sorted(row["state"] for row in json.loads(told.stdout))


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    return harness.make_slow_model(tmp_path_factory.mktemp("slow"))


def test_a_worker_that_fails_everything_is_put_out_of_service(slow_model):
    with LocalCluster(0, 0, 2, model=slow_model, settings=[*SETTINGS, "scheduler.eject_ms=600000"]) as cluster:  # a time out that the test does not wait for
        world = World(cluster.wait_ready())
        wait_until(lambda: world.workers("ready") == 2, "both have come", 120)
        with world.failing() as failing:
            wait_until(lambda: world.workers("ready") == 3, f"the one that fails has come, too: {failing.output()}", 120)

            def is_out():
                world.ask(2 * CLIENTS)
                return world.workers("ejected") == 1

            wait_until(is_out, "it is put out of service", 240)
            assert world.workers("ready") == 2
            before = world.retries()
            assert before >= 5  # and every one was answered all the same
            world.ask(4 * CLIENTS)
            assert world.retries() == before  # nothing goes there any more
            assert world.states() == ["ejected", "ready", "ready"]
            assert "has failed 5 or more requests in a row" in cluster.logs()


def test_it_is_tried_again_and_who_ejects_nobody_pays_for_it_with_every_request(slow_model):
    with LocalCluster(0, 0, 2, model=slow_model, settings=[*SETTINGS, "scheduler.eject_ms=100"]) as cluster:  # out for so short that it comes back at once
        world = World(cluster.wait_ready())
        wait_until(lambda: world.workers("ready") == 2, "both have come", 120)
        with world.failing() as failing:
            wait_until(lambda: world.workers("ready") == 3, f"the one that fails has come, too: {failing.output()}", 120)

            def times():
                """For how long it was put out, each time."""
                return [int(found) for found in re.findall(r"nothing new goes to it for (\d+) ms", cluster.logs())]

            def is_out_again():
                world.ask(2 * CLIENTS)
                return len(times()) >= 4

            wait_until(is_out_again, "it has been put out, tried and put out again", 240)
            assert times()[:4] == [100, 200, 400, 800]
    with LocalCluster(0, 0, 2, model=slow_model, settings=[*SETTINGS, "scheduler.eject_after_failures=0"]) as cluster:
        world = World(cluster.wait_ready())
        wait_until(lambda: world.workers("ready") == 2, "both have come", 120)
        with world.failing() as failing:
            wait_until(lambda: world.workers("ready") == 3, f"the one that fails has come, too: {failing.output()}", 120)

            def has_failed_many():
                world.ask(2 * CLIENTS)
                return world.retries() >= 30

            wait_until(has_failed_many, "it goes on to get and to fail what others then do", 240)
            assert world.workers("ejected") == 0 and world.workers("ready") == 3
