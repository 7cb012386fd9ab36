"""Settings of a gateway that change what clients see: names, web pages, the access log, usage."""
import json
import re
import socket

import pytest

import harness
from harness import post, request

PAGE = "https://chat.example.org"
PROMPT = "Once upon a very secret time"


@pytest.fixture(scope="module")
def server():
    flags = ["--served-name", harness.MODEL_ID, "--served-name", "org/stories", "--alias", "tiny", "--alias", "*",
             "--set", f"gateway.cors_origins={PAGE},http://localhost:3000", "--set", "gateway.usage_in_streams=true",
             "--set", "gateway.reset_prefix_cache=true"]
    with harness.serve(*flags, prefill=0, decode=0, mixed=1) as server:
        yield server.wait_ready()


def access_lines(server, request_id):
    """The lines of the access log about one request, once there is one."""
    def find():
        lines = [json.loads(found) for found in re.findall(r" info serve access (\{.*\})$", server.output(), re.MULTILINE)]
        return [line for line in lines if line["request_id"] == request_id]
    return harness.wait_until(find, f"the access line of {request_id}")


def test_a_model_has_all_its_names_and_stands_for_those_of_others(server):
    names = [model["id"] for model in request(server.port, "GET", "/v1/models").json()["data"]]
    assert names == [harness.MODEL_ID, "org/stories", "tiny"]
    for name in [*names, "gpt-4o-mini"]:
        answer = post(server.port, "/v1/completions", model=name, prompt="Once", max_tokens=1)
        assert answer.status == 200, answer.body
        assert answer.json()["model"] == name


def test_pages_that_are_named_may_ask(server):
    preflight = request(server.port, "OPTIONS", "/v1/chat/completions", headers={
        "Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"})
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    for path, fields, status in (("/v1/completions", {"prompt": "Once", "max_tokens": 1}, 200), ("/v1/completions", {"prompt": "Once", "n": 0}, 400),
                                 ("/nothing", {}, 404)):
        answer = request(server.port, "POST", path, fields, headers={"Origin": PAGE})
        assert (answer.status, answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (status, PAGE, "Origin")
    stranger = request(server.port, "GET", "/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers
    assert stranger.headers["vary"] == "Origin"


def test_pages_of_others_and_borrowed_names_get_nothing(server):
    body = {"prompt": PROMPT, "max_tokens": 1}
    for headers, status in (({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Host": f"evil.example:{server.port}"}, 403),
                            ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
                            ({"Host": f"localhost:{server.port}"}, 200), ({"Origin": f"http://127.0.0.1:{server.port}"}, 200),
                            ({"Content-Type": "application/json; charset=utf-8"}, 200)):
        answer = request(server.port, "POST", "/v1/completions", body, headers=headers)
        assert answer.status == status, (headers, answer.body)
        if status != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert request(server.port, "GET", "/metrics", headers={"Host": "evil.example"}).status == 403


def test_a_prompt_far_too_long_never_becomes_tokens(server):
    answer = post(server.port, "/v1/completions", prompt="a b " * 2_000_000, max_tokens=1)
    assert answer.status == 400, answer.body
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "8000000 bytes" in error["message"]


def test_every_request_has_one_line_in_the_log(server):
    for name, path, fields, status in (("whole", "/v1/completions", {"prompt": PROMPT, "max_tokens": 3}, 200),
                                       ("streamed", "/v1/completions", {"prompt": PROMPT, "max_tokens": 3, "stream": True}, 200),
                                       ("refused", "/v1/completions", {"prompt": PROMPT, "max_tokens": "3", "stream": True}, 400),
                                       ("unknown", "/v1/nothing", {"prompt": PROMPT}, 404)):
        assert request(server.port, "POST", path, fields, headers={"X-Request-Id": name}).status == status
        [line] = access_lines(server, name)
        assert (line["method"], line["path"], line["status"]) == ("POST", path, status)
        assert line["ms"] >= 0
        if status == 200:
            assert line["completion_tokens"] == 3
            assert line["prompt_tokens"] > 0
            assert line["model"] == harness.MODEL_ID
        if status != 404:
            assert line["stream"] == bool(fields.get("stream"))
    assert "secret" not in server.output()


def test_usage_comes_with_every_stream(server):
    chunks = harness.stream_chunks(server.port, "/v1/completions", prompt="Once", max_tokens=2)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_text_becomes_tokens_and_text_again(server):
    case = harness.golden_cases()[0]
    answer = post(server.port, "/tokenize", prompt=case["prompt"]).json()
    assert answer["tokens"] == case["prompt_ids"]
    assert (answer["count"], answer["max_model_len"]) == (len(case["prompt_ids"]), harness.CONTEXT_TOKENS)
    bare = post(server.port, "/tokenize", content=case["prompt"]).json()["tokens"]
    assert bare == post(server.port, "/tokenize", prompt=case["prompt"], add_special_tokens=False).json()["tokens"]
    assert post(server.port, "/detokenize", tokens=bare).json()["content"].strip() == case["prompt"].strip()
    messages = [{"role": "user", "content": "Tell me about </s> a cat."}]
    counted = post(server.port, "/tokenize", messages=messages).json()["count"]
    rendered = post(server.port, "/apply-template", messages=messages).json()
    assert "Tell me about </s> a cat." in rendered["prompt"]
    answered = post(server.port, "/v1/chat/completions", messages=messages, max_tokens=1).json()
    assert counted == rendered["count"] == answered["usage"]["prompt_tokens"]


def test_what_is_served_is_told_without_paths_and_addresses(server):
    for path in ("/server_info", "/model_info", "/tokenizer_info"):
        answer = request(server.port, "GET", path)
        assert answer.status == 200
        assert b"127.0.0.1" not in answer.body and str(harness.ROOT).encode() not in answer.body
    assert request(server.port, "GET", "/model_info").json()["max_model_len"] == harness.CONTEXT_TOKENS


def test_prefix_caches_are_really_dropped(server):
    prompt = [5 + number % 400 for number in range(100)]
    def cached():
        return post(server.port, "/v1/completions", prompt=prompt, max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    cached()
    harness.wait_until(lambda: cached() > 0, "the prompt is cached")
    reset = request(server.port, "POST", "/reset_prefix_cache")
    assert reset.status == 200
    assert reset.json()["blocks"] > 0
    assert cached() == 0


TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}}]


def test_tools_are_shown_to_a_model_whose_template_takes_them(server, tmp_path):
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "tools": TOOLS}
    assert post(server.port, "/v1/chat/completions", **chat, tool_choice="none").status == 200
    plain = post(server.port, "/v1/chat/completions", **{**chat, "tools": None}, temperature=0)
    left_out = post(server.port, "/v1/chat/completions", **chat, temperature=0)  # the demo model's takes none
    assert left_out.headers["x-sluice-tools"] == "left-out" and "x-sluice-tools" not in plain.headers
    assert left_out.json()["choices"] == plain.json()["choices"] and left_out.json()["usage"]["prompt_tokens"] == plain.json()["usage"]["prompt_tokens"]
    refused = post(server.port, "/v1/chat/completions", **chat, tool_choice="required")
    assert refused.status == 400 and refused.json()["error"]["param"] == "tools"
    with harness.serve("--set", "gateway.tools_without_template=refuse", prefill=0, decode=0, mixed=1) as strict:
        refused = post(strict.wait_ready().port, "/v1/chat/completions", **chat)
        assert refused.status == 400 and refused.json()["error"]["param"] == "tools"
    model = tmp_path / "tools"
    model.mkdir()
    for file in harness.MODEL.iterdir():
        (model / file.name).symlink_to(file)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").write_text("{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}"
                                               "{% for message in messages %}{{ message.content }}{% endfor %}")
    with harness.serve(model=model, prefill=0, decode=0, mixed=1) as other:
        other.wait_ready()
        assert post(other.port, "/v1/chat/completions", **chat).status == 200
        assert post(other.port, "/v1/chat/completions", **chat, tool_choice="auto").status == 200
        assert post(other.port, "/v1/chat/completions", **chat, tool_choice="required").status == 200
        assert post(other.port, "/apply-template", **chat).json()["prompt"] == "get_weather;Hi"


