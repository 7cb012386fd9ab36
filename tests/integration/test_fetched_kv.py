"""KV that another worker has is fetched instead of computed (scheduler.fetch_tokens_min), and changes no bit of any answer."""
import itertools
import random

import harness

FLAGS = ("--set", "scheduler.fetch_tokens_min=16", "--set", "scheduler.heartbeat_ms=20")


def fetched_blocks(port):
    return sum(value for (name, _), value in harness.metrics(port).items() if name == "sluice_kv_fetched_blocks_total")


def ask(port, prompt):
    fields = {"prompt": prompt, "max_tokens": 40, "logprobs": 2, "ignore_eos": True, "return_token_ids": True, "temperature": 1.0, "seed": 7}
    answer = harness.post(port, "/v1/completions", **fields)
    assert answer.status == 200, answer.body
    choice = answer.json()["choices"][0]
    return choice["token_ids"], choice["text"], choice["logprobs"]


def test_the_next_turn_fetches_the_kv_of_the_answer_before_from_the_decode_worker():
    source = random.Random(20261128)
    numbers = itertools.count(1)
    with harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as alone, harness.serve(*FLAGS) as server:
        alone.wait_ready()
        server.wait_ready()

        def converse():
            """Once the scheduler has heard what decode holds, the answers' KV is fetched by prefill. Whether it was or not: the same bits."""
            number = next(numbers)
            prompt = [source.randrange(3, 512) for _ in range(100)]
            for turn in range(4):
                answer = ask(server.port, prompt)
                assert answer == ask(alone.port, prompt), f"conversation {number}, turn {turn}"
                prompt = prompt + answer[0] + [source.randrange(3, 512) for _ in range(5)]
            return fetched_blocks(server.port) > 0

        harness.wait_until(converse, "KV was fetched", 120)
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")


def test_a_lost_fetch_costs_a_computation():
    """Every question is lost, so the KV is computed: late, and with the same bits."""
    flags = (*FLAGS, "--set", "worker.fetch_answer_ms=50", "--set", "test.kv_fault_plan='seed=5;drop:kind=7,probability=1'")
    source = random.Random(20261129)

    def failed(port):
        return sum(value for (name, labels), value in harness.metrics(port).items()
                   if name == "sluice_kv_fetches_total" and ("outcome", "peer_lost") in labels)

    with harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as alone, harness.serve(*flags) as server:
        alone.wait_ready()
        server.wait_ready()

        def converse():
            prompt = [source.randrange(3, 512) for _ in range(100)]
            for _ in range(3):
                answer = ask(server.port, prompt)
                assert answer == ask(alone.port, prompt)
                prompt = prompt + answer[0] + [source.randrange(3, 512) for _ in range(5)]
            return failed(server.port) > 0

        harness.wait_until(converse, "a fetch got no answer", 120)
        assert fetched_blocks(server.port) == 0


def test_what_only_a_level_below_the_pool_has_is_lent_too():
    """Small pools: what decode computed is below its pool when the next turn of the conversation asks for it."""
    flags = (*FLAGS, "--set", "engine.kv_pool_bytes=600000", "--set", "engine.kv_host_bytes=20000000")
    source = random.Random(20261130)
    with harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as alone, harness.serve(*flags) as server:
        alone.wait_ready()
        server.wait_ready()
        conversations = [[source.randrange(3, 512) for _ in range(100)] for _ in range(6)]  # together far more than a pool

        def converse():
            for number, prompt in enumerate(conversations):
                answer = ask(server.port, prompt)
                assert answer == ask(alone.port, prompt), f"conversation {number}"
                more = prompt + answer[0] + [source.randrange(3, 512) for _ in range(5)]
                conversations[number] = more if len(more) < 250 else [source.randrange(3, 512) for _ in range(100)]
            moved = sum(value for (name, labels), value in harness.metrics(server.port).items()
                        if name == "sluice_kv_tier_bytes_total" and ("direction", "in") in labels)
            return fetched_blocks(server.port) > 0 and moved > 0

        harness.wait_until(converse, "KV was fetched, and came from below a pool", 180)
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
