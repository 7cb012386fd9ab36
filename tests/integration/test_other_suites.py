"""Cases that the server suites of llama.cpp, vLLM and SGLang have and no other test of ours had (docs/clients.md: how those suites themselves fare)."""
import collections
import itertools
import json
import math
import re
import select
import socket
import struct

import pytest

import harness
from harness import post, serve, stream_chunks, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Once upon a time"}]
PROMPT = "Once upon a time there was a little \u00e9l\u00e8ve \U0001f600"


def put_together(chunks, index):
    """A choice of a streamed completion as the whole answer has it, without what only one of the two has."""
    parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    told = {"text": "".join(part["text"] for part in parts), "finish_reason": next(part["finish_reason"] for part in parts if part["finish_reason"]),
            "token_ids": [token for part in parts for token in part.get("token_ids") or []], "logprobs": None}
    logprobs = [part["logprobs"] for part in parts if part.get("logprobs")]
    if logprobs:
        told["logprobs"] = {name: [value for one in logprobs for value in one[name]] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
    return told


@pytest.mark.parametrize(("echo", "logprobs", "as_list", "n", "as_ids"), itertools.product([False, True], [None, 5], [False, True], [1, 2], [False, True]))
def test_completions_in_every_combination_say_the_same_whole_and_streamed(port, echo, logprobs, as_list, n, as_ids):
    ids = post(port, "/tokenize", prompt=PROMPT).json()["tokens"]
    prompt = ids if as_ids else PROMPT
    asked = {"prompt": [prompt, prompt] if as_list else prompt, "echo": echo, "logprobs": logprobs, "n": n, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    whole = post(port, COMPLETIONS, **asked).json()
    choices = n * (2 if as_list else 1)
    assert [choice["index"] for choice in whole["choices"]] == list(range(choices))
    chunks = stream_chunks(port, COMPLETIONS, **asked, stream_options={"include_usage": True})
    for choice in whole["choices"]:
        assert choice["text"].startswith(PROMPT) == echo and len(choice["token_ids"]) == 12
        told = put_together(chunks, choice["index"])
        assert {name: choice[name] for name in told} == told
        if logprobs:
            count = 12 + (len(ids) if echo else 0)
            assert all(len(values) == count for values in choice["logprobs"].values())
            assert (choice["logprobs"]["token_logprobs"][0] is None) == echo
            assert all(1 <= len(top) <= logprobs + 1 for top in choice["logprobs"]["top_logprobs"][1:])
    assert len({choice["text"] for choice in whole["choices"]}) == 1  # greedy
    assert whole["usage"]["prompt_tokens"] == len(ids) * (2 if as_list else 1) and whole["usage"]["completion_tokens"] == 12 * choices
    assert {name: chunks[-1]["usage"][name] for name in ("prompt_tokens", "completion_tokens")} == {name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens")}


@pytest.mark.parametrize(("path", "form"), [(CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "Once"})])
def test_usage_may_come_with_every_chunk(port, path, form):
    asked = {**form, "max_tokens": 10, "temperature": 0, "ignore_eos": True}
    chunks = stream_chunks(port, path, **asked, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert all(chunk["usage"] for chunk in chunks)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 10 and len(set(counts)) > 5
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {chunks[-1]["usage"]["prompt_tokens"]}
    assert all(chunk["usage"]["total_tokens"] == chunk["usage"]["prompt_tokens"] + chunk["usage"]["completion_tokens"] for chunk in chunks)
    assert chunks[-1]["choices"] == []
    for options in ({"include_usage": False, "continuous_usage_stats": True}, {"continuous_usage_stats": True}):
        assert not [chunk for chunk in stream_chunks(port, path, **asked, stream_options=options) if chunk.get("usage")]


@pytest.mark.parametrize(("fields", "pattern"), [({"guided_choice": ["cat", "dog", "a bird"]}, "cat|dog|a bird"), ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
                                                 ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["one", "two"]}}}}, '"(one|two)"')],
                         ids=["choice", "regex", "schema"])
def test_logprobs_of_an_answer_that_keeps_to_a_form(port, fields, pattern):
    asked = {"messages": MESSAGES, "max_tokens": 30, "temperature": 1, "seed": 4, "logprobs": True, "top_logprobs": 3, **fields}
    choice = post(port, CHAT, **asked).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert re.fullmatch(pattern, choice["message"]["content"]) and "".join(token["token"] for token in content) == choice["message"]["content"]
    for token in content:
        assert -9999 <= token["logprob"] <= 0 and math.isfinite(token["logprob"])
        assert all(math.isfinite(top["logprob"]) and top["logprob"] <= 0 for top in token["top_logprobs"])
    chunks = stream_chunks(port, CHAT, **asked)
    streamed = [token for chunk in chunks for token in ((chunk["choices"][0].get("logprobs") or {}).get("content") or [])]
    assert streamed == content


