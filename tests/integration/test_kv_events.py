"""KV events as a router of another system reads them: pyzmq, and vLLM's types (0.26) by msgspec, strict about what they may hold."""
import collections
import itertools
import random
import signal
import subprocess
import threading
import time

import msgspec
import pytest
import zmq

import harness
from harness import BINARY, serve, wait_until

pytestmark = pytest.mark.process

BLOCK = 16
TOPIC = "kv@127.0.0.1:8000@tiny"
END = (2**64 - 1).to_bytes(8, "big")
SMALL_POOL = ("--set", "engine.kv_pool_bytes=600000")  # 29 blocks of 16 tokens
ONE_WORKER = {"prefill": 0, "decode": 0, "mixed": 1}


class Event(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    pass


class BlockStored(Event):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[str] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(Event):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(Event):
    pass


class Batch(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class Router:
    """What a router knows of one worker: for each medium, blocks by their names, and of each the text from the beginning on. Follows a live socket from a thread and asks for what it
    missed, from the beginning after each new connection. Whatever does not fit what it was told before is a fault."""

    def __init__(self, port, asks=True):
        self.context = zmq.Context()
        self.live = self.context.socket(zmq.SUB)
        self.monitor = self.live.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.live.connect(f"tcp://127.0.0.1:{port}")
        self.live.subscribe(b"kv@")
        self.replay = f"tcp://127.0.0.1:{port + 4}" if asks else None
        self.lock = threading.Lock()
        self.blocks = collections.defaultdict(dict)  # medium -> name -> (scope, tokens..); None: its beginning has gone
        self.is_whole = False  # nothing is unknown
        self.last = None
        self.ranks, self.replays, self.ignored = set(), 0, 0
        self.is_deaf = self.ends = False
        self.faults = []
        self.thread = threading.Thread(target=self.follow)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ends = True
        self.thread.join()
        self.context.destroy(linger=0)

    def follow(self):
        poller = zmq.Poller()
        poller.register(self.live, zmq.POLLIN)
        poller.register(self.monitor, zmq.POLLIN)
        try:
            while not self.ends:
                ready = dict(poller.poll(50))
                if self.monitor in ready:
                    self.monitor.recv_multipart()
                    self.last, self.is_whole = None, False
                elif self.live in ready:
                    frames = self.live.recv_multipart()
                    if self.is_deaf:
                        self.ignored += 1
                    else:
                        self.take(*frames)
        except Exception as error:  # noqa: BLE001  told by whoever looks
            self.faults.append(error)

    def take(self, topic, number, payload):
        assert topic.decode() == TOPIC
        number = int.from_bytes(number, "big")
        with self.lock:
            expected = 0 if self.last is None else self.last + 1
            if number > expected and self.replay:
                self.ask(expected)
                expected = self.last + 1
            if number < expected:
                return  # told by the replay
            assert number == expected or not self.replay
            self.apply(number, payload)

    def ask(self, first):
        """As llm-d's subscriber does."""
        self.replays += 1
        socket = self.context.socket(zmq.DEALER)
        socket.connect(self.replay)
        socket.send_multipart([b"", first.to_bytes(8, "big")])
        expected = first
        while True:
            assert socket.poll(60_000), "no answer to a request for batches"
            empty, topic, number, payload = socket.recv_multipart()
            assert empty == b""
            if payload == b"":
                assert (topic, number) == (b"", END)
                break
            assert topic.decode() == TOPIC and int.from_bytes(number, "big") == expected
            self.apply(expected, payload)
            expected += 1
        socket.close(linger=0)

    def apply(self, number, payload):
        batch = msgspec.msgpack.decode(payload, type=Batch)
        assert abs(batch.ts - time.time()) < 3600
        self.ranks.add(batch.data_parallel_rank)
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                self.blocks.clear()
                self.is_whole = True
            elif isinstance(event, BlockRemoved):
                assert event.group_idx == 0
                for name in event.block_hashes:
                    assert name in self.blocks[event.medium] or not self.is_whole
                    self.blocks[event.medium].pop(name, None)
            else:
                self.store(event)
        self.last = number

    def store(self, event):
        assert (event.block_size, event.group_idx, event.kv_cache_spec_kind) == (BLOCK, 0, "full_attention")
        assert len(event.token_ids) == BLOCK * len(event.block_hashes) and len(event.extra_keys) == len(event.block_hashes)
        assert all(keys is None for keys in event.extra_keys[1:])
        if event.parent_block_hash is None:
            text = (event.extra_keys[0][0] if event.extra_keys[0] else "",)
        else:
            assert event.extra_keys[0] is None
            text = next((level[event.parent_block_hash] for level in self.blocks.values() if event.parent_block_hash in level), None)
        for place, name in enumerate(event.block_hashes):
            assert name not in self.blocks[event.medium] or not self.is_whole, "told twice"
            text = text and text + tuple(event.token_ids[place * BLOCK:(place + 1) * BLOCK])
            self.blocks[event.medium][name] = text

    def cached(self, prompt, scope="", medium="GPU"):
        """Tokens of a prompt that the worker has, by what was told; all but its last token may be."""
        with self.lock:
            assert not self.faults, self.faults
            have = set(self.blocks[medium].values())
        tokens = 0
        while tokens + BLOCK < len(prompt) and (scope, *prompt[:tokens + BLOCK]) in have:
            tokens += BLOCK
        return tokens

    def count(self):
        with self.lock:
            assert not self.faults, self.faults
            return len(self.blocks["GPU"])


def prompt(number, tokens=100):
    """Those of a number below 100 whose numbers leave the same rest by 3 share their first 48 tokens."""
    beginning = random.Random(number % 3 if number < 100 else number)
    rest = random.Random(number + 0.5)
    return [(beginning if place < 48 else rest).randrange(3, 500) for place in range(tokens)]


def ask(port, tokens, **fields):
    answer = harness.post(port, "/v1/completions", prompt=tokens, max_tokens=4, temperature=0, ignore_eos=True, **fields)
    assert answer.status == 200, answer.body
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def named(port):
    """Blocks of the pool that have a name: of one that is idle, those that are cached."""
    return sum(value for (name, labels), value in harness.metrics(port).items() if name == "sluice_worker_kv_blocks" and ("state", "cached") in labels)


def flags(port):
    return ("--set", f"worker.kv_events.endpoint=tcp://127.0.0.1:{port}", "--set", f"worker.kv_events.replay_endpoint=tcp://127.0.0.1:{port + 4}",
            "--set", f"worker.kv_events.topic={TOPIC}")


def follow(router, port, tokens, scope=""):
    """It has heard of all up to the request of these tokens, the latest one."""
    wait_until(lambda: router.cached(tokens, scope) == 96, "the router hears of the latest request")
    wait_until(lambda: harness.blocks_in_use(port) == 0, "no block is in use")
    wait_until(lambda: router.count() == named(port), "the router knows the pool")


def begin_to_hear(routers, port, first=1000):
    """Subscriptions take a while; new prompts are asked for until each router has heard of one. That one."""
    for number in range(first, first + 1000):
        ask(port, prompt(number))
        time.sleep(0.05)
        if all(router.cached(prompt(number)) == 96 and router.is_whole in (True, router.replay is not None) for router in routers):
            return prompt(number)
    raise AssertionError("a router hears nothing")


@pytest.fixture
def ports():
    return harness.free_run_of_ports(8)


def test_a_router_knows_what_will_be_found(ports):
    with serve(*flags(ports), *SMALL_POOL, "--set", "gateway.reset_prefix_cache=true", **ONE_WORKER) as server, Router(ports) as router:
        server.wait_ready()
        follow(router, server.port, begin_to_hear([router], server.port))
        predicted = []
        for number in [*range(8), 0, 3, 7, 6]:  # six blocks each, of which three are shared: the pool forgets some
            tokens = prompt(number)
            predicted.append(router.cached(tokens))
            assert ask(server.port, tokens) == predicted[-1]
            follow(router, server.port, tokens)
        assert {0, 48, 96} <= set(predicted), predicted
        # What a salt keeps apart is told apart.
        assert ask(server.port, prompt(6), cache_salt="mine") == 0
        follow(router, server.port, prompt(6), "salt:mine")
        assert router.cached(prompt(6), "salt:other") == 0
        assert router.ranks == {0}
        # All that was computed is dropped.
        assert harness.request(server.port, "POST", "/reset_prefix_cache").status == 200
        wait_until(lambda: router.count() == 0, "everything is gone")


def test_who_comes_late_or_missed_some_asks_for_it(ports):
    with serve(*flags(ports), *SMALL_POOL, **ONE_WORKER) as server:
        server.wait_ready()
        for number in range(6):
            ask(server.port, prompt(number))
        with Router(ports) as router:
            follow(router, server.port, begin_to_hear([router], server.port))
            assert router.replays == 1 and router.is_whole
            router.is_deaf = True
            for number in range(20, 24):
                ask(server.port, prompt(number))
            wait_until(lambda: router.ignored > 0, "something was missed")
            router.is_deaf = False
            ask(server.port, prompt(30))
            follow(router, server.port, prompt(30))
            assert router.replays == 2
            assert router.cached(prompt(30)) == ask(server.port, prompt(30)) == 96


def test_of_a_history_that_is_too_long_everything_is_told_anew(ports):
    with serve(*flags(ports), "--set", "worker.kv_events.kept_batches_max=2", *SMALL_POOL, **ONE_WORKER) as server:
        server.wait_ready()
        for number in range(6):
            ask(server.port, prompt(number))
        with Router(ports, asks=False) as router, zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            tokens = begin_to_hear([router], server.port)
            assert not router.is_whole
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{ports + 4}")
            dealer.send_multipart([b"", (0).to_bytes(8, "big")])
            assert dealer.poll(60_000)
            assert int.from_bytes(dealer.recv_multipart()[2], "big") > 0
            wait_until(lambda: router.is_whole, "it is told anew")
            follow(router, server.port, tokens)


def test_a_worker_that_was_killed_begins_anew(ports):
    with Router(ports) as router:
        for first in (1000, 2000):
            with serve(*flags(ports), *SMALL_POOL, **ONE_WORKER) as server:
                server.wait_ready()
                follow(router, server.port, begin_to_hear([router], server.port, first))  # and nothing of the life before
                server.stop(signal.SIGKILL)


def test_each_worker_has_its_port_and_each_level_its_medium(ports, tmp_path):
    levels = ("--set", "engine.kv_host_bytes=8000000", "--set", f"engine.kv_disk.path={tmp_path / 'kv'}", "--set", "engine.kv_disk.bytes=8000000")
    with serve(*flags(ports), *levels, "--set", "scheduler.local_prefill_by_prediction=false", prefill=1, decode=1) as server, Router(ports) as prefill, Router(ports + 1) as decode:
        server.wait_ready()
        begin_to_hear([prefill, decode], server.port)
        numbers = itertools.count(5000)
        for router, rank in ((prefill, 0), (decode, 1)):
            for medium in ("CPU", "DISK"):
                asked = []  # a level that has much to do may leave some out

                def tells(router=router, medium=medium, asked=asked):
                    asked.append(prompt(next(numbers)))
                    ask(server.port, asked[-1])
                    return any(router.cached(tokens, medium=medium) == 96 for tokens in asked)
                wait_until(tells, f"worker {rank} tells of {medium}")
            assert router.ranks == {rank}


def test_nobody_waits_for_a_subscriber_that_stands_still(ports):
    with serve(*flags(ports), "--set", "worker.kv_events.subscriber_batches_max=1", **ONE_WORKER) as server:
        server.wait_ready()
        with zmq.Context() as context, context.socket(zmq.SUB) as stalled, Router(ports) as router:
            stalled.rcvhwm = 1
            stalled.linger = 0
            stalled.connect(f"tcp://127.0.0.1:{ports}")
            stalled.subscribe(b"")
            for number in range(30):
                ask(server.port, prompt(number))
            follow(router, server.port, begin_to_hear([router], server.port))


@pytest.mark.parametrize("setting, told", [
    ("endpoint=tcp://0.0.0.0:5557", "cluster.trusted_network"),
    ("endpoint=tcp://*:5557", "cluster.trusted_network"),
    ("endpoint=udp://127.0.0.1:5557", "tcp://HOST:PORT"),
    ("endpoint=tcp://127.0.0.1:99999", "tcp://HOST:PORT"),
    ("replay_endpoint=tcp://127.0.0.1:5558", "worker.kv_events.endpoint"),
])
def test_an_address_that_shows_prompts_to_others_or_is_none_is_refused(setting, told):
    command = [BINARY, "serve", "--model", harness.MODEL, "--port", harness.free_port(), "--set", f"worker.kv_events.{setting}"]
    ended = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and told in ended.stderr, ended.stderr


def test_an_address_that_is_taken_is_named(ports):
    with serve(*flags(ports), **ONE_WORKER) as server:
        server.wait_ready()
        with serve(*flags(ports), **ONE_WORKER) as other:
            assert other.wait() != 0
            assert "worker.kv_events" in other.output() and f"tcp://127.0.0.1:{ports}" in other.output()
