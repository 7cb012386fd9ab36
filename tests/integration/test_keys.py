"""API keys: made by `sluice keys`, asked for by a gateway, changed while it runs; with a plain client and with openai-python."""
import json
import re
import subprocess

import anthropic
import openai
import pytest

import harness
from harness import request

COMPLETION = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


def keys(*arguments, check=True, stdin=""):
    ran = subprocess.run([harness.BINARY, "keys", *map(str, arguments)], capture_output=True, text=True, timeout=60, input=stdin)
    assert not check or ran.returncode == 0, ran
    return ran


def add(file, *flags, **more):
    return keys("add", "--file", file, *flags, **more).stdout.strip()


def id_of(file, name):
    return next(key["id"] for key in json.loads(keys("list", "--file", file, "--json").stdout)["keys"] if key.get("name") == name)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def user(file):
    return add(file, "--name", "user", "--tenant", "team-a")


@pytest.fixture(scope="module")
def server(file, user):
    with harness.serve("--set", f"gateway.keys_file={file}", "--set", "gateway.files_look_ms=20", prefill=0, decode=0, mixed=1) as server:
        yield server.wait_ready()


def test_without_a_key_nothing_but_health_answers(server, user):
    for path in ("/live", "/health", "/ready"):
        assert request(server.port, "GET", path).status == 200
    for method, path in (("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/version"), ("GET", "/"), ("GET", "/nothing"), ("GET", "/server_info"),
                         ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/tokenize"), ("POST", "/v1/embeddings"), ("POST", "/reset_prefix_cache")):
        answer = request(server.port, method, path, COMPLETION if method == "POST" else None)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), (path, answer)
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert request(server.port, "POST", "/v1/completions", COMPLETION, bearer(user[:-1])).status == 401
    assert request(server.port, "POST", "/v1/completions", COMPLETION, bearer(user)).status == 200
    assert request(server.port, "POST", "/v1/completions", COMPLETION, {"x-api-key": user}).status == 200


def test_probes_are_no_failures_and_a_stranger_is_one(server, file):
    key = add(file, "--name", "counter", "--scopes", "admin")
    harness.wait_until(lambda: request(server.port, "GET", "/version", headers=bearer(key)).status == 403, "the new key is known")

    def failures():
        text = request(server.port, "GET", "/metrics", headers=bearer(key)).body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("sluice_gateway_auth_failures_total{"))
    before = failures()
    for path in ("/live", "/health", "/ready"):
        assert request(server.port, "GET", path).status == 200
    assert failures() == before
    assert request(server.port, "GET", "/version").status == 401
    assert failures() == before + 1


