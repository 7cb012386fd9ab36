"""A trace of what a gateway served, and that `sluice plan fit` and `sluice simulate` take it."""
import json
import subprocess

import pytest

import harness

pytestmark = pytest.mark.process
PLAN = """version: 1
model: LlamaForCausalLM
pools:
  - role: mixed
    count: 1
    device: this
    limits: {batch_sequences_max: 8, batch_tokens_max: 64, kv_tokens: 4096}
    times: {step_s: 0.001, tokens: {at: [1, 64], seconds: [0.001, 0.004]}}
slo_classes:
  default: {ttft_ms: 5000, tpot_ms: 500}
"""
SECRET = "Once upon a time there was a little dog whose name nobody but Lily and her mother and the old man by the river ever knew. "


def sluice(*arguments):
    return subprocess.run([str(harness.BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def metric(port, result):
    for line in harness.request(port, "GET", "/metrics").body.decode().splitlines():
        if line.startswith("sluice_gateway_capture_rows_total") and f'result="{result}"' in line:
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def ask(port, prompt, tokens, headers=None):
    answer = harness.request(port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}, headers)
    assert answer.status == 200, answer.body
    return answer.json()


def test_what_was_served_is_fitted_and_simulated(tmp_path):
    trace = tmp_path / "trace.jsonl"
    with harness.serve("--set", f"capture.file={trace}", "--set", "capture.block_tokens=16") as server:
        server.wait_ready()
        usages = [ask(server.port, SECRET, 5, {"x-session-id": "lily@example.org"})["usage"],
                  ask(server.port, SECRET + "One day it", 6, {"x-session-id": "lily@example.org"})["usage"],
                  ask(server.port, "The cat", 7)["usage"]]
        ask(server.port, SECRET, 4)
        harness.request(server.port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": "x" * 5000, "max_tokens": 4})  # too long: no sequence
        harness.wait_until(lambda: metric(server.port, "written") == 4, "all rows are written")
        assert server.stop() == 0
    text = trace.read_text()
    for secret in ("Once", "dog", "lily", "cat"):
        assert secret not in text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["input_length"], row["output_length"]) for row in rows[:3]] == [(u["prompt_tokens"], u["completion_tokens"]) for u in usages]
    assert all(row["block_tokens"] == 16 and row["slo_class"] == "default" and row["model"] == harness.MODEL_ID for row in rows)
    assert rows[0]["timestamp"] <= rows[1]["timestamp"] <= rows[2]["timestamp"]
    assert len(rows[0]["hash_ids"]) == rows[0]["input_length"] // 16 > 1
    shared = [a == b for a, b in zip(rows[0]["hash_ids"], rows[1]["hash_ids"])]
    assert shared[0] and rows[3]["hash_ids"] == rows[0]["hash_ids"]
    assert rows[0]["session_id"] == rows[1]["session_id"] and rows[1]["delay"] >= 0 and "session_id" not in rows[2]

    fitted = sluice("plan", "fit", trace, "--out", tmp_path / "fit.yaml")
    assert fitted.returncode == 0, fitted.stderr
    assert str(rows[0]["input_length"]) in (tmp_path / "fit.yaml").read_text()
    (tmp_path / "plan.yaml").write_text(PLAN)
    played = sluice("simulate", "--plan", tmp_path / "plan.yaml", "--trace", trace, "--out", tmp_path / "out.json")
    assert played.returncode == 0, played.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["block_tokens"] == 16
    assert out["report"]["requests_ok"] == 4
    assert out["report"]["cached_share"] > 0


def test_nothing_is_captured_unless_asked_for(tmp_path):
    with harness.serve() as server:
        server.wait_ready()
        ask(server.port, "The cat", 3)
        assert "capture_rows" not in harness.request(server.port, "GET", "/metrics").body.decode()


def test_a_full_disk_costs_rows_and_no_request(tmp_path):
    with harness.serve("--set", "capture.file=/dev/full") as server:
        server.wait_ready()
        for _ in range(3):
            ask(server.port, "The cat", 3)
        harness.wait_until(lambda: metric(server.port, "failed") == 3, "rows are counted")
        assert server.output().count("capture: rows are left out") == 1
        assert server.stop() == 0


def test_a_file_that_cannot_be_written_ends_the_start(tmp_path):
    ran = sluice("serve", "--model", harness.MODEL, "--port", harness.free_port(), "--set", f"capture.file={tmp_path}/nowhere/trace")
    assert ran.returncode > 0
    assert "capture.file: cannot write" in ran.stderr