def test_a_template_that_a_request_brings_with_it(server):
    chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi </s>"}]}]}
    template = "{{ messages[0].content | upper }}{% for tool in tools or [] %};{{ tool.function.name }}{% endfor %}"
    refused = post(server.port, "/v1/chat/completions", **chat, chat_template=template)
    assert refused.status == 400 and refused.json()["error"]["param"] == "chat_template"
    with harness.serve("--set", "gateway.request_template_bytes_max=4096", prefill=0, decode=0, mixed=1) as allowed:
        port = allowed.wait_ready().port
        assert post(port, "/apply-template", **chat, chat_template=template).json()["prompt"] == "HI </S>"
        assert post(port, "/apply-template", **chat, chat_template=template, tools=TOOLS).json()["prompt"] == "HI </S>;get_weather"
        count = post(port, "/apply-template", **chat, chat_template=template).json()["count"]
        assert post(port, "/v1/chat/completions", **chat, chat_template=template, max_tokens=1).json()["usage"]["prompt_tokens"] == count
        for wrong in ("{% if %}", "{{ raise_exception('no') }}", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                      "{% for a in range(99999) %}" + "x" * 2000 + "{% endfor %}", "x" * 4097):
            refused = post(port, "/v1/chat/completions", **chat, chat_template=wrong, max_tokens=1)
            assert refused.status == 400 and refused.json()["error"]["param"] == "chat_template", (wrong[:30], refused.body)
        assert post(port, "/v1/chat/completions", **chat, max_tokens=1).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_sending_side_is_answered(server, stream):
    body = json.dumps({"prompt": "Once", "max_tokens": 20, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"HTTP/1.1 ") == 1
    assert (b"data: [DONE]\n\n" in received) if stream else (b'"completion_tokens":20' in received)


@pytest.mark.parametrize(("setting", "says"), [("gateway.cors_origins=https://a.example/", "has a path"), ("gateway.cors_origins=a.example", "has no scheme"),
                                               ("gateway.access_log=loud", "one of all, api, off"), ("gateway.aliases={a: b}", "gateway.aliases")])
def test_a_setting_that_makes_no_sense_is_told_before_the_start(setting, says):
    checked = harness.Process([harness.BINARY, "config", "check", "--set", setting])
    with checked:
        assert checked.wait() != 0
        assert says in checked.output()


def test_help_names_the_flags(server):
    for command in ("serve", "gateway"):
        with harness.Process([harness.BINARY, command, "--help"]) as asked:
            assert asked.wait() == 0
            assert "--alias" in asked.output()
            assert "gateway.aliases" in asked.output()
            assert "--served-name" in asked.output()
