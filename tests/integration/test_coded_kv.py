"""KV that travels coded (worker.kv_codec): without loss it takes fewer bytes and changes no bit of any answer; with loss only where all say so, and the answer tells."""
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


@pytest.mark.parametrize("codec", ["raw", "auto"])
def test_over_a_slow_wire_decode_computes_the_front_and_changes_nothing(codec):
    slow = ("--set", "test.kv_fault_plan='seed=1;delay:kind=3,ms=120,probability=1'")
    source = random.Random(20261204)

    def front_tokens(port):
        return sum(value for (metric, _), value in harness.metrics(port).items() if metric == "sluice_kv_front_tokens_total")
    with harness.serve("--set", "engine.kv_dtype=bf16", "--set", "worker.kv_both_ends=false") as plain, \
            harness.serve("--set", "engine.kv_dtype=bf16", "--set", f"worker.kv_codec={codec}", *slow) as split:
        plain.wait_ready()
        split.wait_ready()
        # What steps take and what the wire carries has to be known first.
        for number in range(200):
            prompt = [source.randrange(3, 512) for _ in range(300 + source.randrange(150))]
            assert ask(split.port, prompt) == ask(plain.port, prompt)
            if number >= 20 and front_tokens(split.port) > 0:
                break
        assert front_tokens(split.port) > 0
        assert front_tokens(plain.port) == 0
        harness.wait_until(lambda: harness.blocks_in_use(split.port) == 0, "no block is in use")


LOSSY = ("--set", "worker.kv_lossy=allowed", "--set", "slo.lossy_kv=allowed", "--set", "engine.kv_dtype=bf16")


def ask_lossy(port, prompt, **fields):
    answer = harness.post(port, "/v1/completions", prompt=prompt, max_tokens=20, ignore_eos=True, return_token_ids=True, temperature=1.0, seed=7, **fields)
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0]["token_ids"], answer.headers.get("x-sluice-kv")


@pytest.mark.parametrize("codec", ["int8/0", "zstd/0", "cachegen/2", "cachegen/5", "sluice/6"])
def test_loss_is_told_repeats_itself_and_touches_nobody_else(codec):
    name, level = codec.split("/")
    source = random.Random(20261203)
    prompt = [source.randrange(3, 512) for _ in range(300)]
    with harness.serve("--set", f"worker.kv_codec={name}", "--set", f"worker.kv_level={level}", *LOSSY) as server:
        server.wait_ready()
        plain = ask_lossy(server.port, prompt, slo={"lossy_kv": False})
        assert plain[1] == "exact"
        lossy = ask_lossy(server.port, prompt[1:], slo={"lossy_kv": True})
        assert lossy[1] == codec
        # Nothing of it is kept: the same again comes the same way, whatever was computed in between.
        assert ask_lossy(server.port, prompt, slo={"lossy_kv": False}) == plain
        assert ask_lossy(server.port, prompt[1:], slo={"lossy_kv": True}) == lossy
        assert ask_lossy(server.port, prompt[1:])[1] == "exact"  # nobody asked for loss
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")


def test_a_stream_says_that_loss_may_be_and_a_bad_wish_is_refused():
    with harness.serve("--set", "worker.kv_codec=auto", *LOSSY) as server:
        server.wait_ready()
        prompt = list(range(3, 200))
        answer = harness.post(server.port, "/v1/completions", prompt=prompt, max_tokens=3, stream=True, slo={"lossy_kv": True})
        assert answer.status == 200 and answer.headers.get("x-sluice-kv") == "lossy-allowed"
        assert harness.post(server.port, "/v1/completions", prompt=prompt, slo={"lossy_kv": "yes"}).status == 400


@pytest.mark.parametrize("settings, says", [
    (("worker.kv_codec=sluice",), "worker.kv_lossy: allowed"),
    (("worker.kv_codec=cachegen", "worker.kv_lossy=allowed", "worker.kv_level=7"), "but 1 to 6"),
    (("worker.kv_codec=exact", "worker.kv_profile=/nowhere"), "worker.kv_profile is for the codec sluice"),
    (("worker.kv_codec=sluice", "worker.kv_lossy=allowed", "worker.kv_profile=/nowhere"), "worker.kv_profile"),
])
def test_settings_that_contradict_each_other_are_refused_at_start(settings, says):
    flags = [flag for setting in settings for flag in ("--set", setting)]
    with harness.serve(*flags) as server:
        assert server.wait() != 0
        assert says in server.output()
