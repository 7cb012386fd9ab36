"""Conversations, groups of prompts and choices that come together: computed once, placed where they were, and no bit of any answer depends on it."""
import concurrent.futures
import random

import harness

# Reports come so rarely that none tells of a turn before the next one is placed.
RARE_REPORTS = ("--set", "scheduler.heartbeat_ms=5000", "--set", "scheduler.suspect_ms=20000", "--set", "scheduler.lease_ms=40000")


def total(port, name, *labels):
    return sum(value for (one, given), value in harness.metrics(port).items() if one == name and set(labels) <= set(given))


def ask(port, prompt, headers=None, **fields):
    body = {"prompt": prompt, "max_tokens": 20, "temperature": 1.0, "seed": 7, "ignore_eos": True, "return_token_ids": True, **fields}
    answer = harness.request(port, "POST", "/v1/completions", body, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


def tokens_of(body):
    return [choice["token_ids"] for choice in sorted(body["choices"], key=lambda choice: choice["index"])]


def computed(port):
    return total(port, "sluice_worker_prompt_tokens_total")


def test_choices_of_one_prompt_compute_it_once():
    source = random.Random(20261201)
    prompt = [source.randrange(3, 512) for _ in range(400)]
    with harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as server, \
            harness.serve("--threads", "1", "--set", "worker.batch_sequences_max=1", mixed=1, prefill=0, decode=0) as alone:
        server.wait_ready()
        alone.wait_ready()
        together = ask(server.port, prompt, n=8)
        assert tokens_of(together) == tokens_of(ask(alone.port, prompt, n=8))
        assert len(set(map(tuple, tokens_of(together)))) > 1
        # 400 tokens, and of each other choice at most what is in no full block and the last one of those.
        harness.wait_until(lambda: computed(server.port) > 0, "what was computed is counted")
        assert computed(server.port) <= 400 + 7 * 32


def test_a_burst_over_one_document_computes_it_once_for_each_worker_that_has_a_part_of_it():
    source = random.Random(20261202)
    document = [source.randrange(3, 512) for _ in range(384)]
    prompts = [document + [source.randrange(3, 512) for _ in range(20)] for _ in range(12)]
    with harness.serve("--threads", "1", *RARE_REPORTS, mixed=2, prefill=0, decode=0) as server, \
            harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as alone:
        server.wait_ready()
        alone.wait_ready()
        with concurrent.futures.ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(lambda prompt: tokens_of(ask(server.port, prompt)), prompts))
        assert answers == [tokens_of(ask(alone.port, prompt)) for prompt in prompts]
        assert computed(server.port) <= 2 * 404 + 10 * (20 + 32)


def test_a_conversation_comes_back_to_its_worker_before_any_report_tells_of_it():
    source = random.Random(20261203)
    with harness.serve("--threads", "1", mixed=1, prefill=0, decode=0) as alone, \
            harness.serve("--threads", "1", *RARE_REPORTS, mixed=3, prefill=0, decode=0) as server:
        alone.wait_ready()
        server.wait_ready()

        def converse(name):
            """Whether each turn found what was computed for the one before, but for what is in no full block. The same bits anyway."""
            prompt = [source.randrange(3, 512) for _ in range(120)]
            found_all = True
            before = 0
            for turn in range(5):
                headers = {"x-session-id": name, "x-session-final": "true" if turn == 4 else "false"}
                body = ask(server.port, prompt, headers)
                assert tokens_of(body) == tokens_of(ask(alone.port, prompt))
                found_all = found_all and body["usage"]["prompt_tokens_details"]["cached_tokens"] >= before // 16 * 16
                before = len(prompt)
                prompt = prompt + tokens_of(body)[0] + [source.randrange(3, 512) for _ in range(5)]
            return found_all

        names = (f"conversation {number}" for number in range(1000))
        harness.wait_until(lambda: converse(next(names)), "a conversation found all of its turns", 120)
        assert total(server.port, "sluice_scheduler_affinity_total", ("outcome", "kept")) > 0
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
