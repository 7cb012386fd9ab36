"""POST /v1/completions, and the demo model's text against its published continuation."""
import re

import pytest

import harness
from harness import assert_error, post, stream_chunks

PATH = "/v1/completions"
CASES = harness.golden_cases()


def ask(port, **fields):
    return post(port, PATH, **{"model": harness.MODEL_ID, "temperature": 0, **fields})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prompt"][:20] or "empty")
def test_greedy_text_is_the_published_one(port, case):
    tokens = len(case["output_ids"])
    expected = case["output_text"]
    from_ids = ask(port, prompt=case["prompt_ids"], max_tokens=tokens).json()
    assert from_ids["usage"]["prompt_tokens"] == len(case["prompt_ids"])
    assert (case["prompt"] + from_ids["choices"][0]["text"]).lstrip() == expected.lstrip()
    if case["prompt"]:
        from_text = ask(port, prompt=case["prompt"], max_tokens=tokens).json()
        assert from_text["usage"]["prompt_tokens"] == len(case["prompt_ids"])
        assert case["prompt"] + from_text["choices"][0]["text"] == expected
        chunks = stream_chunks(port, PATH, model=harness.MODEL_ID, temperature=0, prompt=case["prompt"], max_tokens=tokens)
        assert case["prompt"] + harness.text_of(chunks) == expected


def test_a_whole_answer_has_every_required_field(port):
    body = ask(port, prompt="Tom had a red car.", max_tokens=5, ignore_eos=True).json()
    assert body["object"] == "text_completion"
    assert re.fullmatch(r"cmpl-[A-Za-z0-9_-]{24,32}", body["id"])
    [choice] = body["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert body["usage"]["completion_tokens"] == 5
    assert body["system_fingerprint"].startswith("b")


def test_the_default_length_is_sixteen_tokens(port):
    assert ask(port, prompt="Tom had a red car.", ignore_eos=True).json()["usage"]["completion_tokens"] == 16


def test_the_order_of_a_stream(port):
    chunks = stream_chunks(port, PATH, model=harness.MODEL_ID, prompt="Tom", max_tokens=6, ignore_eos=True, stream_options={"include_usage": True})
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 6
    finished = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    assert len(finished) == 1 and finished[0] is chunks[-2]


def test_logprobs_have_a_value_and_an_offset_for_each_token(port):
    prompt = "Tom had a red car."
    body = ask(port, prompt=prompt, max_tokens=6, logprobs=2, ignore_eos=True).json()
    logprobs = body["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"]) == 6
    assert "".join(logprobs["tokens"]) == body["choices"][0]["text"]
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"])


def test_several_prompts_are_answered_in_order(port):
    prompts = [case["prompt"] for case in CASES[1:3]]
    body = ask(port, prompt=prompts, max_tokens=10).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    for prompt, choice in zip(prompts, body["choices"], strict=True):
        alone = ask(port, prompt=prompt, max_tokens=10).json()
        assert choice["text"] == alone["choices"][0]["text"]


@pytest.mark.parametrize("prompt", [[], [[]], [1, 99999], [1, -1], [1, "a"], {"a": 1}, 7, None], ids=repr)
def test_prompts_that_are_none_are_refused(port, prompt):
    assert_error(ask(port, prompt=prompt), 400)


def test_many_at_once_say_the_same_as_alone(server):
    alone = {case["prompt"]: case["output_text"] for case in CASES[1:]}
    streams = [(prompt, harness.Stream(server.port, PATH, {"model": harness.MODEL_ID, "temperature": 0, "prompt": prompt, "max_tokens": 64}))
               for prompt in list(alone) * 8]
    for prompt, stream in streams:
        assert stream.status == 200
        assert prompt + harness.text_of(list(stream.chunks())) == alone[prompt]
        stream.close()
    harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "all blocks are given back")
