"""A hand-off that both ends share (decision 0064) between processes, over sockets: the wire gets slow while it goes on, or one of its ends dies. Decode computes the front meanwhile, the tokens
are those of one colocated worker."""
from __future__ import annotations

import json
import random
import secrets
import shutil
import signal

import pytest

import harness
from harness import BINARY, Process, Server, free_port, wait_until
from slow_wire import SlowWire

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]
PROMPT_TOKENS, CONTEXT_TOKENS = 5000, 8192  # 3.2 MB of KV in BF16, 2.1 coded
FAST, SLOW = 4e6, 160e3  # bytes a second: all of it in half a second; in 13
SLOW_AFTER = 300_000  # bytes
DUE_MS = 6000  # the second token, at the latest: in time over the one wire, late over the other
PATIENCE = ["worker.kv_wait_ms=300000", "worker.kv_lease_ms=60000", "worker.room_pending_ms=60000", "worker.handoff_timeout_ms=300000"]
ATTEMPTS_S = 400  # for what needs a hand-off to be met in the middle: on a busy machine that takes more than one


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo model with room for long prompts: what it says of them is nonsense, and the same nonsense everywhere."""
    folder = tmp_path_factory.mktemp("long") / "long"
    shutil.copytree(harness.MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT_TOKENS}))
    return folder


@pytest.fixture(scope="module")
def colocated(model):
    with harness.serve("--threads", "1", "--set", "engine.kv_dtype=bf16", model=model, mixed=1, prefill=0, decode=0) as server:
        yield server.wait_ready()


class Decode:
    def __init__(self, process: Process, admin_port: int, wire: SlowWire) -> None:
        self.process, self.admin_port, self.wire = process, admin_port, wire

    def sample(self, name: str, **labels: str) -> float:
        return sum(value for (found, has), value in harness.metrics(self.admin_port).items() if found == name and set(labels.items()) <= has)

    def front_tokens(self) -> float:
        return self.sample("sluice_kv_front_tokens_total")

    def received(self) -> float:
        return self.sample("sluice_kv_transfers_total", direction="receive", outcome="ok")

    def recomputed(self) -> float:
        return self.sample("sluice_kv_fallbacks_total")


class Cluster:
    """Every role a process; the KV of a decode worker comes over a wire of its own."""

    def __init__(self, model, decodes: int, *settings: str) -> None:
        self.model, self.settings = model, settings or ("worker.kv_codec=auto",)
        self.environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        self.scheduler = f"127.0.0.1:{free_port()}"
        self.processes: list[Process] = []
        self.wires: list[SlowWire] = []
        self.start("scheduler", "--listen", self.scheduler, "--set", "scheduler.local_prefill_by_prediction=false", "--set", "scheduler.admit_by_prediction=false")
        self.prefill = self.start_worker("prefill")
        self.decodes = [self.start_decode() for _ in range(decodes)]
        port = free_port()
        self.gateway = Server([BINARY, "gateway", "--model", model, "--scheduler", self.scheduler, "--host", "127.0.0.1", "--port", str(port)], port, self.environment)
        self.processes.append(self.gateway)

    def __enter__(self) -> Cluster:
        self.gateway.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.__exit__()
            print(process.command, process.output()[-5000:], sep="\n")  # shown when the test fails
        for wire in self.wires:
            wire.close()

    def start(self, *command: str) -> Process:
        self.processes.append(Process([BINARY, *command], self.environment))
        return self.processes[-1]

    def start_worker(self, role: str, *flags: str) -> Process:
        settings = [*PATIENCE, *self.settings, "worker.kv_transport=tls", "engine.kv_dtype=bf16"]
        worker = self.start(role, "--model", str(self.model), "--scheduler", self.scheduler, "--listen", "127.0.0.1:0", "--threads", "1", *flags,
                            *(word for setting in settings for word in ("--set", setting)))

        def is_up() -> bool:
            assert worker.is_alive(), worker.output()
            return "registered with the scheduler" in worker.output()
        wait_until(is_up, f"{role} has registered", harness.START_SECONDS)
        return worker

    def start_decode(self) -> Decode:
        port, admin_port = free_port(), free_port()
        wire = SlowWire("127.0.0.2", port)
        self.wires.append(wire)
        worker = self.start_worker("decode", "--admin-port", str(admin_port), "--set", f"worker.kv_port={port}", "--set", "worker.kv_host=127.0.0.1",
                                   "--set", f"worker.kv_advertised_host={wire.host}")
        return Decode(worker, admin_port, wire)

    def set_rate(self, bytes_per_s: float | None) -> None:
        for decode in self.decodes:
            decode.wire.set_rate(bytes_per_s)


def prompt_of(source: random.Random, tokens: int) -> list[int]:
    return [source.randrange(3, 512) for _ in range(tokens)]


class Asked:
    """A request whose first token has come: what follows waits for KV."""

    def __init__(self, port: int, prompt: list[int], **fields) -> None:
        self.stream = harness.Stream(port, "/v1/completions", {"prompt": prompt, "max_tokens": 12, "logprobs": 2, "ignore_eos": True, "return_token_ids": True, "temperature": 1.0,
                                                              "seed": 7, **fields}, seconds=300)
        assert self.stream.status == 200, self.stream.response.read()
        self.chunks = self.stream.chunks()
        self.seen = [next(self.chunks)]

    def answer(self) -> tuple[list[int], list[float]]:
        """Tokens and their log-probabilities."""
        self.seen += self.chunks
        self.stream.close()
        choices = [choice for chunk in self.seen for choice in chunk["choices"]]
        tokens = [token for choice in choices for token in choice.get("token_ids") or []]
        logprobs = [value for choice in choices for value in (choice.get("logprobs") or {}).get("token_logprobs", [])]
        assert len(tokens) == len(logprobs) == 12, self.seen
        return tokens, logprobs


def get_known(cluster: Cluster, colocated: Server, source: random.Random) -> None:
    """What steps take and what the wires carry: nobody shares a hand-off before both are known."""
    cluster.set_rate(FAST)
    for number in range(1, 11 * len(cluster.decodes)):
        prompt = prompt_of(source, 100 + 1000 * number % 1700)
        assert Asked(cluster.gateway.port, prompt).answer() == Asked(colocated.port, prompt).answer()


class Shared:
    """A hand-off whose wire has become slow when a part of it had come, and of which decode has begun to compute the front."""

    def __init__(self, cluster: Cluster, source: random.Random) -> None:
        self.cluster = cluster
        self.prompt = prompt_of(source, PROMPT_TOKENS)
        before = [(decode.front_tokens(), decode.received(), decode.recomputed()) for decode in cluster.decodes]
        for decode in cluster.decodes:
            decode.wire.set_rate(FAST)
            decode.wire.slow_after(SLOW_AFTER, SLOW)
        self.asked = Asked(cluster.gateway.port, self.prompt, slo={"ttft_ms": DUE_MS - 1000, "tpot_ms": 1000})
        self.decode: Decode | None = None  # the one that computes

        def has_begun() -> bool:
            for decode, (front, received, recomputed) in zip(cluster.decodes, before, strict=True):
                if decode.front_tokens() > front:
                    self.decode, self.front_before, self.received_before, self.recomputed_before = decode, front, received, recomputed
                if decode.received() > received:
                    return True
            return self.decode is not None and self.decode.wire.is_slow()
        wait_until(has_begun, "decode computes the front, or all has come", 300)

    def is_under_way(self) -> bool:
        return self.decode is not None and self.decode.received() == self.received_before and self.decode.recomputed() == self.recomputed_before

    def front_tokens(self) -> float:
        return 0 if self.decode is None else self.decode.front_tokens() - self.front_before


@pytest.mark.parametrize("then", ["stays slow", "gets better"])
def test_a_wire_that_gets_slow_midway_is_met_by_decode(model, colocated, then):
    source = random.Random(20261129)
    with Cluster(model, decodes=1) as cluster:
        get_known(cluster, colocated, source)

        def attempt() -> bool:
            shared = Shared(cluster, source)
            was_met = shared.is_under_way()
            if then == "gets better":
                cluster.set_rate(None)
            assert shared.asked.answer() == Asked(colocated.port, shared.prompt).answer()
            if not was_met:
                return False
            front = shared.front_tokens()
            print(f"decode has computed {front:.0f} of {PROMPT_TOKENS} tokens")
            assert 0 < front < PROMPT_TOKENS
            # All else came over the wire, and was taken.
            return shared.decode.received() == shared.received_before + 1 and shared.decode.recomputed() == shared.recomputed_before
        wait_until(attempt, "a wire got slow in the middle of a hand-off", ATTEMPTS_S)
        wait_until(lambda: harness.blocks_in_use(cluster.decodes[0].admin_port) == 0, "no block is in use")


def test_prefill_dies_while_both_ends_share_a_hand_off(model, colocated):
    source = random.Random(20261130)
    with Cluster(model, decodes=1) as cluster:
        def attempt() -> bool:
            get_known(cluster, colocated, source)
            shared = Shared(cluster, source)
            was_met = shared.is_under_way()
            cluster.prefill.child.send_signal(signal.SIGKILL)
            assert shared.asked.answer() == Asked(colocated.port, shared.prompt).answer()
            if was_met and shared.decode.recomputed() == shared.recomputed_before + 1:  # what was missing
                return True
            cluster.prefill = cluster.start_worker("prefill")
            return False
        wait_until(attempt, "prefill died in the middle of a hand-off", ATTEMPTS_S)
        wait_until(lambda: harness.blocks_in_use(cluster.decodes[0].admin_port) == 0, "no block is in use")


def test_decode_dies_while_both_ends_share_a_hand_off(model, colocated):
    source = random.Random(20261201)
    with Cluster(model, decodes=2) as cluster:
        def attempt() -> bool:
            get_known(cluster, colocated, source)
            shared = Shared(cluster, source)
            was_met = shared.is_under_way()
            if was_met:
                shared.decode.process.child.send_signal(signal.SIGKILL)
            cluster.set_rate(None)
            assert shared.asked.answer() == Asked(colocated.port, shared.prompt).answer()
            if was_met:
                cluster.decodes.remove(shared.decode)
            return was_met
        wait_until(attempt, "decode died in the middle of a hand-off", ATTEMPTS_S)
        wait_until(lambda: harness.blocks_in_use(cluster.decodes[0].admin_port) == 0, "no block is in use")


def test_a_frame_that_is_on_the_wire_for_long_is_waited_for(model, colocated):
    """All KV is there when the hand-off begins, so it goes in one frame, for longer than a connection may stand still."""
    source = random.Random(20261202)
    with Cluster(model, 1, "worker.kv_codec=raw", "worker.kv_both_ends=false") as cluster:
        prompt = prompt_of(source, 6000)
        expected = Asked(colocated.port, prompt).answer()
        assert Asked(cluster.gateway.port, prompt).answer() == expected
        decode = cluster.decodes[0]

        def attempt() -> bool:
            nonlocal decode
            decode.process.child.send_signal(signal.SIGKILL)  # prefill has the KV, the next one none of it
            decode = cluster.start_decode()
            decode.wire.set_rate(1e6)  # 3.8 MB
            wait_until(lambda: harness.request(cluster.gateway.port, "GET", "/health").status == 200, "the cluster is ready", 60)
            assert Asked(cluster.gateway.port, prompt).answer() == expected
            return decode.received() == 1 and decode.recomputed() == 0
        wait_until(attempt, "a frame came in four seconds", 200)
