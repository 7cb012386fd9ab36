"""POST /v1/chat/completions byte by byte: the forms that clients depend on."""
import re

import pytest

import harness
from harness import assert_error, post, stream_chunks

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Tell me about a cat."}]


def ask(port, **fields):
    return post(port, PATH, **{"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, **fields})


def ask_stream(port, **fields):
    return stream_chunks(port, PATH, **{"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 12, "temperature": 0, **fields})


def test_a_whole_answer_has_every_required_field(port):
    answer = ask(port, ignore_eos=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert re.fullmatch(r"chatcmpl-[A-Za-z0-9_-]{24,32}", body["id"])
    assert isinstance(body["created"], int)
    assert body["model"] == harness.MODEL_ID
    assert body["system_fingerprint"].startswith("b")
    [choice] = body["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["message"]["refusal"] is None
    assert "tool_calls" not in choice["message"]
    usage = body["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_the_bare_route_is_the_same(port):
    assert post(port, "/chat/completions", model=harness.MODEL_ID, messages=MESSAGES, max_tokens=2).status == 200


def test_a_stream_is_events_of_one_data_line(port):
    stream = harness.Stream(port, PATH, {"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 8})
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    list(stream.chunks())
    assert stream.received.endswith(b"data: [DONE]\n\n")
    assert not re.search(rb"^(id|retry|event):", stream.received, re.MULTILINE)
    stream.received.decode("utf-8")  # valid


def test_the_order_of_a_stream(port):
    chunks = ask_stream(port, ignore_eos=True)
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert {chunk["created"] for chunk in chunks} == {chunks[0]["created"]}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert all(chunk.get("usage") is None for chunk in chunks)
    first, last = chunks[0]["choices"][0], chunks[-1]["choices"][0]
    assert first["delta"]["role"] == "assistant"
    assert first["delta"]["content"] == ""
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert last["delta"] == {}
    assert last["finish_reason"] == "length"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])


def test_a_stream_says_the_same_as_the_whole_answer(port):
    whole = ask(port, max_tokens=40).json()
    chunks = ask_stream(port, max_tokens=40)
    assert harness.text_of(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_usage_comes_once_and_only_when_asked_for(port):
    chunks = ask_stream(port, ignore_eos=True, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert "cached_tokens" in usage["prompt_tokens_details"]
    assert all(chunk.get("usage") is None for chunk in chunks[:-1])
    assert_error(ask(port, stream_options={"include_usage": True}), 400)


def test_several_choices_come_in_order_and_end_once_each(port):
    chunks = ask_stream(port, n=2, temperature=1, seed=3, max_tokens=6, ignore_eos=True)
    firsts = [chunk["choices"][0] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
    assert [choice["index"] for choice in firsts] == [0, 1]
    finished = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert sorted(finished) == [0, 1]
    body = ask(port, n=2, temperature=1, seed=3, max_tokens=6, ignore_eos=True).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    for index in (0, 1):
        assert body["choices"][index]["message"]["content"] == harness.text_of(chunks, index)
    assert body["usage"]["completion_tokens"] == 12


def test_a_stop_string_ends_the_answer_and_is_left_out(port):
    text = ask(port, max_tokens=60, ignore_eos=True).json()["choices"][0]["message"]["content"]
    words = [word for word in text.split() if len(word) > 2]
    stop = words[3]
    body = ask(port, max_tokens=60, ignore_eos=True, stop=stop).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"] == text[: text.index(stop)]
    chunks = ask_stream(port, max_tokens=60, ignore_eos=True, stop=["never seen", stop])
    assert harness.text_of(chunks) == text[: text.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_seed_decides_a_sampled_answer(port):
    texts = [ask(port, temperature=1.5, seed=seed, max_tokens=30, ignore_eos=True).json()["choices"][0]["message"]["content"] for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_logprobs_belong_to_the_text(port):
    body = ask(port, max_tokens=8, logprobs=True, top_logprobs=3, ignore_eos=True).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for token in content:
        assert token["logprob"] <= 0
        assert isinstance(token["bytes"], list)
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] >= token["top_logprobs"][1]["logprob"]
        assert token["top_logprobs"][0]["token"] == token["token"]  # greedy
    joined = b"".join(bytes(token["bytes"]) for token in content).decode()
    assert joined == body["choices"][0]["message"]["content"]
    chunks = ask_stream(port, max_tokens=8, logprobs=True, top_logprobs=3, ignore_eos=True)
    streamed = [token for chunk in chunks for token in ((chunk["choices"][0].get("logprobs") or {}).get("content") or [])]
    assert [token["token"] for token in streamed] == [token["token"] for token in content]
    assert [token["logprob"] for token in streamed] == [token["logprob"] for token in content]


def test_logit_bias_can_force_and_forbid(port):
    first = ask(port, max_tokens=1, logprobs=True, top_logprobs=2).json()["choices"][0]
    assert first["finish_reason"] == "length"
    forced = ask(port, max_tokens=3, logit_bias={"403": 100}, ignore_eos=True, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert len({token["token"] for token in forced}) == 1
    assert_error(ask(port, logit_bias={"99999": 1}), 400)


def test_max_completion_tokens_wins(port):
    assert ask(port, max_tokens=9, max_completion_tokens=3, ignore_eos=True).json()["usage"]["completion_tokens"] == 3


def test_without_a_bound_the_answer_fills_the_context_at_most(port):
    body = post(port, PATH, model=harness.MODEL_ID, messages=MESSAGES, temperature=0, ignore_eos=True).json()
    assert body["usage"]["total_tokens"] == harness.CONTEXT_TOKENS
    assert body["choices"][0]["finish_reason"] == "length"


def test_a_repeated_prompt_is_cached_and_says_the_same(port):
    messages = [{"role": "user", "content": "Lily and Ben are friends. They like to play in the park. One day, they see a big tree with a swing."}]
    first = ask(port, messages=messages, max_tokens=30).json()
    again = ask(port, messages=messages, max_tokens=30).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert again["choices"][0]["message"] == first["choices"][0]["message"]


@pytest.mark.parametrize("fields", [
    {"model": "default"},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
    {"some_field_of_tomorrow": {"x": [1, 2]}},
    {"tools": []},
    {"response_format": {"type": "text"}},
    {"stop": None, "seed": None, "logprobs": None, "n": None, "stream": None, "stream_options": None},
    {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}]}]},
    {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "assistant", "content": "Yes."}, *MESSAGES]},
    {"top_p": 0.5, "top_k": 5, "min_p": 0.1, "temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"top_p": 0},
    {"min_tokens": 5},
], ids=lambda fields: "+".join(fields))
def test_these_are_accepted(port, fields):
    answer = ask(port, **fields)
    assert answer.status == 200, answer.body


def test_a_request_without_a_model_gets_the_only_one(port):
    assert post(port, PATH, messages=MESSAGES, max_tokens=2).json()["model"] == harness.MODEL_ID
