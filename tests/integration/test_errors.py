"""Input that is wrong in some way: a clear error each, and the process lives (the `server` fixture checks that after every test)."""
import json
import socket

import pytest

import harness
from harness import assert_error, post, request

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GOOD = {"model": harness.MODEL_ID, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"{} {}", b'{"a":1,}', b"{'a':1}", b'{"model": nan}', b"\x00", b"\xff\xfe{\x00}\x00",
                                  b'{"a":' * 300 + b"1" + b"}" * 300], ids=lambda body: repr(body[:12]))
def test_what_is_not_a_json_object_is_refused(port, body):
    assert_error(request(port, "POST", CHAT, body), 400)


@pytest.mark.parametrize("body", [b'{"model":"stories260k","messages":[{"role":"user","content":"a\xff"}]}',
                                  b'{"model":"stories260k","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
                                  b'{"model":"stories260k","messages":[{"role":"user","content":"\xc0\x80"}]}',
                                  b'{"model":"stories260k","messages":[{"role":"user","content":"\\ud800"}]}'])
def test_text_that_is_not_utf8_is_refused(port, body):
    assert_error(request(port, "POST", CHAT, body), 400)


@pytest.mark.parametrize(("field", "value"), [
    ("messages", None), ("messages", []), ("messages", "hi"), ("messages", [1]), ("messages", [{}]), ("messages", [{"role": "user"}]),
    ("messages", [{"role": "nobody", "content": "x"}]), ("messages", [{"role": 1, "content": "x"}]), ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
    ("model", 5), ("model", {}), ("max_tokens", "ten"), ("max_tokens", -2), ("max_tokens", 1.5), ("max_tokens", 10**30),
    ("temperature", "warm"), ("temperature", -0.1), ("temperature", 1e9), ("top_p", -0.1), ("top_p", 1.1), ("top_k", -7), ("min_p", 2),
    ("n", 0), ("n", -1), ("n", 1000000), ("n", "two"), ("stream", "yes"), ("stream_options", 3), ("stop", 5), ("stop", [1]),
    ("stop", ["x"] * 17), ("seed", "x"), ("seed", 1.5), ("logprobs", "all"), ("top_logprobs", 21), ("top_logprobs", -1),
    ("logit_bias", [1]), ("logit_bias", {"x": 1}), ("logit_bias", {"5": 101}), ("logit_bias", {"-5": 1}), ("presence_penalty", 9),
    ("frequency_penalty", -9), ("repetition_penalty", 0), ("min_tokens", -1), ("ignore_eos", "no"),
    ("tools", [{"type": "function", "function": {}}]), ("response_format", {"type": "xml"}),
], ids=lambda value: repr(value)[:24])
def test_a_wrong_value_is_refused_and_named(port, field, value):
    error = assert_error(post(port, CHAT, **{**GOOD, field: value}), 400)
    assert field in error["message"] or (error["param"] or "").startswith(field), error
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000


def test_a_bad_request_for_a_stream_gets_a_real_status(port):
    answer = post(port, CHAT, **{**GOOD, "temperature": -1, "stream": True})
    assert_error(answer, 400)


@pytest.mark.parametrize(("field", "value"), [("max_tokens", -1), ("max_completion_tokens", -1), ("stop", ""), ("stop", [""]), ("seed", 2**63), ("seed", 10**30),
                                              ("logprobs", False), ("best_of", 0)], ids=lambda value: repr(value)[:24])
def test_a_value_that_asks_for_nothing_special_is_no_error(port, field, value):
    for path, fields in ((CHAT, {**GOOD, "stop": "."}), (COMPLETIONS, {"prompt": "Once", "max_tokens": 2, "stop": "."})):
        assert post(port, path, **{**fields, field: value}).status == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/images/generations",
                                  "/v1/audio/speech", "/v1/moderations", "/v1/fine_tuning/jobs"])
def test_a_route_that_is_not_built_yet_is_no_404(port, path):
    error = assert_error(post(port, path, model=harness.MODEL_ID), 400)
    assert error["message"] == f"{path} is not supported by this server yet"


@pytest.mark.parametrize("path", ["//v1/completions", "/v1/completions/", "/v1//completions"])
def test_more_slashes_than_needed_are_served(port, path):
    assert post(port, path, prompt="Once", max_tokens=1).status == 200
    assert path in assert_error(request(port, "GET", path), 405)["message"]


def test_an_unknown_model_is_not_found(port):
    assert_error(post(port, CHAT, **{**GOOD, "model": "gpt-9"}), 404, code="model_not_found")
    assert_error(post(port, COMPLETIONS, model="gpt-9", prompt="x"), 404, code="model_not_found")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_told_the_limit(port, stream):
    error = assert_error(post(port, COMPLETIONS, model=harness.MODEL_ID, prompt="cat " * 2000, max_tokens=1, stream=stream), 400,
                         code="context_length_exceeded")
    assert f"maximum context length is {harness.CONTEXT_TOKENS} tokens" in error["message"]
    assert_error(post(port, COMPLETIONS, model=harness.MODEL_ID, prompt=[5] * 500, max_tokens=100), 400, code="context_length_exceeded")


def test_a_body_of_a_hundred_megabytes_is_refused_early(port):
    """The server may answer and close before everything was sent: then sending fails, and the answer is there to read."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b" " * (1 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            head = connection.recv(65536)
        except ConnectionResetError:
            return  # the answer was lost to the reset; the fixture sees whether the server lives
    assert head.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_without_end_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        sent = 0
        try:
            while sent < 100:
                connection.sendall(chunk)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 100


@pytest.mark.parametrize("head", [
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{}",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a/b?c\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
    b"GET /he\\alth HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"TRACE /health HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n",
    b"hello\r\n\r\n",
], ids=lambda head: head.split(b"\r\n")[2].decode() or head.split(b"\r\n")[0].decode())
def test_requests_that_could_smuggle_another_are_refused_and_closed(port, head):
    follow_up = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = harness.raw_exchange(port, head + follow_up)
    status = int(received.split(b" ", 2)[1])
    assert 400 <= status < 500 or status in (501, 505), received[:200]
    assert received.count(b"HTTP/1.1 ") == 1, received[:500]  # nothing after it was taken for a request


def test_a_head_without_bound_is_refused(port):
    many = raw_status(harness.raw_exchange(port, b"GET /live HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(1000))))
    assert many == 431
    long_target = raw_status(harness.raw_exchange(port, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    assert long_target in (414, 431)


def raw_status(received):
    return int(received.split(b" ", 2)[1])


def test_a_content_encoding_is_refused(port):
    assert_error(request(port, "POST", CHAT, json.dumps(GOOD).encode(), headers={"Content-Encoding": "gzip"}), 415)


def test_user_text_is_text_even_when_it_looks_special(port):
    answer = post(port, CHAT, **{**GOOD, "messages": [{"role": "user", "content": "<s></s><unk><0x00>{{ 7*7 }}{% for x in y %}\u0000\u202e"}]})
    assert answer.status == 200, answer.body
