"""Two models behind one gateway and one scheduler, each answered by its own workers."""
import contextlib
import pathlib
import shutil

import pytest

import harness
from harness import Process, Server, free_port, wait_until


@pytest.fixture
def cluster(tmp_path):
    """Model `one` on a prefill and a decode worker, model `two` (a folder of its own) on a mixed one."""
    folder = tmp_path / "two"
    shutil.copytree(harness.MODEL, folder)
    scheduler = f"127.0.0.1:{free_port()}"
    key = tmp_path / "key.yaml"
    key.write_text('cluster:\n  key: "000102030405060708090a0b0c0d0e0f"\n')
    port = free_port()
    admin = {"prefill": free_port(), "decode": free_port(), "mixed": free_port()}

    def worker(role: str, model: pathlib.Path, name: str) -> Process:
        return Process([harness.BINARY, role, "--model", model, "--served-name", name, "--scheduler", scheduler, "--threads", "1",
                        "--config", key, "--admin-port", str(admin[role])])

    with contextlib.ExitStack() as stack:
        stack.enter_context(Process([harness.BINARY, "scheduler", "--listen", scheduler, "--config", key]))
        stack.enter_context(worker("prefill", harness.MODEL, "one"))
        stack.enter_context(worker("decode", harness.MODEL, "one"))
        gateway = stack.enter_context(Server([harness.BINARY, "gateway", "--model", f"one={harness.MODEL}", "--model", f"two={folder}",
                                              "--scheduler", scheduler, "--port", str(port), "--config", key,
                                              "--set", "gateway.aliases=[second=two]"], port))
        try:
            yield gateway, admin, lambda: stack.enter_context(worker("mixed", folder, "two"))
        finally:
            print(gateway.output())  # shown when the test fails


def generated(admin_port: int) -> float:
    return sum(value for (name, _), value in harness.metrics(admin_port).items() if name == "sluice_worker_generation_tokens_total")


def complete(gateway, case, **fields):
    return harness.post(gateway.port, "/v1/completions", prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0, **fields)


def test_two_models_are_answered_by_their_own_workers(cluster):
    gateway, admin, start_second = cluster
    case = harness.golden_cases()[2]

    def half_is_ready():
        answer = harness.request(gateway.port, "GET", "/health")
        return answer.status == 503 and "one: ready; two: no workers" in answer.json()["error"]["message"]

    wait_until(lambda: gateway.is_alive() and gateway_listens(gateway) and half_is_ready(), "the first model is ready", harness.START_SECONDS)
    assert case["prompt"] + complete(gateway, case, model="one").json()["choices"][0]["text"] == case["output_text"]
    harness.assert_error(complete(gateway, case, model="two"), 503)
    start_second()
    gateway.wait_ready()
    assert harness.request(gateway.port, "GET", "/health").json() == {"status": "ok", "models": {"one": "ready", "two": "ready"}}
    listed = harness.request(gateway.port, "GET", "/v1/models").json()["data"]
    assert [(entry["id"], entry["max_model_len"]) for entry in listed] == [(name, harness.CONTEXT_TOKENS) for name in ("one", "two", "second")]

    before = {role: generated(port) for role, port in admin.items()}
    for name in ("two", "second"):
        answer = complete(gateway, case, model=name).json()
        assert answer["model"] == name
        assert case["prompt"] + answer["choices"][0]["text"] == case["output_text"]
    after = {role: generated(port) for role, port in admin.items()}
    assert after["mixed"] - before["mixed"] == 2 * len(case["output_ids"])
    assert (after["prefill"], after["decode"]) == (before["prefill"], before["decode"])

    assert case["prompt"] + complete(gateway, case).json()["choices"][0]["text"] == case["output_text"]  # the first, where none is named
    last = {role: generated(port) for role, port in admin.items()}
    assert last["mixed"] == after["mixed"]
    assert last["prefill"] + last["decode"] > after["prefill"] + after["decode"]
    harness.assert_error(complete(gateway, case, model="three"), 404, code="model_not_found")
    rows = harness.metrics(gateway.port)
    ended = {dict(labels)["model"]: value for (name, labels), value in rows.items()
             if name == "sluice_gateway_requests_total" and ("code", "200") in labels and ("endpoint", "completions") in labels}
    assert ended == {"one": 2, "two": 2}


def gateway_listens(gateway) -> bool:
    try:
        return harness.request(gateway.port, "GET", "/live").status == 200
    except OSError:
        return False


def test_serve_takes_two_models_on_workers_of_their_own(tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(harness.MODEL, folder)
    port = free_port()
    with Server([harness.BINARY, "serve", "--model", harness.MODEL, "--model", f"second={folder}", "--port", str(port), "--prefill", "0",
                 "--decode", "0", "--mixed", "1"], port) as server:
        server.wait_ready()
        case = harness.golden_cases()[2]
        for name in (harness.MODEL_ID, "second"):
            assert case["prompt"] + complete(server, case, model=name).json()["choices"][0]["text"] == case["output_text"]
        rows = harness.metrics(port)
        by_model = {dict(labels)["model"]: value for (name, labels), value in rows.items() if name == "sluice_worker_generation_tokens_total"}
        assert by_model == {harness.MODEL_ID: len(case["output_ids"]), "second": len(case["output_ids"])}


@pytest.mark.parametrize("flags, message", [
    (["--model", f"a={harness.MODEL}", "--model", f"a={harness.MODEL}"], "given twice"),
    (["--model", f"a={harness.MODEL}", "--model", f"b={harness.MODEL}", "--served-name", "c"], "--served-name is for one model"),
    (["--model", f"={harness.MODEL}"], "must be MODEL or NAME=MODEL"),
])
def test_models_that_cannot_be_told_apart_are_refused(flags, message):
    with Process([harness.BINARY, "gateway", *flags, "--port", "0", "--set", "cluster.key=000102030405060708090a0b0c0d0e0f"]) as gateway:
        assert gateway.wait() == 2
        assert message in gateway.output()
