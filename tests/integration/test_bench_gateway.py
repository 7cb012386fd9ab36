"""scripts/bench-gateway: a gateway, a scheduler and a worker that computes nothing, measured."""
from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import harness


def test_what_a_request_and_an_event_cost(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "gateway.json"
    done = subprocess.run([sys.executable, harness.ROOT / "scripts" / "bench-gateway", "--nginx", "", "--rounds", "2", "--requests", "20", "--rate", "200", "--streams", "5", "--tokens", "64",
                           "--at-once", "20", "--step-us", "500", "--out", out], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    told = json.loads(out.read_text())
    assert {"request_direct", "event_direct", "saturated_direct"} <= told.keys()
    assert told["saturated_direct"]["events_per_s"]["low"] > 0
    assert told["request_direct"]["ttft_p50_ms"]["low"] > 0
