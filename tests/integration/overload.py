"""What clients get of a cluster that far more is asked of than it can do: a gateway, a scheduler and workers whose steps take what they are told (timed_worker.cpp), each a process of its own, and clients that
come back when they are refused. Used by test_overload.py and scripts/bench-overload."""
from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import random
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import harness

# About what two cores do with a model of 110M parameters, as in tests/goodput/admission_test.cpp: microseconds a step, a token (a sequence), a token of context. At its best such a worker has
# PEAK requests a second in time.
PREFILL, DECODE, PEAK = (5000, 480, 0.02), (6000, 500, 0.0016), 1.6
CONTEXT, VOCABULARY, TOKEN = 4096, 512, 300
WORKER = harness.ROOT / "build" / "release" / "tests" / "integration" / "timed_worker"
QUEUES = ("sluice_gateway_inflight_requests", "sluice_scheduler_queue_requests", "sluice_scheduler_placements")


@dataclasses.dataclass
class Kind:
    """A kind of requests, and what its clients do when they are refused: `give_up`; `obey` Retry-After; `hurry`, back after `pause_s` whatever they are told. They lose patience in the end."""
    on_refusal: str = "give_up"
    pause_s: float = 0.2
    patience_s: float = 5
    prompt_tokens: int = 512
    answer_tokens: int = 64
    ttft_s: float = 1.0
    tpot_s: float = 0.020


def slower(times: float, **fields: Any) -> Kind:
    """With targets so many times as long."""
    return Kind(ttft_s=1.0 * times, tpot_s=0.020 * times, **fields)


@dataclasses.dataclass
class Outcome:
    due: float  # seconds since the load began, as all times here
    asked: float = 0  # its last attempt
    attempts: int = 0
    status: int = 0  # of its last attempt
    told_s: float = 0  # by the last Retry-After
    ttft_s: float = math.inf  # of its last attempt
    tpot_s: float = math.inf
    error: str = ""

    def is_good(self, kind: Kind) -> bool:
        return self.status == 200 and not self.error and self.ttft_s <= kind.ttft_s and self.tpot_s <= kind.tpot_s


class Cluster:
    """Steps take `times` as long as above, so that a machine that has other things to do matters less."""

    def __init__(self, workers: int, times: float = 1, settings: Iterable[str] = ()) -> None:
        kind = slower(times)
        self.peak = workers * PEAK / times
        costs = [",".join(f"{times * microseconds:g}" for microseconds in cost) for cost in (PREFILL, DECODE)]
        key = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        address, self.port, self.scheduler_admin = f"127.0.0.1:{harness.free_port()}", harness.free_port(), harness.free_port()
        targets = [f"slo_classes.default.ttft_ms={kind.ttft_s * 1e3:g}", f"slo_classes.default.tpot_ms={kind.tpot_s * 1e3:g}"]
        flags = [word for setting in (*targets, *settings) for word in ("--set", setting)]
        self.open = contextlib.ExitStack()
        try:
            self.scheduler = self.open.enter_context(harness.Process([harness.BINARY, "scheduler", "--listen", address, "--admin-port", str(self.scheduler_admin), *flags], key))
            self.workers = [self.open.enter_context(harness.Process([WORKER, address, harness.MODEL_ID, str(CONTEXT), str(VOCABULARY), str(TOKEN), *costs], key, subprocess.PIPE))
                            for _ in range(workers)]
            self.gateway = self.open.enter_context(harness.Server([harness.BINARY, "gateway", "--model", harness.MODEL, "--scheduler", address, "--host", "127.0.0.1", "--port", str(self.port), *flags],
                                                                  self.port, key))
            for worker in self.workers:
                harness.wait_until(lambda worker=worker: "serving" in worker.output() or not worker.is_alive(), "the scheduler takes the worker in", 60)
            self.gateway.wait_ready()
        except BaseException:
            self.open.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def queues(self) -> dict[str, float]:
        """How much waits or is in work, by the name of its metric."""
        found: dict[str, float] = {}
        for port in (self.port, self.scheduler_admin):
            for (name, _), value in harness.metrics(port).items():
                if name in QUEUES:
                    found[name] = found.get(name, 0) + value
        return found

    def check_alive(self) -> None:
        for process in (self.scheduler, self.gateway, *self.workers):
            assert process.is_alive(), process.output()


def arrivals(rate: float, seconds: float, seed: int, begin: float = 0) -> list[float]:
    """Poisson."""
    draw, at, times = random.Random(seed), begin, []
    while (at := at + draw.expovariate(rate)) < begin + seconds:
        times.append(at)
    return times


