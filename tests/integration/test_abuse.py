"""What was reported of other servers, tried on ours with real processes (docs/security.md, "What was reported of others": which report is which test)."""
import json
import re
import socket
import subprocess

import pytest

import harness
from harness import post, request

CHAT, COMPLETIONS, RESPONSES, MESSAGES_ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
MESSAGES = [{"role": "user", "content": "Hi"}]
FORMS = {CHAT: {"messages": MESSAGES, "max_tokens": 2}, COMPLETIONS: {"prompt": "Once", "max_tokens": 2}, RESPONSES: {"input": "Hi", "max_output_tokens": 2},
         MESSAGES_ROUTE: {"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 2}}
ERROR_BYTES_MAX = 4096
# An address in memory, a source file, a path of this machine.
LEAKS = re.compile(rb"0x[0-9a-fA-F]{8,}|\.(cpp|cc|rs|h):\d|/tmp/|" + re.escape(str(harness.ROOT)).encode())


def told(answer):
    """An answer that says nothing about the machine; an error that is short and in the one form of errors."""
    assert not LEAKS.search(answer.body), answer.body[:2000]
    if answer.status != 200:
        assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
        assert len(answer.body) <= ERROR_BYTES_MAX, len(answer.body)
        assert answer.json()["error"]["message"]
    return answer.status


def peak_memory_bytes(server):
    status = open(f"/proc/{server.pid}/status").read()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


# --- numbers -----------------------------------------------------------------------------------------------------------------


NUMBERS = ["-1", "-2147483649", "2147483648", "4294967297", "-9223372036854775808", "9223372036854775807", "18446744073709551616", "1e999", "-1e999", "1" + "0" * 400, "0.5", "NaN"]
NUMBER_FIELDS = {
    CHAT: ["n", "best_of", "max_tokens", "max_completion_tokens", "min_tokens", "top_k", "top_logprobs", "seed", "thinking_token_budget", "priority", "n_discard", "n_keep", "id_slot",
           "truncate_prompt_tokens"],
    COMPLETIONS: ["n", "best_of", "max_tokens", "min_tokens", "top_k", "logprobs", "seed", "truncate_prompt_tokens"],
    RESPONSES: ["max_output_tokens", "top_logprobs", "max_tool_calls"],
    MESSAGES_ROUTE: ["max_tokens", "top_k"],
}


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, fields in NUMBER_FIELDS.items() for field in fields], ids=lambda value: value.strip("/").replace("/", "-"))
def test_no_number_is_too_much(server, path, field):
    before = peak_memory_bytes(server)
    for number in NUMBERS:
        fields = {name: value for name, value in FORMS[path].items() if name != field}
        body = json.dumps({**fields, field: "HERE", "stop": ["."]} if path in (CHAT, COMPLETIONS) else {**fields, field: "HERE"}).replace('"HERE"', number)
        status = told(request(server.port, "POST", path, body.encode()))
        assert status == 400 or status == 200 and number != "NaN" and field not in ("n", "best_of"), (number, status)
    assert peak_memory_bytes(server) - before < 256 << 20


@pytest.mark.parametrize(("path", "fields"), [
    (COMPLETIONS, {"prompt": [1, 2, 2**31]}), (COMPLETIONS, {"prompt": [-1]}), (COMPLETIONS, {"prompt": [2**64]}), (COMPLETIONS, {"prompt": [512]}), (COMPLETIONS, {"prompt": [[1], [-5]]}),
    (COMPLETIONS, {"prompt": [[]]}), (COMPLETIONS, {"prompt": []}), (COMPLETIONS, {"prompt": [[1]] * 10_000}), (COMPLETIONS, {"prompt": ["a"] * 10_000}),
    (COMPLETIONS, {"prompt": "a", "n": 16, "best_of": 2**20}), (CHAT, {"messages": MESSAGES, "logit_bias": {"2147483648": 1}}), (CHAT, {"messages": MESSAGES, "logit_bias": {"-1": 1}}),
    (CHAT, {"messages": MESSAGES, "logit_bias": {"5": 1e300}}), (CHAT, {"messages": MESSAGES, "stop_token_ids": [2**40]}), (CHAT, {"messages": MESSAGES, "stop_token_ids": [-7]}),
    (CHAT, {"messages": []}), (CHAT, {"messages": [{}] * 100_000}), ("/detokenize", {"tokens": [2**31]}), ("/detokenize", {"tokens": [-1]}), ("/detokenize", {"tokens": [[1]]}),
], ids=lambda value: str(value)[:36])
def test_no_list_is_too_much(server, path, fields):
    before = peak_memory_bytes(server)
    assert told(post(server.port, path, **fields)) == 400
    assert peak_memory_bytes(server) - before < 256 << 20