def test_a_strangers_body_is_not_waited_for(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{"
    assert harness.raw_exchange(server.port, head).startswith(b"HTTP/1.1 401 ")


def test_who_asked_is_in_the_access_log_and_the_key_is_not(server, user, file):
    answer = request(server.port, "POST", "/v1/completions", COMPLETION, bearer(user))
    request_id = answer.headers["x-request-id"]

    def line():
        lines = [json.loads(found) for found in re.findall(r" info serve access (\{.*\})$", server.output(), re.MULTILINE)]
        return next((one for one in lines if one["request_id"] == request_id), None)
    found = harness.wait_until(line, "the access line")
    assert (found["key"], found["tenant"]) == (id_of(file, "user"), "team-a")
    assert user not in server.output() and user not in file.read_text()


def test_openai_clients_get_their_errors(server, user):
    def client(key):
        return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    assert client(user).completions.create(model=harness.MODEL_ID, **COMPLETION).choices[0].text
    with pytest.raises(openai.AuthenticationError):
        client("sk-wrong").completions.create(model=harness.MODEL_ID, **COMPLETION)


def test_a_key_that_is_added_works_at_once_and_one_that_is_revoked_does_not(server, file):
    key = add(file, "--name", "guest", "--tenant", "guests", "--scopes", "completions", "--models", harness.MODEL_ID)
    operator = add(file, "--name", "watcher", "--scopes", "admin")

    def status():
        return request(server.port, "POST", "/v1/completions", COMPLETION, bearer(key)).status

    def said():
        return request(server.port, "GET", "/metrics", headers=bearer(operator))

    def is_counted():
        return 'sluice_gateway_tenant_tokens_total{kind="prompt",tenant="guests"}' in said().body.decode()
    harness.wait_until(lambda: status() == 200 and said().status == 200, "the new keys are known")
    harness.wait_until(is_counted, "its tenant has rows of its own")
    assert request(server.port, "GET", "/v1/models", headers=bearer(key)).status == 403
    file_before = file.read_text()
    keys("revoke", id_of(file, "guest"), "--file", file)
    harness.wait_until(lambda: status() == 401, "the key is revoked")
    harness.wait_until(lambda: not is_counted(), "its tenant, which has no other, is gone from the metrics")
    assert said().status == 200
    file.write_text("{")  # half a file: what was read before stays
    harness.wait_until(lambda: "stay in force" in server.output(), "the log says that the file is wrong")
    assert status() == 401
    file.write_text(file_before)
    harness.wait_until(lambda: status() == 200, "the file is read again")
    keys("revoke", id_of(file, "guest"), "--file", file)
    harness.wait_until(lambda: status() == 401, "the key is revoked")


def test_operators_ask_with_a_key_of_their_own(server, file, user):
    key = add(file, "--name", "operator", "--scopes", "admin")
    harness.wait_until(lambda: request(server.port, "GET", "/metrics", headers=bearer(key)).status == 200, "the new key is known")
    assert request(server.port, "GET", "/explain", headers=bearer(user)).status == 403

    def explain(*flags):
        return subprocess.run([harness.BINARY, "explain", "--url", server.url, *flags], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert "no API key was given" in explain().stderr
    assert explain("--api-key", key).returncode == 0


def test_bounds_are_told_and_kept(server, file):
    key = add(file, "--name", "bounded", "--requests-per-minute", 2, "--tokens-per-minute", 60)  # so few that time gives none back meanwhile
    harness.wait_until(lambda: request(server.port, "GET", "/v1/models", headers=bearer(key)).status == 200, "the new key is known")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
    whole = client.completions.with_raw_response.create(model=harness.MODEL_ID, **COMPLETION)
    assert (whole.headers["x-ratelimit-limit-requests"], whole.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert int(whole.headers["x-ratelimit-remaining-tokens"]) < 60
    with client.completions.with_streaming_response.create(model=harness.MODEL_ID, stream=True, **COMPLETION) as stream:
        assert stream.headers["x-ratelimit-limit-tokens"] == "60"
        stream.read()
    with pytest.raises(openai.RateLimitError) as refused:
        client.completions.create(model=harness.MODEL_ID, **COMPLETION)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


def test_the_command_says_what_is_wrong(tmp_path):
    file = tmp_path / "keys.json"
    add(file)
    assert "no key has the id" in keys("revoke", "nobody", "--file", file, check=False).stderr
    assert "knows no 'root'" in keys("add", "--file", file, "--scopes", "root", check=False).stderr
    assert "is no end" in keys("add", "--file", file, "--expires", "soon", check=False).stderr
    assert "16 to 512" in keys("add", "--file", file, "--stdin", check=False, stdin="short\n").stderr
    assert len(json.loads(file.read_text())["keys"]) == 1
    own = "my-own-key-from-elsewhere-0123456789"
    assert own not in keys("add", "--file", file, "--stdin", stdin=own + "\n").stdout
    assert own not in file.read_text()
    file.chmod(0o666)
    assert "chmod 600" in keys("list", "--file", file, check=False).stderr
    ran = subprocess.run([harness.BINARY, "serve", "--model", harness.MODEL, "--port", "0", "--set", f"gateway.keys_file={tmp_path / 'none'}"],
                         capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert ran.returncode == 2 and "cannot be read" in ran.stderr, ran


def test_the_routes_of_other_forms_have_scopes_of_their_own(server, file):
    key = add(file, "--name", "agent", "--scopes", "messages,responses")
    with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0, timeout=60, _strict_response_validation=True) as client:
        fields = {"model": harness.MODEL_ID, "messages": [{"role": "user", "content": "Hi"}]}
        harness.wait_until(lambda: request(server.port, "POST", "/v1/messages", {**fields, "max_tokens": 1}, {"x-api-key": key}).status == 200, "the key is known")
        assert client.messages.create(**fields, max_tokens=2).usage.output_tokens <= 2
        assert client.messages.count_tokens(**fields).input_tokens > 0
    assert request(server.port, "POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 1}, bearer(key)).status == 200
    assert request(server.port, "POST", "/v1/responses/input_tokens", {"input": "Hi"}, bearer(key)).status == 200
    assert request(server.port, "POST", "/v1/chat/completions", {**fields, "max_tokens": 1}, bearer(key)).status == 403
    with anthropic.Anthropic(base_url=server.url, api_key="sk-none", max_retries=0, timeout=60) as client, pytest.raises(anthropic.AuthenticationError) as refused:
        client.messages.create(**fields, max_tokens=2)
    assert refused.value.body["error"]["type"] == "authentication_error"
    other = add(file, "--name", "talker", "--scopes", "chat")
    harness.wait_until(lambda: request(server.port, "POST", "/v1/messages", {**fields, "max_tokens": 1}, {"x-api-key": other}).status == 403, "the key is known")
    forbidden = request(server.port, "POST", "/v1/messages", {**fields, "max_tokens": 1}, {"x-api-key": other}).json()
    assert forbidden["type"] == "error" and forbidden["error"]["type"] == "permission_error"