async def attempt(port: int, kind: Kind, draw: random.Random, outcome: Outcome) -> None:
    """Asks once; all that is told of the answer goes into `outcome`."""
    body = json.dumps({"model": harness.MODEL_ID, "prompt": [draw.randrange(3, VOCABULARY) for _ in range(kind.prompt_tokens)], "max_tokens": kind.answer_tokens, "ignore_eos": True,
                       "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        asked = time.monotonic()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        outcome.status = int(head[0].split()[1])
        outcome.told_s = next((float(line.split(":")[1]) for line in head if line.startswith("retry-after:")), 0)
        first = last = 0.0
        tail = b""
        while piece := await reader.read(1 << 16):
            if b"data: {" in tail[-6:] + piece:  # also one that is cut in two pieces, and none twice
                last = time.monotonic()
                first = first or last
            tail = (tail + piece)[-32:]
        if outcome.status == 200:
            if b"data: [DONE]" not in tail:
                outcome.error = f"cut: {tail!r}"
            outcome.ttft_s, outcome.tpot_s = first - asked, (last - first) / max(1, kind.answer_tokens - 1)
    finally:
        writer.close()


async def client(port: int, kind: Kind, outcome: Outcome, began: float, seed: int) -> None:
    draw = random.Random(seed)
    await asyncio.sleep(max(0.0, began + outcome.due - time.monotonic()))
    while True:
        outcome.asked = time.monotonic() - began
        outcome.attempts += 1
        try:
            await attempt(port, kind, draw, outcome)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            outcome.error = repr(error)
            return
        if outcome.status != 429 or kind.on_refusal == "give_up" or outcome.told_s == 0:
            return
        pause = outcome.told_s if kind.on_refusal == "obey" else kind.pause_s
        if time.monotonic() - began + pause > outcome.due + kind.patience_s:
            return
        await asyncio.sleep(pause)


async def watch(cluster: Cluster, most: dict[str, float], every_s: float) -> None:
    while True:
        for name, value in (await asyncio.to_thread(cluster.queues)).items():
            most[name] = max(most.get(name, 0), value)
        await asyncio.sleep(every_s)


def play(cluster: Cluster, loads: list[tuple[Kind, list[float]]], seed: int = 1, watch_every_s: float = 0.5) -> tuple[list[list[Outcome]], dict[str, float]]:
    """What became of each request of each load, and the most that was seen to wait."""
    outcomes = [[Outcome(due) for due in dues] for _, dues in loads]
    most: dict[str, float] = {}

    async def run() -> None:
        began = time.monotonic() + 0.1
        watching = asyncio.create_task(watch(cluster, most, watch_every_s))
        await asyncio.gather(*(client(cluster.port, kind, outcome, began, hash((seed, load, number)))
                               for load, (kind, _) in enumerate(loads) for number, outcome in enumerate(outcomes[load])))
        watching.cancel()

    asyncio.run(run())
    cluster.check_alive()
    return outcomes, most


def goodput(outcomes: Iterable[Outcome], kind: Kind, begin: float, end: float) -> float:
    """Good requests a second, of those that were let in in that time."""
    return sum(begin <= one.asked < end and one.is_good(kind) for one in outcomes) / (end - begin)


def flood(cluster: Cluster, kind: Kind, factor: float, flood_s: float, calm_s: float, seed: int) -> dict[str, Any]:
    """Half of the peak all the time, from which nobody comes back, and `factor` times the peak besides for a while, of clients as `kind` says."""
    calm = dataclasses.replace(kind, on_refusal="give_up")
    flood_ends = calm_s + flood_s
    (quiet, storm), most = play(cluster, [(calm, arrivals(cluster.peak / 2, flood_ends + calm_s, seed)), (kind, arrivals(factor * cluster.peak, flood_s, seed + 1, calm_s))], seed)
    both = [*quiet, *storm]
    after = [one for one in quiet if one.due >= flood_ends + 5]
    return {"on_refusal": kind.on_refusal, "requests": len(both), "attempts": sum(one.attempts for one in both), "errors": sorted({one.error for one in both if one.error}),
            "statuses": {str(status): sum(one.status == status for one in both) for status in sorted({one.status for one in both})},
            "goodput_calm": round(goodput(both, kind, 0, calm_s), 3), "goodput_flood": round(goodput(both, kind, calm_s, flood_ends), 3),
            "good_by_5s": [round(5 * goodput(both, kind, at, at + 5)) for at in range(0, int(flood_ends + calm_s), 5)],
            "let_in_flood": sum(calm_s <= one.asked < flood_ends and one.status == 200 for one in both),
            "after": len(after), "after_good": sum(one.is_good(calm) for one in after), "waited_most": most}
