"""KV that travels coded without loss (worker.kv_codec) takes fewer bytes and changes no bit of any answer."""
import random

import harness
import pytest


def bytes_of(port, name):
    return sum(value for (metric, labels), value in harness.metrics(port).items()
               if metric == name and ("direction", "send") in labels)


def ask(port, prompt):
    fields = {"prompt": prompt, "max_tokens": 20, "logprobs": 2, "ignore_eos": True, "return_token_ids": True, "temperature": 1.0, "seed": 7}
    answer = harness.post(port, "/v1/completions", **fields)
    assert answer.status == 200, answer.body
    choice = answer.json()["choices"][0]
    return choice["token_ids"], choice["text"], choice["logprobs"]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_exact_kv_is_shorter_and_changes_nothing(dtype):
    source = random.Random(20261130)
    prompts = [[source.randrange(3, 512) for _ in range(length)] for length in (5, 100, 200)]
    with harness.serve("--set", f"engine.kv_dtype={dtype}") as plain, \
            harness.serve("--set", f"engine.kv_dtype={dtype}", "--set", "worker.kv_codec=exact") as coded:
        plain.wait_ready()
        coded.wait_ready()
        for prompt in prompts:
            assert ask(coded.port, prompt) == ask(plain.port, prompt)
        assert bytes_of(plain.port, "sluice_kv_transfer_bytes_total") == bytes_of(plain.port, "sluice_kv_transfer_raw_bytes_total") > 0
        raw = bytes_of(coded.port, "sluice_kv_transfer_raw_bytes_total")
        assert 0 < bytes_of(coded.port, "sluice_kv_transfer_bytes_total") < 0.95 * raw
        harness.wait_until(lambda: harness.blocks_in_use(coded.port) == 0, "no block is in use")
