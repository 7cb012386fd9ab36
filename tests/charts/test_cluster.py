"""The chart on a real control plane: installed, changed in every component, taken back, removed. The kubelets are played, so pods run without containers;
those of one release run as processes of this machine, with what the API server has for them."""
import base64
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
import yaml

import chart
import harness
import pods
from harness import wait_until

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
        self.state = pathlib.Path(kubeconfig).parent

    def ask(self, path, body=None, method=None, token=None):
        """Status and answer."""
        command = ["curl", "-sk", "--max-time", "10", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token or self.token}", "-H", "Content-Type: application/json",
                   self.server + path]
        if body is not None:
            command += ["-d", json.dumps(body)]
        if method is not None:
            command += ["-X", method]
        text, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rsplit("\n", 1)
        return int(status), json.loads(text)

    def call(self, path, body=None, method=None):
        return self.ask(path, body, method)[1]

    def make_namespace(self, name):
        self.call("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted"}}})  # pods that are not held tight would be refused

    def put_secret(self, namespace, name, files, kind="Opaque"):
        """Makes it, or puts other content in its place."""
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind,
                "data": {file: base64.b64encode(text).decode() for file, text in files.items()}}
        status, told = self.ask(f"/api/v1/namespaces/{namespace}/secrets", body)
        if status == 409:
            status, told = self.ask(f"/api/v1/namespaces/{namespace}/secrets/{name}", body, "PUT")
        assert status in (200, 201), told

    def all_of(self, release, namespace="llm"):
        """(kind, name) of what bears the release's label in the namespace of the test."""
        found = set()
        for group, kinds in {"api/v1": ("pods", "services", "configmaps", "serviceaccounts", "secrets"), "apis/apps/v1": ("deployments", "statefulsets", "replicasets"),
                             "apis/policy/v1": ("poddisruptionbudgets",), "apis/networking.k8s.io/v1": ("networkpolicies",),
                             "apis/autoscaling/v2": ("horizontalpodautoscalers",), "apis/rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
                             "apis/coordination.k8s.io/v1": ("leases",)}.items():
            for kind in kinds:
                items = self.call(f"/{group}/namespaces/{namespace}/{kind}?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]
                found |= {(kind, item["metadata"]["name"]) for item in items}
        return found

    def deployments(self, release):
        return {item["metadata"]["labels"]["app.kubernetes.io/component"]: item
                for item in self.call(f"/apis/apps/v1/namespaces/llm/deployments?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]}


def helm(kubeconfig, *words, namespace="llm"):
    return chart.helm(*words, "--namespace", namespace, KUBECONFIG=kubeconfig)


def test_install_upgrade_rollback_uninstall(kubeconfig, tmp_path):
    api = Api(kubeconfig)
    api.make_namespace("llm")
    api.put_secret("llm", "sluice-key", {"cluster-key": b"0" * 32})

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


class Kubelet:
    """What pods mount, as the API server has it."""

    def __init__(self, api, namespace):
        self.api, self.namespace = api, namespace

    def one(self, kind, name):
        status, told = self.api.ask(f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        assert status == 200, told
        return told

    def config_map(self, name):
        return self.one("configmaps", name)["data"]

    def secret(self, name):
        return {file: base64.b64decode(text) for file, text in self.one("secrets", name)["data"].items()}

    def account_of(self, spec, pod_name):
        """A token of the pod's service account that ends with the pod, as the volume that the API server has added asks for it."""
        asked = next(one for volume in spec["volumes"] if "projected" in volume for one in volume["projected"]["sources"] if "serviceAccountToken" in one)["serviceAccountToken"]
        status, told = self.api.ask(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{spec['serviceAccountName']}/token", {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": asked["expirationSeconds"], "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": self.one("pods", pod_name)["metadata"]["uid"]}}})
        assert status == 201, told
        return {"token": told["status"]["token"].encode(), "namespace": self.namespace.encode(), "ca.crt": self.config_map("kube-root-ca.crt")["ca.crt"].encode()}

    def pods(self, release):
        """name -> (role, spec), but for the pod of helm test."""
        return {one["metadata"]["name"]: (one["metadata"]["labels"]["app.kubernetes.io/component"], one["spec"])
                for one in self.api.call(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]}


def test_the_pods_of_a_release_run_as_processes_with_its_secrets_its_accounts_and_its_lease(kubeconfig, tmp_path):
    api = Api(kubeconfig)
    space = "serving"
    api.make_namespace(space)
    api.put_secret(space, "sluice-key", {"cluster-key": os.urandom(16).hex().encode()})
    for name, files in pods.certificates(tmp_path / "certificates").items():
        api.put_secret(space, name, files, "kubernetes.io/tls")
    lease_ms = 4000
    values = chart.merged(chart.example("cpu"), {
        "cluster": {"trustedNetwork": False, "certificates": {"enabled": True}}, "scheduler": {"replicas": 2},
        "config": {"scheduler": {"leader_lease_ms": lease_ms}, "gateway": {"place_wait_max_ms": 60000}, "worker": {"kv_transport": "tls"}},
        "ports": {"http": harness.free_port(), "control": harness.free_port(), "admin": harness.free_port()}})
    (tmp_path / "values.json").write_text(json.dumps(values))
    helm(kubeconfig, "install", "demo", chart.CHART, "--values", tmp_path / "values.json", "--wait", "--timeout", "120s", namespace=space)

    def lease(name="demo-sluice"):
        return api.call(f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases/{name}")

    assert not lease()["spec"].get("holderIdentity")
    kubelet = Kubelet(api, space)
    host, port = api.server.removeprefix("https://").rsplit(":", 1)
    with pods.Cluster(values, tmp_path, source=kubelet, specs=kubelet.pods("demo"),
                      environment={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}) as cluster:
        cluster.start().wait_ready()

        def complete():
            answer = harness.request(cluster.port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": "There was", "max_tokens": 8, "temperature": 1, "seed": 1}, seconds=120)
            assert answer.status == 200, answer.body
            return answer.json()["choices"][0]["text"]

        chat = harness.post(cluster.port, "/v1/chat/completions", model=harness.MODEL_ID, messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=8)
        assert chat.status == 200 and chat.json()["choices"][0]["message"]["content"], chat.body
        text = complete()
        assert cluster.metric("decode", "sluice_kv_transfers_total", direction="receive", outcome="ok") > 0
        assert all(f"this process is sluice://sluice/{pod.role}/{pod.role}" in pod.process.output() for pod in cluster.all)

        # The Lease is written as Kubernetes wants it, and says who leads.
        leader, other = cluster.leader_and_other()
        wait_until(lambda: lease()["metadata"]["annotations"].get("sluice.dev/workers") == "2", "the Lease tells of both workers", 60)
        held = lease()
        assert held["spec"]["holderIdentity"] == f"{leader.address}:{values['ports']['control']}" and held["spec"]["leaseDurationSeconds"] == lease_ms // 1000
        assert held["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"

        # An account may do what it needs and nothing else.
        token = kubelet.account_of(leader.spec, leader.name)["token"].decode()
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases"
        assert api.ask(f"{leases}/demo-sluice", token=token)[0] == 200
        other_lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "of-others"}}
        assert api.ask(leases, other_lease)[0] == 201
        asked = [(f"{leases}/of-others", None, None), (f"{leases}/of-others", other_lease, "PUT"), (leases, None, None), (f"{leases}/demo-sluice", None, "DELETE"),
                 (f"/api/v1/namespaces/{space}/secrets", None, None), (f"/api/v1/namespaces/{space}/pods", None, None)]
        assert [api.ask(path, body, method, token)[0] for path, body, method in asked] == [403] * len(asked)

        # The API server is away for longer than the lease: who leads stays, and serves.
        server = int((api.state / "api.pid").read_text())
        harness.freeze(server)
        try:
            before = leader.metric("sluice_scheduler_lease_errors_total")
            wait_until(lambda: leader.metric("sluice_scheduler_lease_errors_total") >= before + 9, "looks of two leases have failed", 120)
            assert leader.leads() and not other.leads() and complete() == text
        finally:
            os.kill(server, signal.SIGCONT)
        beat = held["metadata"]["annotations"]["sluice.dev/beat"]
        wait_until(lambda: lease()["metadata"]["annotations"]["sluice.dev/beat"] != beat, "it renews again", 60)
        assert leader.leads() and leader.metric("sluice_scheduler_terms_total") == 1

        # Killed: the other one leads when the lease is over.
        leader.process.child.kill()
        killed_at = time.monotonic()
        assert complete() == text  # waits in the gateway until somebody leads
        print(f"placed again {time.monotonic() - killed_at:.2f} s after the kill, with a lease of {lease_ms / 1000} s")
        assert other.leads() and lease()["spec"]["holderIdentity"].startswith(f"{other.address}:")
        assert lease()["spec"]["leaseTransitions"] == held["spec"]["leaseTransitions"] + 1
        leader.start()  # as the kubelet does
        leader.wait_ready()
        leader, other = other, leader

        # Standing still past its lease, and woken: what it writes is refused, and it leads no more.
        harness.freeze(leader.process.pid)
        stood_at = time.monotonic()
        assert complete() == text
        print(f"placed again {time.monotonic() - stood_at:.2f} s after the leader stood still")
        assert other.leads()
        os.kill(leader.process.pid, signal.SIGCONT)
        wait_until(lambda: not leader.leads(), "the one that stood still leads no more", 60)
        assert complete() == text and other.leads() and leader.metric("sluice_scheduler_terms_total") == 1
        assert lease()["spec"]["holderIdentity"].startswith(f"{other.address}:")
        leader, other = other, leader

        # cert-manager renews the Secrets, the kubelet brings them.
        for name, files in pods.certificates(tmp_path / "renewed", "--authority", str(tmp_path / "certificates" / "authority")).items():
            api.put_secret(space, name, files, "kubernetes.io/tls")
        for pod in cluster.all:
            pod.put(next(volume for volume in pod.spec["volumes"] if volume["name"] == "certificate"))
        wait_until(lambda: all(pod.metric("sluice_certificate_changes_total") == 1 for pod in cluster.all), "all have the new ones", 120)
        assert complete() == text

        # An upgrade writes labels into the Lease that is held; nobody loses it.
        helm(kubeconfig, "upgrade", "demo", chart.CHART, "--values", tmp_path / "values.json", "--set", "gateway.podLabels.color=blue", "--wait", "--timeout", "120s", namespace=space)
        beat = lease()["metadata"]["annotations"]["sluice.dev/beat"]
        wait_until(lambda: lease()["metadata"]["annotations"]["sluice.dev/beat"] != beat, "it is renewed", 60)
        assert leader.leads() and lease()["spec"]["holderIdentity"].startswith(f"{leader.address}:")

        # Removed while its processes run: the Lease goes, too, and none of them makes it again.
        before = leader.metric("sluice_scheduler_lease_errors_total")
        helm(kubeconfig, "uninstall", "demo", "--wait", "--timeout", "120s", namespace=space)
        wait_until(lambda: leader.metric("sluice_scheduler_lease_errors_total") >= before + 3, "it is no longer served", 60)
        left = {(kind, name) for kind, name in api.all_of("demo", space) if kind != "pods"}
        assert left == set()
        assert [one["metadata"]["name"] for one in api.call(leases)["items"]] == ["of-others"]
