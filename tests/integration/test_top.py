"""`sluice top`: what it says of processes that run."""
import json
import os
import subprocess

import pytest

import harness
from harness import LocalCluster, post, serve

pytestmark = pytest.mark.process


def top(*flags, columns=80):
    return subprocess.run([harness.BINARY, "top", "--once", "--interval", "0.2", *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "COLUMNS": str(columns)})


def ready_pools(urls):
    view = json.loads(top("--url", urls, "--json").stdout)
    return {pool["role"]: pool["ready"] for pool in view["pools"]}


def test_one_process_that_serves_everything():
    with serve() as server:
        server.wait_ready()
        assert post(server.port, "/v1/completions", prompt="Once", max_tokens=4, slo={"ttft_ms": 60000}).status == 200
        harness.wait_until(lambda: ready_pools(server.url) == {"prefill": 1, "decode": 1}, "the scheduler has told of its workers")
        shown = top("--url", server.url)
        assert shown.returncode == 0, shown.stderr
        assert max(len(line) for line in shown.stdout.splitlines()) <= 80, shown.stdout
        for words in ("1 processes", "stories260k", "POOL", "prefill", "decode", "KV BLOCKS OF", "TARGETS OF", "QUEUE", "KV OVER"):
            assert words in shown.stdout, shown.stdout
        view = json.loads(top("--url", server.url, "--json").stdout)
        assert set(view) == {"unix_s", "interval_s", "processes", "models", "slo", "pools", "queues", "kv", "transfers", "summary"}
        assert view["processes"][0]["up"] and {"gateway", "scheduler", "prefill", "decode"} <= set(view["processes"][0]["roles"])
        assert view["processes"][0]["version"] and view["interval_s"] > 0
        assert any(slo["slo"] == "ttft" and slo["met"] == 1 and slo["attainment"] == 1 and slo["burn"] == 0 for slo in view["slo"]), view["slo"]
        assert view["transfers"][0]["ok"] + view["transfers"][0]["failed"] >= 1 and all(row["blocks"] > 0 for row in view["kv"])


def test_a_cluster_is_seen_by_its_ports_and_who_stands_by_is_told():
    with LocalCluster(prefill=1, decode=1, schedulers=2) as cluster:
        cluster.wait_ready()
        ports = f"http://127.0.0.1:{cluster.admin_base}-{cluster.admin_base + 3}"
        harness.wait_until(lambda: ready_pools(ports) == {"prefill": 1, "decode": 1}, "the scheduler has told of its workers")
        shown = top("--url", f"http://127.0.0.1:{cluster.port},{ports}")
        assert shown.returncode == 0 and "5 processes" in shown.stdout and "stands by" in shown.stdout, shown.stdout + shown.stderr
        view = json.loads(top("--url", ports, "--json").stdout)
        assert sorted(process["leads"] for process in view["processes"] if "leads" in process) == [False, True]
        down = top("--url", f"http://127.0.0.1:{cluster.port}", "--url", f"http://127.0.0.1:{harness.free_port()}")
        assert down.returncode == 0 and "1 not reached" in down.stdout and "DOWN" in down.stdout, down.stdout


def test_what_cannot_be_shown_is_said():
    nobody = top("--url", f"http://127.0.0.1:{harness.free_port()}")
    assert nobody.returncode == 1 and "127.0.0.1" in nobody.stderr
    for flags in (("--url", "https://a:1"), ("--url", "http://a:5-4"), ("--interval", "0")):
        refused = top(*flags)
        assert refused.returncode != 0 and refused.stderr, flags
    with harness.Process(["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port := harness.free_port())]) as other:
        harness.wait_until(lambda: other.is_alive() and _answers(port), "the other server is there")
        strange = top("--url", f"http://127.0.0.1:{port}")
        assert strange.returncode == 1 and "404" in strange.stderr, strange.stderr


def _answers(port):
    try:
        harness.request(port, "GET", "/")
        return True
    except OSError:
        return False
