"""Spans of requests at a receiver of OTLP over HTTP: those of the gateway and of the workers, in one trace."""
import http.server
import json
import threading

import pytest

import harness
from harness import post, request, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Receiver(http.server.ThreadingHTTPServer):
    """Takes spans as the protocol has them; `busy` answers so many batches with 503 first."""

    def __init__(self, busy: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.busy = busy
        self.lock = threading.Lock()
        self.taken: list[tuple[str, dict]] = []  # service, span
        self.headers: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self, trace: str = TRACE) -> list[tuple[str, dict]]:
        with self.lock:
            return [(service, span) for service, span in self.taken if span["traceId"] == trace]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/traces" and self.headers["content-type"] == "application/json"
        with self.server.lock:
            is_busy = self.server.busy > 0
            self.server.busy -= is_busy
            if not is_busy:
                self.server.headers.append(dict(self.headers))
                for resource in body["resourceSpans"]:
                    values = values_of(resource["resource"])
                    for scope in resource["scopeSpans"]:
                        self.server.taken += [(values["service.name"], span) for span in scope["spans"]]
        self.send_response(503 if is_busy else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def values_of(holder):
    values = {}
    for one in holder["attributes"]:
        [(kind, value)] = one["value"].items()
        values[one["key"]] = int(value) if kind == "intValue" else value
    return values


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


def ask(port, headers=None):
    body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    answer = request(port, "POST", "/v1/completions", body, {"traceparent": PARENT, **(headers or {})})
    assert answer.status == 200, answer.body
    return answer


def test_a_request_is_one_trace_through_gateway_and_workers(receiver):
    receiver.busy = 1  # it is tried again
    with harness.LocalCluster(prefill=1, decode=1, settings=[f"tracing.otlp_endpoint={receiver.url}", "tracing.headers=[x-team=a b]"]) as cluster:
        cluster.wait_ready()
        ask(cluster.port, {"x-request-id": "traced"})
        spans = wait_until(lambda: len(found := receiver.spans()) >= 8 and found, "all spans have come")
    by_name = {span["name"]: (service, span) for service, span in spans}
    service, root = by_name[f"text_completion {harness.MODEL_ID}"]
    assert service == "sluice-gateway" and root["parentSpanId"] == "00f067aa0ba902b7" and root["kind"] == 2
    values = values_of(root)
    assert values["gen_ai.operation.name"] == "text_completion" and values["gen_ai.request.model"] == harness.MODEL_ID
    assert values["gen_ai.usage.output_tokens"] == 8 and values["http.response.status_code"] == 200 and values["sluice.request_id"] == "traced"
    assert values["gen_ai.response.finish_reasons"] == {"values": [{"stringValue": "length"}]}
    for name, of in (("prepare", "sluice-gateway"), ("place", "sluice-gateway"), ("prefill", "sluice-gateway"), ("hand-off", "sluice-gateway"),
                     ("decode", "sluice-gateway"), ("worker prefill", "sluice-prefill"), ("worker decode", "sluice-decode")):
        service, span = by_name[name]
        assert service == of and span["parentSpanId"] == root["spanId"], name
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
    assert len({span["spanId"] for _, span in spans}) == len(spans)
    assert values_of(by_name["worker decode"][1])["sluice.finish"] == "length"
    # A short answer may be over before the prefill worker hears that its KV has arrived.
    assert values_of(by_name["worker prefill"][1])["sluice.finish"] in ("handed_over", "cancelled")
    assert all(headers["x-team"] == "a b" for headers in receiver.headers)


def test_serve_traces_what_is_asked_for_and_sends_the_rest_when_it_ends(receiver):
    with harness.serve("--set", f"tracing.otlp_endpoint={receiver.url}", "--set", "tracing.sampled_share=0", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        assert post(server.port, "/v1/completions", prompt="Once", max_tokens=2).status == 200  # not sampled
        assert request(server.port, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 2}, {"traceparent": PARENT[:-1] + "0"}).status == 200
        ask(server.port)
        failed = request(server.port, "POST", "/v1/completions", {"prompt": 3}, {"traceparent": PARENT.replace(TRACE, TRACE[::-1])})
        assert failed.status == 400
        server.stop()
        assert '"trace_id":"' + TRACE in server.output() and '"ttft_ms":' in server.output()
    assert {span["traceId"] for _, span in receiver.taken} == {TRACE, TRACE[::-1]}
    assert sorted(span["name"] for _, span in receiver.spans()) == ["decode", "place", "prefill", "prepare", f"text_completion {harness.MODEL_ID}", "worker"]
    [(_, refused)] = receiver.spans(TRACE[::-1])
    assert values_of(refused)["error.type"] == "400" and "status" not in refused


def test_a_receiver_that_is_gone_changes_no_answer():
    with harness.serve("--set", f"tracing.otlp_endpoint=http://127.0.0.1:{harness.free_port()}", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        texts = {ask(server.port).json()["choices"][0]["text"] for _ in range(20)}
        assert len(texts) == 1
        wait_until(lambda: "spans cannot be sent" in server.output(), "it says so")
        assert server.stop() == 0


def test_an_endpoint_that_is_none_is_refused():
    with harness.serve("--set", "tracing.otlp_endpoint=localhost:4318") as server:
        assert server.wait() == 2
        assert "tracing.otlp_endpoint" in server.output()