def test_a_prompt_of_nothing_is_answered(port):
    assert told(post(port, COMPLETIONS, prompt="", max_tokens=1)) == 200
    assert told(post(port, CHAT, messages=[{"role": "user", "content": ""}], max_tokens=1)) == 200


# --- schemas, patterns, templates --------------------------------------------------------------------------------------------


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


SCHEMAS = [
    {"type": 5}, {"type": ["string", 7]}, {"type": {}}, {"type": "string", "pattern": "("}, {"type": "string", "pattern": "[z-a]"}, {"type": "string", "pattern": 7}, {"pattern": "*"},
    {"type": "string", "pattern": "a{1,1000000000}"}, {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}, {"type": "string", "pattern": "(?<!a)b"}, {"type": "string", "pattern": "\\"},
    {"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, {"$ref": "#/nowhere"}, {"$ref": 5}, {"enum": []}, {"enum": 5}, {"anyOf": []},
    {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"type": "array", "minItems": 10**18}, {"type": "array", "minItems": -5}, {"type": "array", "maxItems": 2**70}, {"type": "string", "minLength": 10**9},
    {"type": "integer", "minimum": 10**40, "maximum": -(10**40)}, {"type": "number", "multipleOf": 0}, {"properties": {"a": 5}}, {"properties": []}, {"required": {"a": 1}},
    nested(60), nested(120), nested(5000 // 20), {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(3000)}},
    {"anyOf": [{"type": "string", "pattern": f"^(a|b)*{letter}$"} for letter in "abcdefghijklmnop"]}, True, False, None, [], "string",
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_no_schema_ends_anything(server, tool_server, schema):
    asked = {"messages": MESSAGES, "max_tokens": 4}
    for port, fields in ((server.port, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}), (server.port, {"guided_json": schema}),
                         (tool_server.port, {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], "tool_choice": "required"}),
                         (tool_server.port, {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}]})):
        told(post(port, CHAT, **asked, **fields))
        after = post(port, CHAT, **asked, guided_choice=["yes", "no"])
        assert after.status == 200 and after.json()["choices"][0]["message"]["content"] in ("yes", "no")


