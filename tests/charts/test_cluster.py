"""The chart on a real control plane: installed, changed in every component, taken back, removed. The kubelets are played, so pods run without containers."""
import json
import os
import subprocess

import pytest
import yaml

import chart

pytestmark = pytest.mark.nightly
SCRIPT = chart.ROOT / "scripts" / "kube-cluster"


@pytest.fixture(scope="module")
def kubeconfig():
    root = os.environ.get("SLUICE_KUBE") or str(chart.ROOT / "build" / "kube")
    if not os.path.exists(f"{root}/bin/kwok"):
        subprocess.run([str(SCRIPT), "build"], check=True, timeout=3600)
    # Its children live on behind it: they must not hold a pipe of ours open.
    log = open(f"{root}/up.log", "w+")
    subprocess.run([str(SCRIPT), "up"], check=True, timeout=300, stdout=log, stderr=subprocess.STDOUT)
    log.seek(0)
    path = log.read().splitlines()[-1]
    yield path
    subprocess.run([str(SCRIPT), "down"], check=True, timeout=60)


class Api:
    def __init__(self, kubeconfig):
        cluster = yaml.safe_load(open(kubeconfig))
        self.server = cluster["clusters"][0]["cluster"]["server"]
        self.token = cluster["users"][0]["user"]["token"]

    def call(self, path, body=None):
        command = ["curl", "-sk", "--max-time", "10", "-H", f"Authorization: Bearer {self.token}", "-H", "Content-Type: application/json", self.server + path]
        if body is not None:
            command += ["-d", json.dumps(body)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def all_of(self, release):
        """(kind, name) of what bears the release's label in the namespace of the test."""
        found = set()
        for group, kinds in {"api/v1": ("pods", "services", "configmaps", "serviceaccounts", "secrets"), "apis/apps/v1": ("deployments", "replicasets"),
                             "apis/policy/v1": ("poddisruptionbudgets",), "apis/networking.k8s.io/v1": ("networkpolicies",),
                             "apis/autoscaling/v2": ("horizontalpodautoscalers",)}.items():
            for kind in kinds:
                items = self.call(f"/{group}/namespaces/llm/{kind}?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]
                found |= {(kind, item["metadata"]["name"]) for item in items}
        return found

    def deployments(self, release):
        return {item["metadata"]["labels"]["app.kubernetes.io/component"]: item
                for item in self.call(f"/apis/apps/v1/namespaces/llm/deployments?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]}


def helm(kubeconfig, *words):
    return chart.helm(*words, "--namespace", "llm", KUBECONFIG=kubeconfig)


def test_install_upgrade_rollback_uninstall(kubeconfig, tmp_path):
    api = Api(kubeconfig)
    api.call("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm", "labels": {
        "pod-security.kubernetes.io/enforce": "restricted"}}})  # pods that are not held tight would be refused
    api.call("/api/v1/namespaces/llm/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sluice-key"}, "stringData": {"cluster-key": "0" * 32}})

    first = chart.example("cpu")
    more = chart.merged(first, {  # changes every component
        "image": {"tag": "0.1.1"}, "model": {"name": "m2"}, "gateway": {"replicas": 2}, "decode": {"replicas": 3, "gpus": 1}, "prefill": {"replicas": 2},
        "mixed": {"replicas": 1}, "encoder": {"name": "e", "pull": {"from": "all-minilm-l6-v2"}}, "encode": {"replicas": 1}, "config": {"scheduler": {"heartbeat_ms": 100}}})
    for name, values in (("first", first), ("more", more)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))

    helm(kubeconfig, "install", "demo", chart.CHART, "--values", tmp_path / "first.json", "--wait", "--timeout", "120s")
    before = api.deployments("demo")
    assert set(before) == {"gateway", "scheduler", "prefill", "decode"}
    assert all(one["status"]["readyReplicas"] == one["spec"]["replicas"] for one in before.values())

    helm(kubeconfig, "upgrade", "demo", chart.CHART, "--values", tmp_path / "more.json", "--wait", "--timeout", "120s")
    after = api.deployments("demo")
    assert {role: one["spec"]["replicas"] for role, one in after.items()} == {"gateway": 2, "scheduler": 1, "prefill": 2, "decode": 3, "mixed": 1, "encode": 1}
    for role in before:
        assert after[role]["metadata"]["generation"] > before[role]["metadata"]["generation"], role
        assert after[role]["spec"]["selector"] == before[role]["spec"]["selector"]

    helm(kubeconfig, "rollback", "demo", "1", "--wait", "--timeout", "120s")
    back = api.deployments("demo")
    assert set(back) == set(before)
    for role, one in back.items():
        assert one["spec"]["template"]["spec"]["containers"][0]["image"] == before[role]["spec"]["template"]["spec"]["containers"][0]["image"]
        assert one["spec"]["replicas"] == before[role]["spec"]["replicas"]

    helm(kubeconfig, "uninstall", "demo", "--wait", "--timeout", "120s")
    left = {(kind, name) for kind, name in api.all_of("demo") if kind != "pods"}
    assert left == set()
