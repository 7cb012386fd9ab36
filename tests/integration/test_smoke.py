"""`sluice smoke`: what it looks at, and that it finds what is wrong."""
from __future__ import annotations

import http.server
import json
import subprocess
import threading

import pytest

import harness
from harness import BINARY, ROOT

pytestmark = pytest.mark.process
ENCODER = ROOT / "tests" / "golden" / "data" / "bert_mean"
LOOKS = ["live", "ready", "models", "chat", "stream", "metrics"]


def smoke(port, *words):
    return subprocess.run([BINARY, "smoke", "--url", f"http://127.0.0.1:{port}", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def looks(ran):
    """name -> (whether it was well, what it says)."""
    told = json.loads(ran.stdout)
    assert (ran.returncode == 0) == told["ok"] == all(one["ok"] for one in told["looks"])
    return {one["look"]: (one["ok"], one["says"]) for one in told["looks"]}


def make_key(file, *words):
    made = subprocess.run([BINARY, "keys", "add", "--file", file, "--name", "smoke", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return next(word for word in made.stdout.split() if word.startswith("sk-sluice-"))


def test_a_gateway_that_serves_passes():
    with harness.serve("--encoder", str(ENCODER), prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        ran = smoke(server.port)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert [line.split()[:2] for line in ran.stdout.splitlines()] == [["ok", name] for name in LOOKS]
        told = looks(smoke(server.port, "--json", "--model", harness.MODEL_ID, "--encoder", ENCODER.name))
        assert list(told) == [*LOOKS[:-1], "embeddings", "metrics"] and all(well for well, _ in told.values()), told
        assert told["models"][1] == harness.MODEL_ID
        for words, name in ((["--model", "another"], "another"), (["--encoder", "another"], "another")):
            refused = looks(smoke(server.port, "--json", *words))
            assert not refused["models"][0] and name in refused["models"][1] and harness.MODEL_ID in refused["models"][1], refused


def test_with_api_keys_metrics_are_for_those_who_may(tmp_path):
    file = tmp_path / "keys.json"
    plain, admin = make_key(file), make_key(file, "--scopes", "chat,models,admin")
    with harness.serve("--set", f"gateway.keys_file={file}", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        told = looks(smoke(server.port, "--json", "--api-key", plain))
        assert all(well for well, _ in told.values()) and "scope admin" in told["metrics"][1], told
        told = looks(smoke(server.port, "--json", "--api-key", admin))
        assert all(well for well, _ in told.values()) and told["metrics"][1] == "/metrics", told
        told = looks(smoke(server.port, "--json"))
        assert told["live"][0] and not told["models"][0] and told["models"][1].startswith("401"), told


def test_a_gateway_without_workers_fails_and_says_what_is_missing():
    key = "0" * 32
    with harness.Process([BINARY, "gateway", "--model", harness.MODEL, "--scheduler", "127.0.0.1:1", "--port", str(port := harness.free_port()), "--set", "gateway.place_wait_max_ms=100"],
                         {"SLUICE_CLUSTER_KEY": key}) as gateway:
        harness.wait_until(lambda: smoke(port, "--json").stdout.find('"look":"live","ok":true') >= 0, "the gateway answers", 60)
        told = looks(smoke(port, "--json"))
        assert told["live"][0] and not told["ready"][0] and told["ready"][1].startswith("503"), told
        assert not told["chat"][0] and not told["stream"][0], told
        gateway.stop()


def test_nobody_there_is_told():
    ran = smoke(harness.free_port())
    assert ran.returncode == 1 and ran.stdout.startswith("FAIL live"), ran.stdout + ran.stderr
    wrong = subprocess.run([BINARY, "smoke", "--url", "here"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2 and wrong.stderr


CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
CHAT = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}


def events(*objects, end="data: [DONE]\n\n"):
    return "".join(f"data: {json.dumps(one)}\n\n" for one in objects) + end


def without(answer, *path):
    copy = json.loads(json.dumps(answer))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(copy)


@pytest.mark.parametrize("chat, stream, said", [
    (json.dumps(CHAT), events(CHUNK, FINISH, USAGE), {}),
    ("Hi", events(CHUNK, FINISH, USAGE), {"chat": "no object of JSON"}),
    (without(CHAT, "choices", 0), events(CHUNK, FINISH, USAGE), {"chat": "no choices"}),
    (without(CHAT, "choices", 0, "message"), events(CHUNK, FINISH, USAGE), {"chat": "no text"}),
    (without(CHAT, "choices", 0, "finish_reason"), events(CHUNK, FINISH, USAGE), {"chat": "why it ended"}),
    (without(CHAT, "usage"), events(CHUNK, FINISH, USAGE), {"chat": "no tokens"}),
    (json.dumps(CHAT), events(CHUNK, FINISH, USAGE, end=""), {"stream": "[DONE]"}),
    (json.dumps(CHAT), events(CHUNK, USAGE), {"stream": "why it ended"}),
    (json.dumps(CHAT), events(CHUNK, FINISH), {"stream": "no usage"}),
    (json.dumps(CHAT), events(CHUNK, {"error": {"message": "the worker is gone"}}), {"stream": "the worker is gone"}),
    (json.dumps(CHAT), "data: {\n\n", {"stream": ""}),
])
def test_an_answer_that_is_not_as_clients_need_it_is_found(chat, stream, said):
    class Server(http.server.BaseHTTPRequestHandler):
        def answer(self, text):
            self.send_response(200)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self):
            self.answer({"/v1/models": '{"data": [{"id": "m"}]}', "/metrics": '# HELP\nsluice_gateway_requests_total{model="m"} 1\n'}.get(self.path, "{}"))

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(stream if asked["stream"] else chat)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            told = looks(smoke(server.server_address[1], "--json"))
        finally:
            server.shutdown()
    assert {name for name, (well, _) in told.items() if not well} == set(said), told
    for name, words in said.items():
        assert words in told[name][1], told
