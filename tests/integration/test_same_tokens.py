"""Numbers do not depend on company: the same tokens and logprobs, bit for bit, however the cluster is laid out.

The reference is one request after the other on one colocated worker with one thread. Every other layout gets the same requests all at
once, twice (so that the second round meets prefix hits), in an order of its own.
"""
import concurrent.futures
import random

import pytest

import harness

SEED = 20261125
LAYOUTS = {
    "colocated, 2 threads": ({"mixed": 1, "prefill": 0, "decode": 0}, ("--threads", "2")),
    "1P1D": ({}, ()),
    "2P2D": ({"prefill": 2, "decode": 2}, ()),
    "small chunks and batches": ({}, ("--set", "worker.batch_tokens_max=37", "--set", "worker.batch_sequences_max=3",
                                      "--set", "worker.chunk_tokens_max=5")),
    "a pool so small that sequences are preempted": ({"mixed": 1, "prefill": 0, "decode": 0}, ("--set", "engine.kv_pool_bytes={small}")),
    "so small a pool, and what gives way goes to host memory": ({"mixed": 1, "prefill": 0, "decode": 0}, (
        "--set", "engine.kv_pool_bytes={small}", "--set", "engine.kv_host_bytes=20000000")),
    "the same with a disk below, split": ({}, ("--set", "engine.kv_pool_bytes={small}", "--set", "engine.kv_disk.path={folder}",
                                               "--set", "engine.kv_disk.bytes=20000000")),
    "host memory and a disk below, KV coded in both, split": ({}, (
        "--set", "engine.kv_pool_bytes={small}", "--set", "engine.kv_host_bytes=6000000", "--set", "engine.kv_host_codec=exact",
        "--set", "engine.kv_disk.path={folder}", "--set", "engine.kv_disk.bytes=20000000", "--set", "engine.kv_disk.codec=exact")),
    "KV frames lost: resent or recomputed": ({}, ("--set", "test.kv_fault_plan='seed=3;drop:kind=3,probability=0.4'",
                                                   "--set", "worker.kv_wait_ms=600", "--set", "worker.kv_lease_ms=300")),
    "KV frames damaged, doubled, late": ({}, ("--set", "test.kv_fault_plan='seed=4;corrupt:kind=3,probability=0.2;"
                                               "duplicate:probability=0.2;delay:ms=20,probability=0.2'")),
    "KV fetched from whoever has it": ({"prefill": 2, "decode": 2}, ("--set", "scheduler.fetch_tokens_min=16", "--set", "scheduler.heartbeat_ms=20",
                                                                   "--set", "test.kv_fault_plan='seed=6;drop:kind=7,probability=0.3'")),
    "KV coded without loss, frames lost and damaged": ({}, ("--set", "worker.kv_codec=exact", "--set",
                                                            "test.kv_fault_plan='seed=8;drop:kind=3,probability=0.1;corrupt:kind=3,probability=0.1'")),
    "KV coded as the wire makes best, frames lost, damaged and late": ({}, ("--set", "worker.kv_codec=auto", "--set",
        "test.kv_fault_plan='seed=9;drop:kind=3,probability=0.1;corrupt:kind=3,probability=0.1;delay:ms=20,probability=0.3'")),
    "loss is allowed here, but no request may have it": ({}, ("--set", "worker.kv_codec=sluice", "--set", "worker.kv_lossy=allowed")),
    "no hand-off ever succeeds": ({}, ("--set", "test.kv_fault_plan='seed=5;drop:kind=3,probability=1'",
                                        "--set", "worker.kv_wait_ms=200", "--set", "worker.kv_lease_ms=100")),
}


def requests_of(vocabulary, context, seed=SEED):
    """Prompts of all lengths, some with a common beginning; greedy, sampled, penalised."""
    source = random.Random(seed)
    common = [source.randrange(3, vocabulary) for _ in range(100)]
    requests = []
    for number in range(18):
        length = source.choice([1, 2, 15, 16, 17, 40, 77, 130, 200])
        prompt = [source.randrange(3, vocabulary) for _ in range(length)]
        if number % 3 == 0:
            prompt = common[: source.randrange(20, 100)] + prompt
        fields = {"prompt": prompt[: context - 60], "max_tokens": source.randrange(1, 40), "logprobs": 2, "ignore_eos": True}
        if number % 3 == 1:
            fields |= {"temperature": 1.0, "top_p": 0.9, "seed": number}
        elif number % 3 == 2:
            fields |= {"temperature": 0.7, "top_k": 20, "seed": number, "presence_penalty": 0.5, "repetition_penalty": 1.1}
        else:
            fields |= {"temperature": 0}
        requests.append(fields)
    return requests


def ask(port, fields):
    answer = harness.post(port, "/v1/completions", **fields)
    assert answer.status == 200, answer.body
    choice = answer.json()["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == fields["max_tokens"]
    return choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]


@pytest.fixture(scope="module", params=["stories260k in F32", "stories15m in BF16"])
def model(request, tmp_path_factory):
    if request.param.startswith("stories260k"):
        return harness.MODEL, 512, 512, 80 * 20480
    folder = tmp_path_factory.mktemp("same") / "stories15m"
    with harness.Process([harness.BINARY, "model", "make", "--shape", "stories15m", folder]) as made:
        assert made.wait() == 0, made.output()
    return folder, 512, 256, 80 * 16 * 6912


def alone(model, requests):
    """One after the other on one colocated worker with one thread."""
    with harness.serve("--threads", "1", model=model[0], mixed=1, prefill=0, decode=0) as server:
        server.wait_ready()
        return [ask(server.port, fields) for fields in requests]


@pytest.fixture(scope="module")
def expected(model):
    _, vocabulary, context, _ = model
    return alone(model, requests_of(vocabulary, context))


def assert_same(model, layout, requests, expected, seed, rounds, kv_folder):
    folder, _, _, small = model
    roles, flags = LAYOUTS[layout]
    flags = [flag.replace("{small}", str(small)).replace("{folder}", str(kv_folder)) for flag in flags]
    with harness.serve(*flags, model=folder, **roles) as server:
        server.wait_ready()
        for round_number in range(rounds):
            order = list(range(len(requests)))
            random.Random(f"{seed} {layout} {round_number}").shuffle(order)
            with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
                answers = dict(zip(order, pool.map(lambda index: ask(server.port, requests[index]), order), strict=True))
            different = [index for index in order if answers[index] != expected[index]]
            assert not different, f"seed {seed}, {layout}, round {round_number}: requests {different} differ"
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_and_logprobs_are_bit_identical(model, expected, layout, tmp_path):
    _, vocabulary, context, _ = model
    assert_same(model, layout, requests_of(vocabulary, context), expected, SEED, 2, tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 21))
def test_other_requests_are_bit_identical_too(model, seed, tmp_path):
    _, vocabulary, context, _ = model
    requests = requests_of(vocabulary, context, seed)
    expected = alone(model, requests)
    for layout in LAYOUTS:
        assert_same(model, layout, requests, expected, seed, 3, tmp_path)


def test_the_faults_of_the_layouts_really_strike(model):
    """Else the layouts above would prove nothing."""
    folder, vocabulary, context, _ = model
    roles, flags = LAYOUTS["no hand-off ever succeeds"]
    with harness.serve(*flags, model=folder, **roles) as server:
        server.wait_ready()
        ask(server.port, requests_of(vocabulary, context)[3])
        recomputed = sum(value for (name, _), value in harness.metrics(server.port).items() if name == "sluice_kv_fallbacks_total")
        assert recomputed > 0
