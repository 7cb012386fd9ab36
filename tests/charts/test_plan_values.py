"""What `sluice plan --helm-values` writes is what the chart takes, as it stands."""
import subprocess

import pytest
import yaml

import chart
import harness
from chart import LEAST, merged

FIT = "rate: 5\nburstiness: 1\nprompt_tokens: [10, 40, 120]\noutput_tokens: [8, 30, 60]\n"
SLO = "ttft=20,tpot=10,attainment=0.9"


def sluice(*words):
    done = subprocess.run([str(harness.BINARY), *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def planned(folder, *words):
    """The values, and the pools of the plan: role -> (count, threads)."""
    (folder / "fit.yaml").write_text(FIT)
    sluice("plan", "--model", harness.MODEL, "--workload", folder / "fit.yaml", "--slo", SLO, "--gpus", "2", "--whole-workers", "--no-what-ifs", *words,
           "--out", folder / "plan.yaml", "--helm-values", folder / "values.yaml")
    pools = {one["role"]: (one["count"], one.get("threads")) for one in yaml.safe_load((folder / "plan.yaml").read_text())["pools"]}
    return yaml.safe_load((folder / "values.yaml").read_text()), pools


def check(values, pools, devices):
    rendered = chart.objects(merged(LEAST, values))
    roles = {role for role in ("prefill", "decode", "mixed") if values[role]["replicas"] > 0}
    assert roles == set(pools)
    for role, (count, threads) in pools.items():
        assert chart.deployment(rendered, role)["spec"]["replicas"] == count
        container = chart.pod(rendered, role)["containers"][0]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == devices
        if threads:
            assert container["args"][container["args"].index("--threads") + 1] == str(threads)
    assert chart.config(rendered)["slo_classes"] == {"default": {"ttft_ms": 20000, "tpot_ms": 10000, "attainment": 0.9}}


def test_a_plan_for_gpus_asks_for_them(tmp_path):
    values, pools = planned(tmp_path, "--gpu", "h200")
    check(values, pools, "1")


@pytest.mark.process
def test_a_plan_for_the_machine_that_was_measured_asks_for_none(tmp_path):
    sluice("bench", "engine", "--model", harness.MODEL, "--threads", "1", "--prefill", "32,128", "--batch", "1,4", "--context", "64", "--samples", "3", "--out", tmp_path / "engine.json")
    values, pools = planned(tmp_path, "--gpu", "this", "--engine-times", tmp_path / "engine.json", "--this-kv-tokens", "4096")
    assert {threads for _, threads in pools.values()} == {1}
    check(values, pools, None)
