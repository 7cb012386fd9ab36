"""A scheduler that starts anew knows at once what steps take on its workers: they tell it again what they measured."""
from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from collections.abc import Iterator

import pytest

import harness
from harness import BINARY, MODEL, request, wait_until
from test_explain import prompt

pytestmark = pytest.mark.process


class Cluster:
    """Scheduler, one mixed worker and a gateway, each a process that can be started again."""

    def __init__(self) -> None:
        self.scheduler_port, self.worker_port, self.port, self.admin_port = (harness.free_port() for _ in range(4))
        self.environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        self.scheduler = self.start_scheduler()
        at = ["--scheduler", f"127.0.0.1:{self.scheduler_port}"]
        self.worker = harness.Process([BINARY, "mixed", "--model", MODEL, *at, "--listen", f"127.0.0.1:{self.worker_port}", "--threads", "1"], self.environment)
        self.gateway = harness.Process([BINARY, "gateway", "--model", MODEL, *at, "--port", str(self.port)], self.environment)

    def start_scheduler(self) -> harness.Process:
        return harness.Process([BINARY, "scheduler", "--listen", f"127.0.0.1:{self.scheduler_port}", "--admin-port", str(self.admin_port), "--set", "scheduler.probe_after_ms=0"], self.environment)

    def restart_scheduler(self) -> None:
        self.scheduler.child.kill()
        self.scheduler.child.wait()
        self.scheduler = self.start_scheduler()

    def output(self) -> str:
        return "\n".join(process.output() for process in (self.scheduler, self.worker, self.gateway))

    def is_ready(self) -> bool:
        for process in (self.scheduler, self.worker, self.gateway):
            assert process.is_alive(), self.output()
        with contextlib.suppress(OSError):
            return request(self.port, "GET", "/health").status == 200
        return False

    def knows_steps(self) -> bool:
        """The scheduler has measured times of prompts to predict by."""
        with contextlib.suppress(OSError):
            text = request(self.admin_port, "GET", "/metrics").body.decode()
            counts = re.findall(r'^sluice_scheduler_prediction_ratio_count\{.*kind="prefill_step".*\} (\S+)$', text, re.MULTILINE)
            return any(float(count) > 0 for count in counts)
        return False

    def status_of(self, number: int, ttft_ms: int) -> tuple[int, str]:
        answer = request(self.port, "POST", "/v1/completions", {"prompt": f"{number} " + prompt(number, 85), "max_tokens": 4, "ignore_eos": True, "slo": {"ttft_ms": ttft_ms}})
        return answer.status, answer.body.decode()

    def stop(self) -> None:
        for process in (self.gateway, self.worker, self.scheduler):
            process.__exit__()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    one = Cluster()
    try:
        yield one
    finally:
        one.stop()


def test_what_steps_take_is_known_again_after_a_restart(cluster):
    wait_until(cluster.is_ready, "the cluster is ready", harness.START_SECONDS)
    numbers = itertools.count()
    assert cluster.status_of(next(numbers), 1)[0] == 200  # nobody is refused by a guess, whatever was promised
    wait_until(lambda: cluster.status_of(next(numbers), 1)[0] == 429, "the scheduler knows what steps take", harness.START_SECONDS)
    cluster.restart_scheduler()
    # Nothing runs meanwhile: all that the new one knows is what the worker tells again.
    wait_until(cluster.knows_steps, "the new scheduler has heard of steps", harness.START_SECONDS)
    wait_until(cluster.is_ready, "the cluster is ready again", harness.START_SECONDS)
    status, body = cluster.status_of(next(numbers), 1)
    assert status == 429, body + cluster.output()
    assert "the first token would come in" in body
    assert cluster.status_of(next(numbers), 60_000)[0] == 200
