"""A worker that reports as if all were well and fails everything: it is found out, and nobody who waits for an answer notices."""
from __future__ import annotations

import concurrent.futures
import json
import os
import re
import subprocess

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
FAILING = harness.ROOT / "build" / "release" / "tests" / "integration" / "modelled_worker"
# What the failing one would compute has numbers of its own; a time out that the test does not wait for.
SETTINGS = ["scheduler.allow_mixed_numerics=true", "scheduler.eject_ms=600000"]


def test_a_worker_that_fails_everything_is_put_out_of_service():
    with LocalCluster(0, 0, 2, settings=SETTINGS) as cluster:
        cluster.wait_ready()
        scheduler, = cluster.pids_of("scheduler")
        address = re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]

        def workers(state):
            return sum(value for (name, labels), value in harness.metrics(cluster.admin_port(scheduler)).items()
                       if name == "sluice_scheduler_workers" and {("role", "mixed"), ("state", state)} <= set(labels))

        def retries():
            return sum(value for (name, _), value in harness.metrics(cluster.port).items() if name == "sluice_gateway_retries_total")

        def ask(index):
            answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=f"Number {index}: once upon a time", max_tokens=4, temperature=0)
            assert answer.status == 200, answer.body

        wait_until(lambda: workers("ready") == 2, "both have come", 120)
        with harness.Process([FAILING, address, harness.MODEL_ID, str(harness.CONTEXT_TOKENS), "1000", "300", "100", "fails"], {"SLUICE_CLUSTER_KEY": cluster.key}, subprocess.PIPE) as failing:
            wait_until(lambda: workers("ready") == 3, f"the one that fails has come, too: {failing.output()}", 120)
            rounds = 0

            def is_out():  # several at once: who has done with all of them first is given the next
                nonlocal rounds
                rounds += 1
                with concurrent.futures.ThreadPoolExecutor(4) as threads:
                    list(threads.map(ask, range(10 * rounds, 10 * rounds + 8)))
                return workers("ejected") == 1

            wait_until(is_out, "it is put out of service", 240)
            assert workers("ready") == 2
            before = retries()
            assert before >= 5  # every one was answered all the same
            with concurrent.futures.ThreadPoolExecutor(4) as threads:
                list(threads.map(ask, range(100000, 100020)))
            assert retries() == before  # nothing goes there any more
            told = subprocess.run([harness.BINARY, "drain", "--list", "--json", "--scheduler", address], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                                  env={**os.environ, "SLUICE_CLUSTER_KEY": cluster.key})
            assert sorted(row["state"] for row in json.loads(told.stdout)) == ["ejected", "ready", "ready"], told.stdout + told.stderr
            assert "has failed 5 requests in a row" in cluster.logs()
