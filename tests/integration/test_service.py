"""Health, models, metrics, routes and headers: everything around the two inference routes."""
import re

import pytest

import harness
from harness import assert_error, post, request
from streams import Streams


def test_health_and_live_answer(port):
    assert request(port, "GET", "/health").status == 200
    assert request(port, "GET", "/live").status == 200


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_models_are_listed_with_their_context(port, prefix):
    answer = request(port, "GET", prefix + "/models")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["object"] == "list"
    [model] = body["data"]
    assert model["id"] == harness.MODEL_ID
    assert model["object"] == "model"
    assert isinstance(model["created"], int)
    assert model["max_model_len"] == harness.CONTEXT_TOKENS


def test_one_model_is_found_by_its_id(port):
    assert request(port, "GET", f"/v1/models/{harness.MODEL_ID}").json()["id"] == harness.MODEL_ID
    assert_error(request(port, "GET", "/v1/models/no/such"), 404, code="model_not_found")


def test_an_unknown_route_is_404_and_a_wrong_method_405(port):
    assert_error(request(port, "GET", "/v1/nothing"), 404)
    answer = request(port, "GET", "/v1/chat/completions")
    assert_error(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_the_request_id_is_echoed_or_made(port):
    sent = request(port, "GET", "/v1/models", headers={"X-Request-Id": "abc-1.2:3_4"})
    assert sent.headers["x-request-id"] == "abc-1.2:3_4"
    made = request(port, "GET", "/v1/models")
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", made.headers["x-request-id"])
    refused = request(port, "GET", "/v1/models", headers={"X-Request-Id": "no spaces <b>"})
    assert refused.headers["x-request-id"] != "no spaces <b>"
    failed = request(port, "POST", "/v1/chat/completions", b"{", headers={"X-Request-Id": "on-errors-too"})
    assert failed.headers["x-request-id"] == "on-errors-too"


def test_metrics_count_requests_and_tokens(port):
    def total(samples, name, **labels):
        return sum(value for (sample, have), value in samples.items() if sample == name and set(labels.items()) <= set(have))

    before = harness.metrics(port)
    answer = post(port, "/v1/completions", model=harness.MODEL_ID, prompt="Tom", max_tokens=4, ignore_eos=True)
    assert answer.status == 200
    usage = answer.json()["usage"]

    def counted():
        after = harness.metrics(port)
        return (total(after, "sluice_gateway_requests_total", code="200") > total(before, "sluice_gateway_requests_total", code="200")
                and total(after, "sluice_gateway_tokens_total", kind="prompt") - total(before, "sluice_gateway_tokens_total", kind="prompt")
                == usage["prompt_tokens"]
                and total(after, "sluice_gateway_tokens_total", kind="completion")
                - total(before, "sluice_gateway_tokens_total", kind="completion") == 4)

    harness.wait_until(counted, "the counters have moved")
    assert request(port, "GET", "/metrics").headers["content-type"].startswith("text/plain")


def test_blocks_are_free_after_a_client_has_gone(server):
    streams = [harness.Stream(server.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": "Once", "max_tokens": 400, "ignore_eos": True})
               for _ in range(4)]
    for stream in streams:
        next(stream.chunks())
        stream.close()
    harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "all blocks are given back")


def test_keep_alive_serves_several_requests_on_one_connection(port):
    one = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert harness.raw_exchange(port, one + one + last).count(b"HTTP/1.1 200") == 3


def test_a_large_body_is_asked_for(port):
    received = harness.raw_exchange(port, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
                                          b"Content-Length: 20\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 100")


def test_a_context_that_shrinks_with_the_kv_pool_is_told_of_at_the_start():
    with harness.serve("--set", "engine.kv_pool_bytes=200000") as server:
        server.wait_ready()
        told = re.search(r"a sequence has room for (\d+) tokens, not for the (\d+) of the model's context.*engine\.kv_pool_bytes", server.output())
        assert told, server.output()
        assert int(told[2]) == harness.CONTEXT_TOKENS
        [model] = request(server.port, "GET", "/v1/models").json()["data"]
        assert model["max_model_len"] == int(told[1]) < harness.CONTEXT_TOKENS


def test_beyond_loopback_nothing_listens_without_a_flag():
    port = harness.free_port()
    process = harness.Process([harness.BINARY, "serve", "--model", harness.MODEL, "--host", "0.0.0.0", "--port", str(port)])
    with process:
        assert process.wait() != 0
        assert "0.0.0.0" in process.output()


def test_a_port_in_use_is_a_clear_error(server):
    with harness.Process([harness.BINARY, "serve", "--model", harness.MODEL, "--port", str(server.port)]) as process:
        assert process.wait() > 0
        assert str(server.port) in process.output()


@pytest.mark.process
def test_sigterm_ends_a_server_that_is_idle_or_busy():
    with harness.serve() as idle:
        idle.wait_ready()
        assert idle.stop() == 0
    with harness.serve() as busy:
        busy.wait_ready()
        stream = harness.Stream(busy.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": "Once", "max_tokens": 200, "ignore_eos": True})
        chunks = stream.chunks()
        next(chunks)
        busy.child.terminate()
        assert sum(len(chunk["choices"]) for chunk in chunks) > 0  # drained: the answer is complete, [DONE] included
        assert busy.wait() == 0


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """Its 1,000 tokens take ten seconds even on a quick machine that does nothing else."""
    folder = tmp_path_factory.mktemp("slow") / "model"
    with harness.Process([harness.BINARY, "model", "make", "--shape", "110m", folder]) as made:
        assert made.wait() == 0, made.output()
    return folder


@pytest.mark.process
def test_a_server_that_is_ending_says_so_and_finishes_what_runs(slow_model):
    """Balancers must see it at once: /ready turns while the streams go on, new requests get 503."""
    with harness.serve("--served-name", harness.MODEL_ID, "--set", "gateway.drain_timeout_ms=600000", "--set", "worker.drain_timeout_ms=600000", model=slow_model) as server:
        server.wait_ready()
        assert harness.request(server.port, "GET", "/ready").status == 200
        # Until its client goes, the server has something to finish: what is asked meanwhile may take its time.
        held = harness.Stream(server.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": "Once", "max_tokens": 1000, "ignore_eos": True})
        next(held.chunks())
        with Streams(server.port, 4, 300) as streams:
            streams.wait_all_begun()
            server.child.terminate()
            harness.wait_until(lambda: harness.request(server.port, "GET", "/ready").status == 503, "/ready says 503")
            assert harness.request(server.port, "GET", "/live").status == 200
            refused = harness.post(server.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once", max_tokens=2)
            assert_error(refused, 503)
            assert len(streams.texts()) == 4
        held.close()
        assert server.wait() == 0