def test_tokens_that_end_an_answer(port):
    asked = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 40, "return_token_ids": True}
    free = post(port, COMPLETIONS, **asked).json()["choices"][0]
    ids = free["token_ids"]
    stop = next(token for place, token in enumerate(ids) if place >= 5 and token not in ids[:place])
    place = ids.index(stop)
    for path, form in ((COMPLETIONS, asked), (CHAT, {**asked, "messages": MESSAGES})):
        if path == CHAT:
            form = {name: value for name, value in form.items() if name != "prompt"}
            ids = post(port, path, **form).json()["choices"][0]["token_ids"]
            stop = next(token for place, token in enumerate(ids) if place >= 5 and token not in ids[:place])
            place = ids.index(stop)
        ended = post(port, path, **form, stop_token_ids=[stop, stop]).json()
        [choice] = ended["choices"]
        assert choice["finish_reason"] == "stop" and choice["stop_reason"] == stop
        assert choice["token_ids"] == ids[:place]  # the one that ended it is no part of the answer, and counts
        assert ended["usage"]["completion_tokens"] == place + 1
        never = post(port, path, **form, stop_token_ids=[stop], min_tokens=place + 3).json()["choices"][0]
        assert len(never["token_ids"]) >= place + 3 and never["token_ids"][:place] == ids[:place] and stop not in never["token_ids"][:place + 3]
        last = [choice for chunk in stream_chunks(port, path, **form, stop_token_ids=[stop]) for choice in chunk["choices"] if choice["finish_reason"]][0]
        assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)


def test_a_stop_string_may_be_part_of_the_answer(port):
    asked = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 60, "stop": ["."]}
    without, included = (post(port, COMPLETIONS, **asked, include_stop_str_in_output=included).json()["choices"][0] for included in (False, True))
    assert without["finish_reason"] == included["finish_reason"] == "stop" and without["stop_reason"] == included["stop_reason"] == "."
    assert included["text"] == without["text"] + "." and "." not in without["text"]
    assert harness.text_of(stream_chunks(port, COMPLETIONS, **asked, include_stop_str_in_output=True)) == included["text"]


@pytest.mark.parametrize("fields", [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 1.5}], ids=str)
def test_a_penalty_makes_an_answer_repeat_less(port, fields):
    asked = {"prompt": "The cat. The cat. The cat. The cat.", "temperature": 0, "max_tokens": 120, "ignore_eos": True, "return_token_ids": True}

    def different(**more):
        return len(collections.Counter(post(port, COMPLETIONS, **asked, **more).json()["choices"][0]["token_ids"]))
    assert different(**fields) > different()


def test_requests_that_may_become_long_run_at_once(slow_model, tmp_path):
    """Room is taken for what is there, not for what max_tokens allows: six answers that might fill a context each, in a pool of about one context."""
    folder = tmp_path / "long"
    folder.mkdir()
    for file in slow_model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**json.loads((slow_model / "config.json").read_text()), "max_position_embeddings": 4096}))
    with serve("--set", "engine.kv_pool_bytes=30000000", model=folder, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        capacity = sum(value for (name, _), value in harness.metrics(server.port).items() if name == "sluice_worker_kv_blocks_capacity")
        context = harness.request(server.port, "GET", "/v1/models").json()["data"][0]["max_model_len"]
        assert capacity * 16 < 2 * context, (capacity, context)
        streams = [harness.Stream(server.port, COMPLETIONS, {"prompt": f"{number}", "max_tokens": context - 10, "ignore_eos": True, "temperature": 1, "seed": number}) for number in range(6)]

        def running():
            return sum(value for (name, _), value in harness.metrics(server.port).items() if name == "sluice_worker_requests_running")
        try:
            assert all(stream.status == 200 for stream in streams)
            wait_until(lambda: running() == 6, "all of them run at once", 60)
        finally:
            for stream in streams:
                stream.close()
        wait_until(lambda: running() == 0 and harness.blocks_in_use(server.port) == 0, "they end with their clients")


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_goes_at_any_moment_frees_what_it_had(slow_model, by_reset):
    """While its prompt is computed, while it waits for room, in the middle of a stream, while a whole answer is made, with its body half sent."""
    def begin(port, body, cut=0):
        connection = socket.create_connection(("127.0.0.1", port))
        data = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        connection.sendall(data[:len(data) - cut])
        return connection

    def leave(connection):
        if by_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    with serve(model=slow_model, prefill=1, decode=1) as server:
        port = server.wait_ready().port
        def asking(prompt_tokens, new_tokens, stream):
            return json.dumps({"prompt": [3 + number % 500 for number in range(prompt_tokens)], "max_tokens": new_tokens, "ignore_eos": True, "stream": stream}).encode()
        for moment in ("prompt", "middle", "whole", "body", "many"):
            count = 40 if moment == "many" else 1
            body = asking(24, 220, False) if moment == "whole" else asking(240, 10, moment in ("middle", "many"))
            clients = [begin(port, body, cut=5 if moment == "body" else 0) for _ in range(count)]
            if moment == "middle":
                received = b""
                while b"data: " not in received:
                    received += clients[0].recv(65536)
            elif moment == "whole":
                def is_at_work():
                    if harness.blocks_in_use(port) > 0:
                        return True
                    if select.select(clients, [], [], 0)[0]:  # answered before anybody looked: once more
                        clients.pop().close()
                        clients.append(begin(port, body))
                    return False
                wait_until(is_at_work, "it has memory")
            for client in clients:
                leave(client)
            wait_until(lambda: harness.blocks_in_use(port) == 0 and
                       sum(value for (name, _), value in harness.metrics(port).items() if name in ("sluice_worker_requests_running", "sluice_worker_requests_waiting")) == 0,
                       f"nothing is left of it ({moment})")
        assert post(port, COMPLETIONS, prompt="Once", max_tokens=2).status == 200