def test_nesting_beyond_the_bound_is_refused_at_once(port):
    for body in (b'{"messages":' + b"[" * 100_000, b'{"messages":[{"role":"user","content":"a"}],"guided_json":' + b'{"items":' * 50_000 + b"{}" + b"}" * 50_000 + b"}",
                 b'{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"):
        assert told(request(port, "POST", CHAT, body)) == 400


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"])
def test_what_a_template_gets_from_us_no_client_sets(port, name):
    for value in (True, "{{ messages }}", 0, [[]], {}):
        answer = post(port, CHAT, messages=MESSAGES, max_tokens=1, chat_template_kwargs={name: value})
        assert told(answer) == 400 and name in answer.json()["error"]["message"]


def test_a_request_brings_no_template_and_text_is_none(port):
    answer = post(port, CHAT, messages=MESSAGES, max_tokens=1, chat_template="{% for a in range(10**9) %}{{ ''.__class__.__mro__ }}{% endfor %}")
    assert told(answer) == 400 and answer.json()["error"]["param"] == "chat_template"
    written = "{{ 7 * 191 }}{% for a in range(10**9) %}x{% endfor %}{{ ''.__class__.__mro__[1].__subclasses__() }}{# gone #}"
    rendered = post(port, "/apply-template", messages=[{"role": "user", "content": written}])
    assert rendered.status == 200 and written in rendered.json()["prompt"] and "1337" not in rendered.json()["prompt"]


# --- errors and logs ---------------------------------------------------------------------------------------------------------


LONG = "x" * 1_000_000


@pytest.mark.parametrize(("path", "fields"), [
    (CHAT, {"model": LONG, "messages": MESSAGES}), (CHAT, {"messages": [{"role": LONG, "content": "a"}]}), (CHAT, {"messages": [{"role": 1}] * 20_000}), (CHAT, {"messages": LONG}),
    (CHAT, {"messages": MESSAGES, "temperature": LONG}), (CHAT, {"messages": MESSAGES, "stop": ["a"] * 100_000}), (CHAT, {"messages": MESSAGES, "stop": LONG}),
    (CHAT, {"messages": MESSAGES, "logit_bias": {str(number): "a" for number in range(100_000)}}), (CHAT, {"messages": MESSAGES, "logit_bias": {LONG: 1}}),
    (CHAT, {"messages": MESSAGES, "response_format": {"type": LONG}}), (CHAT, {"messages": MESSAGES, "reasoning_effort": LONG}), (CHAT, {"messages": MESSAGES, "cache_salt": LONG}),
    (CHAT, {"messages": MESSAGES, "tools": [{"type": LONG}]}), (CHAT, {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": LONG}}]}),
    (CHAT, {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": LONG}}}),
    (CHAT, {"messages": MESSAGES, "guided_regex": "(" + "x" * 200_000}), (CHAT, {"messages": MESSAGES, "guided_grammar": "start: " + "y" * 200_000}),
    (CHAT, {"messages": MESSAGES, "guided_json": {"$ref": "#/" + "z" * 200_000}}), (CHAT, {"messages": MESSAGES, "guided_json": {"type": "w" * 200_000}}),
    (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {"messages": LONG}}), (COMPLETIONS, {"prompt": {LONG: 1}}), (COMPLETIONS, {"prompt": "a", "suffix": LONG}),
    (RESPONSES, {"input": [{"type": LONG}]}), (RESPONSES, {"input": "a", "tools": [{"type": LONG}]}), (RESPONSES, {"input": "a", "previous_response_id": LONG}),
    (MESSAGES_ROUTE, {"model": LONG, "messages": MESSAGES, "max_tokens": 1}), (MESSAGES_ROUTE, {**FORMS[MESSAGES_ROUTE], "thinking": {"type": LONG}}),
    (MESSAGES_ROUTE, {**FORMS[MESSAGES_ROUTE], "tools": [{"type": LONG, "name": "a"}]}), ("/v1/embeddings", {"model": LONG, "input": "a"}), ("/" + "p" * 7000, {"a": 1}),
], ids=lambda value: str(value)[:60])
def test_an_error_is_short_whatever_it_is_about(port, path, fields):
    assert told(post(port, path, **fields)) in (400, 404, 414)


def test_nobody_writes_lines_of_the_log(server):
    forged = "2030-01-01T00:00:00 forged-line error all is lost"
    texts = [f"a\n{forged}", f"a\r\n{forged}", f"a\u2028{forged}", f"\x1b[2J\x1b[31m{forged}", f'a","key":"{forged}', f"a\x00{forged}", "%0a" + forged]
    for text in texts:
        for path, form in FORMS.items():
            for field in ("model", "user", "safety_identifier", "prompt_cache_key", "cache_salt", "request_id", "session_id", "service_tier"):
                told(post(server.port, path, **{**form, field: text}))
        told(post(server.port, CHAT, messages=[{"role": text, "content": text}]))
        told(post(server.port, CHAT, messages=MESSAGES, max_tokens=1, metadata={text: text}))
    for name in ("X-Request-Id", "User-Agent", "X-Session-Id", "traceparent", "Authorization", "X-Forwarded-For", "Origin"):
        for value in (b"a\x1b[31m" + forged.encode(), b"a\tb " + forged.encode(), b'a","key":"' + forged.encode(), "\u00e9\u2028".encode() + forged.encode()):
            body = json.dumps(FORMS[COMPLETIONS]).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n\r\n"
            assert harness.raw_exchange(server.port, head % (name.encode(), value, len(body)) + body).startswith(b"HTTP/1.1 ")
    for path in ("/v1/a%0a" + forged.replace(" ", "%20"), "/v1/models/a%1b%5b31m", "/v1/models/%e2%80%a8"):
        told(request(server.port, "GET", path))
    done = request(server.port, "POST", COMPLETIONS, FORMS[COMPLETIONS], {"X-Request-Id": "the-last-one"})
    assert done.status == 200
    harness.wait_until(lambda: "the-last-one" in server.output(), "the access line of the last request")
    lines = server.output().splitlines()  # also at U+2028, U+0085
    assert not [line for line in lines if line.lstrip("ab\\").startswith(("2030-", "forged-line"))]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u0085\u2028\u2029]", server.output())


# --- who may ask -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server that wants keys; its keys by tenant."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {tenant: subprocess.run([harness.BINARY, "keys", "add", "--file", file, "--tenant", tenant], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
            for tenant in ("one", "other")}
    with harness.serve("--set", f"gateway.keys_file={file}", prefill=0, decode=0, mixed=1) as server:
        yield server.wait_ready(), keys
        assert server.is_alive() and request(server.port, "GET", "/health").status == 200


TARGETS = ["/v1/models", "//v1/models", "/health/../v1/models", "/health/%2e%2e/v1/models", "/health/..%2fv1/models", "/live;/v1/models", "/health?/../v1/models", "/health#/../v1/models",
           "/v1/models/.", "/v1//models", "http://127.0.0.1/v1/models", "http://127.0.0.1/health/../v1/models", "/%76%31/models", "/V1/MODELS", "/health\\..\\v1\\models", "/health/v1/models",
           "/v1/models?x=/health", "/v1/models/health", "/ready/../v1/models", "*", "/./v1/models", "/v1/models%00/health", "/v1/models%3f/health"]
HOSTS = ["127.0.0.1", "127.0.0.1/health", "127.0.0.1/health?", "127.0.0.1?x=", "x/health?a=", "127.0.0.1#", "127.0.0.1@live", "[::1]/live", "health", "", "127.0.0.1:80/health"]


@pytest.mark.parametrize("host", HOSTS)
def test_without_a_key_no_spelling_of_a_request_gets_through(keyed, host):
    server, _ = keyed
    for target in TARGETS:
        for method in ("GET", "OPTIONS", "HEAD", "POST"):
            received = harness.raw_exchange(server.port, f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
            status = int(received.split(b" ", 2)[1])
            assert harness.MODEL_ID.encode() not in received, (method, target, received)
            assert status >= 400 or method == "OPTIONS" or target.startswith("/health?"), (method, target, received)


OTHERS_ROUTES = ["/invocations", "/ping", "/pause", "/resume", "/is_paused", "/sleep", "/wake_up", "/update_weights", "/update_weights_from_disk", "/init_weights_update_group", "/collective_rpc",
                 "/reset_mm_cache", "/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter", "/flush_cache", "/abort_request", "/generate",
                 "/release_memory_occupation", "/resume_memory_occupation", "/set_internal_state", "/api/create", "/api/pull", "/api/push", "/api/blobs/sha256:0", "/api/delete", "/api/tags",
                 "/models/load", "/models/unload", "/slots", "/slots/0?action=save", "/props", "/lora-adapters", "/debug/pprof", "/docs", "/openapi.json", "/admin", "/v1/rerank", "/.env",
                 "/v1/config", "/config/update", "/key/generate", "/user/new"]


def test_routes_that_others_left_open_are_none_here(keyed):
    server, keys = keyed
    for path in OTHERS_ROUTES:
        for method in ("GET", "POST", "PUT", "DELETE"):
            body = {"model": "x"} if method in ("POST", "PUT") else None
            assert told(request(server.port, method, path, body)) == 401, (method, path)
            assert told(request(server.port, method, path, body, {"Authorization": f"Bearer {keys['one']}"})) in (400, 403, 404, 405), (method, path)


def test_what_is_shown_as_a_key_is_nothing_but_compared(keyed):
    server, keys = keyed
    good = keys["one"]
    shown = ["' OR '1'='1", "x' UNION SELECT key FROM keys --", "*", "%", "null", "undefined", "../../keys.json", good[:-1], good + "x", good.swapcase(), good[::-1], f"{good},{good}",
             f" {good[:-1]} ", "\t", "sk-" + "a" * 8000, "\u00e9" * 50, "[object Object]", "{{ key }}", "${jndi:ldap://127.0.0.1/a}"]
    for one in shown:
        for value in (f"Bearer {one}", f"Basic {one}", one, f"Bearer  {one}", f"Bearer {one} extra"):
            head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\nAuthorization: " + value.encode() + b"\r\n\r\n"
            status = int(harness.raw_exchange(server.port, head).split(b" ", 2)[1])
            assert status in (400, 401, 431), (value, status)
    for twice in ({"Authorization": f"Bearer {good}", "x-api-key": keys["other"]}, {"Authorization": "Bearer wrong", "x-api-key": good}):
        assert request(server.port, "POST", COMPLETIONS, FORMS[COMPLETIONS], twice).status == 401
    head = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer wrong\r\nAuthorization: Bearer {good}\r\n\r\n".encode()
    assert int(harness.raw_exchange(server.port, head).split(b" ", 2)[1]) in (400, 401)
    assert request(server.port, "GET", f"/v1/models?api_key={good}").status == 401
    assert request(server.port, "GET", "/v1/models", headers={"Cookie": f"api_key={good}"}).status == 401
    assert request(server.port, "GET", "/v1/models", headers={"Authorization": f"bearer {good}"}).status == 200
    assert good not in server.output()


def test_nobody_sees_what_another_has_cached(keyed):
    server, keys = keyed
    secret = "Once upon a time there was a little girl who had a secret. The secret was a number: four two nine one seven. " * 2

    def cached(tenant, **fields):
        answer = request(server.port, "POST", COMPLETIONS, {"prompt": secret, "max_tokens": 1, **fields}, {"Authorization": f"Bearer {keys[tenant]}"})
        assert answer.status == 200, answer.body
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached("one") == 0
    harness.wait_until(lambda: cached("one") > 0, "its own prompt is cached")
    assert cached("other") == 0
    assert cached("one", cache_salt="mine") == 0
    assert cached("other", cache_salt="mine") == 0
    harness.wait_until(lambda: cached("one", cache_salt="mine") > 0, "what it has salted is cached")


# --- addresses in requests ---------------------------------------------------------------------------------------------------


def test_nobody_makes_the_server_ask_another(server, tool_server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        urls = [f"http://127.0.0.1:{port}/a.png", f"http:\\\\127.0.0.1:{port}\\a.png", f"http://allowed.example\\@127.0.0.1:{port}/", f"HTTP://127.0.0.1:{port}", f"//127.0.0.1:{port}/a",
                f"http://2130706433:{port}/", f"http://[::ffff:127.0.0.1]:{port}/", f"ftp://127.0.0.1:{port}/", f"gopher://127.0.0.1:{port}/_", "file:///etc/passwd", "/etc/passwd",
                "data:image/png;base64,AAAA", f"http://127.0.0.1:{port}/video.mp4"]
        refused = 0
        for url in urls:
            parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url}, {"type": "video_url", "video_url": {"url": url}},
                     {"type": "audio_url", "audio_url": {"url": url}}, {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}, {"type": "file", "file": {"file_data": url}}]
            bodies = [(CHAT, {"messages": [{"role": "user", "content": [part]}]}) for part in parts]
            bodies += [(RESPONSES, {"input": [{"role": "user", "content": [part]}]}) for part in ({"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url})]
            bodies += [(RESPONSES, {"input": "a", "tools": [tool]}) for tool in ({"type": "mcp", "server_label": "a", "server_url": url}, {"type": "web_search"})]
            bodies += [(MESSAGES_ROUTE, {**FORMS[MESSAGES_ROUTE], "messages": [{"role": "user", "content": [{"type": kind, "source": {"type": "url", "url": url}}]}]}) for kind in ("image", "document")]
            bodies += [(MESSAGES_ROUTE, {**FORMS[MESSAGES_ROUTE], "mcp_servers": [{"type": "url", "url": url, "name": "a"}]})]
            for path, body in bodies:
                assert told(post(server.port, path, **body)) == 400, (path, body)
                refused += 1
            for fields in ({"api_base": url}, {"base_url": url}, {"bootstrap_host": url, "bootstrap_port": port}, {"kv_transfer_params": {"remote_host": "127.0.0.1", "remote_port": port}},
                           {"webhook": url}, {"user": url}, {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": url}}}},
                           {"guided_json": {"$id": url, "$schema": url, "type": "integer"}}, {"guided_grammar": f"start: %import {url}"}):
                told(post(server.port, CHAT, messages=MESSAGES, max_tokens=1, **fields))
            told(post(tool_server.port, CHAT, messages=MESSAGES, max_tokens=1, tool_choice="required", tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": url}}}]))
        assert refused == 13 * len(urls)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
