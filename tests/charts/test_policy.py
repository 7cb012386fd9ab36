"""What kube-score thinks unwise of the rendered objects: nothing but what is meant so, each with its reason."""
import json
import subprocess

import pytest
import yaml

import chart

KUBE_SCORE = chart.TOOLS / "bin" / "kube-score"
pytestmark = pytest.mark.skipif(not KUBE_SCORE.exists(), reason="SKIPPED: no kube-score here (scripts/chart-tools could not build it)")
OK = 10  # its best grade
MEANT_SO = {
    ("container-image-pull-policy", "ImagePullPolicy is not set to Always"): "a tag is a version, and latest is refused",
    ("container-resources", "CPU limit is not set"): "a throttled step is late for all its sequences",
    ("container-ephemeral-storage-request-and-limit", "Ephemeral Storage limit is not set"): "the root is read-only, each volume has a size of its own",
    ("container-ephemeral-storage-request-and-limit", "Ephemeral Storage request is not set"): "the same",
    ("deployment-replicas", "Deployment few replicas"): "of what runs without a second one, an operator decides",
    ("deployment-strategy", "Deployment update strategy"): "of one scheduler the old one goes first: two must not lead",
}
VALUES = {
    "least": chart.LEAST,
    "colocated": chart.example("colocated"),
    "cpu": chart.example("cpu"),
    "gpu": chart.example("gpu"),
    "workers of a set": chart.merged(chart.example("gpu"), {"caches": {"kv": {"disk": {"gib": 64, "storageClassName": "local-nvme"}}}, "decode": {"kind": "StatefulSet"}}),
    "several schedulers, certificates": chart.merged(chart.example("gpu"), {"scheduler": {"replicas": 2}, "cluster": {"certificates": {"enabled": True}}}),
}


def findings(objects, path):
    """(check, what) -> kinds and names."""
    path.write_text(yaml.safe_dump_all(objects))
    done = subprocess.run([KUBE_SCORE, "score", "--output-format", "json", "--kubernetes-version", "v1.33", path], capture_output=True, text=True, timeout=300)
    scored = json.loads(done.stdout)
    workloads = {one["metadata"]["name"] for one in chart.workloads(objects)}
    assert workloads <= {one["object_meta"]["name"] for one in scored}, done.stderr
    found: dict[tuple[str, str], list[str]] = {}
    for one in scored:
        for check in one["checks"] or []:
            if not check["skipped"] and check["grade"] < OK:
                for comment in check["comments"] or [{"summary": ""}]:
                    found.setdefault((check["check"]["id"], comment["summary"]), []).append(f"{one['type_meta']['kind']} {one['object_meta']['name']}")
    return found


@pytest.mark.parametrize("name", VALUES)
def test_nothing_is_unwise_but_what_is_meant_so(name, tmp_path):
    found = findings(chart.objects(VALUES[name]), tmp_path / "objects.yaml")
    assert {key: where for key, where in found.items() if key not in MEANT_SO} == {}


def test_what_is_unwise_would_be_found(tmp_path):
    objects = json.loads(json.dumps(chart.objects(chart.merged(VALUES["cpu"], {"gateway": {"replicas": 2}}))))
    for one in chart.workloads(objects):
        one["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    bare = [one for one in objects if one["kind"] not in ("NetworkPolicy", "PodDisruptionBudget")]
    found = {check for check, _ in findings(bare, tmp_path / "objects.yaml")}
    assert {"container-security-context-privileged", "pod-networkpolicy", "deployment-has-poddisruptionbudget"} <= found


def test_what_is_meant_so_is_still_found(tmp_path):
    """A reason that nothing needs any more goes."""
    found = set().union(*(findings(chart.objects(values), tmp_path / "objects.yaml") for values in VALUES.values()))
    assert set(MEANT_SO) <= found
