"""The chart on a real control plane: installed, changed in every component, taken back, removed. The kubelets are played, so pods run without containers;
those of one release run as processes of this machine, with what the API server has for them."""
import json
import os
import signal
import time

import pytest

import chart
import harness
import kube
import pods
from chart import merged
from harness import wait_until
from kube import helm
from test_renders import PROFILES

pytestmark = pytest.mark.nightly


@pytest.fixture
def api(kubeconfig):
    return kube.Api(kubeconfig)


def deployments(api, namespace):
    return {item["metadata"]["labels"]["app.kubernetes.io/component"]: item for item in api.call(f"apis/apps/v1/namespaces/{namespace}/deployments")["items"]}


def test_install_upgrade_rollback_uninstall(api, tmp_path):
    space = "llm"
    api.make_namespace(space)
    api.put_secret(space, "sluice-key", {"cluster-key": b"0" * 32})
    wait_until(lambda: {("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")} <= api.everything(space), "the namespace is furnished", 60)
    clean = api.everything(space)

    first = chart.example("cpu")
    more = merged(first, {  # changes every component
        "image": {"tag": "0.1.1"}, "model": {"name": "m2"}, "gateway": {"replicas": 2}, "decode": {"replicas": 3, "gpus": 1}, "prefill": {"replicas": 2},
        "mixed": {"replicas": 1}, "encoder": {"name": "e", "pull": {"from": "all-minilm-l6-v2"}}, "encode": {"replicas": 1}, "config": {"scheduler": {"heartbeat_ms": 100}}})
    # StatefulSets in the Deployments' places; of schedulers with a Lease, a Role and an account.
    several = merged(more, {"scheduler": {"replicas": 2}, "mixed": {"kind": "StatefulSet"}})
    for name, values in (("first", first), ("more", more), ("several", several)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))

    def upgraded(name):
        helm(api, space, "upgrade", "demo", chart.CHART, "--values", tmp_path / f"{name}.json", "--wait", "--timeout", "120s")
        return deployments(api, space)

    helm(api, space, "install", "demo", chart.CHART, "--values", tmp_path / "first.json", "--wait", "--timeout", "120s")
    before = deployments(api, space)
    assert set(before) == {"gateway", "scheduler", "prefill", "decode"}
    assert all(one["status"]["readyReplicas"] == one["spec"]["replicas"] for one in before.values())
    installed = api.everything(space)

    after = upgraded("more")
    assert {role: one["spec"]["replicas"] for role, one in after.items()} == {"gateway": 2, "scheduler": 1, "prefill": 2, "decode": 3, "mixed": 1, "encode": 1}
    for role in before:
        assert after[role]["metadata"]["generation"] > before[role]["metadata"]["generation"], role
        assert after[role]["spec"]["selector"] == before[role]["spec"]["selector"]

    assert {"scheduler", "mixed"} & set(upgraded("several")) == set()
    now = api.everything(space)
    of_lease = {("statefulsets", "demo-sluice-scheduler"), ("leases", "demo-sluice"), ("roles", "demo-sluice-scheduler"), ("rolebindings", "demo-sluice-scheduler"),
                ("serviceaccounts", "demo-sluice-scheduler"), ("services", "demo-sluice-schedulers"), ("pods", "demo-sluice-scheduler-0"), ("pods", "demo-sluice-scheduler-1"),
                ("statefulsets", "demo-sluice-mixed"), ("services", "demo-sluice-mixed"), ("pods", "demo-sluice-mixed-0")}
    assert of_lease <= now and not of_lease & installed

    helm(api, space, "rollback", "demo", "1", "--wait", "--timeout", "120s")
    back = deployments(api, space)
    assert set(back) == set(before)
    for role, one in back.items():
        assert one["spec"]["template"]["spec"]["containers"][0]["image"] == before[role]["spec"]["template"]["spec"]["containers"][0]["image"]
        assert one["spec"]["replicas"] == before[role]["spec"]["replicas"]
    wait_until(lambda: not of_lease & api.everything(space), "the Lease has gone with those that shared it", 60)

    helm(api, space, "uninstall", "demo", "--wait", "--timeout", "120s")
    api.wait_left(space, clean)


def test_routes_pools_monitors_rules_and_scalers_are_taken_by_the_api_server(api, tmp_path):
    """Objects of the operators' kinds, which have rules that no schema says: a real API server holds them against those."""
    api.take_custom_kinds()
    space = "routed"
    api.make_namespace(space)
    wait_until(lambda: {("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")} <= api.everything(space), "the namespace is furnished", 60)
    clean = api.everything(space)
    values = merged(PROFILES["gpu"], {"gateway": {key: PROFILES["routed"]["gateway"][key] for key in ("route", "inferencePool")}, "networkPolicy": PROFILES["routed"]["networkPolicy"]})
    (tmp_path / "values.json").write_text(json.dumps(values))
    helm(api, space, "install", "demo", chart.CHART, "--values", tmp_path / "values.json")  # its pods wait for a volume
    made = api.everything(space)
    for kind in ("httproutes", "inferencepools", "podmonitors", "servicemonitors", "prometheusrules"):
        assert any(found == kind for found, _ in made - clean), kind
    assert {name for kind, name in made - clean if kind == "scaledobjects"} == {f"demo-sluice-{role}" for role in ("gateway", "prefill", "decode")}
    routes = f"apis/gateway.networking.k8s.io/v1/namespaces/{space}/httproutes"
    pools = f"apis/inference.networking.k8s.io/v1/namespaces/{space}/inferencepools"
    route, pool = api.call(f"{routes}/demo-sluice"), api.call(f"{pools}/demo-sluice")
    assert route["spec"]["rules"][0]["backendRefs"][0]["kind"] == "InferencePool" and pool["spec"]["endpointPickerRef"]["failureMode"] == "FailOpen"

    # It would have refused what is wrong.
    for path, one, change in ((routes, route, lambda spec: spec["rules"][0]["timeouts"].update(request="1s", backendRequest="2s")),
                              (routes, route, lambda spec: spec["rules"][0]["backendRefs"].__setitem__(0, {"name": "demo-sluice"})),  # a Service without a port
                              (pools, pool, lambda spec: spec["endpointPickerRef"].pop("port"))):
        wrong = {"apiVersion": one["apiVersion"], "kind": one["kind"], "metadata": {"name": "wrong"}, "spec": json.loads(json.dumps(one["spec"]))}
        change(wrong["spec"])
        status, told = api.ask(path, wrong)
        assert status == 422, told

    # Back to the Service alone, then gone.
    helm(api, space, "upgrade", "demo", chart.CHART, "--values", tmp_path / "values.json", "--set", "gateway.inferencePool.enabled=false")
    assert api.call(f"{routes}/demo-sluice")["spec"]["rules"][0]["backendRefs"][0] == {"group": "", "kind": "Service", "name": "demo-sluice", "port": 80, "weight": 1}
    assert api.ask(f"{pools}/demo-sluice")[0] == 404
    helm(api, space, "uninstall", "demo", "--wait", "--timeout", "120s")
    api.wait_left(space, clean)


def test_the_pods_of_a_release_run_as_processes_with_its_secrets_its_accounts_and_its_lease(api, tmp_path):
    space = "serving"
    api.make_namespace(space)
    api.put_secret(space, "sluice-key", {"cluster-key": os.urandom(16).hex().encode()})
    for name, files in pods.certificates(tmp_path / "certificates").items():
        api.put_secret(space, name, files, "kubernetes.io/tls")
    lease_ms = 4000
    values = merged(chart.example("cpu"), {
        "cluster": {"trustedNetwork": False, "certificates": {"enabled": True}}, "scheduler": {"replicas": 2},
        "config": {"scheduler": {"leader_lease_ms": lease_ms}, "gateway": {"place_wait_max_ms": 60000}, "worker": {"kv_transport": "tls"}},
        "ports": {"http": harness.free_port(), "control": harness.free_port(), "admin": harness.free_port()}})
    (tmp_path / "values.json").write_text(json.dumps(values))
    wait_until(lambda: ("configmaps", "kube-root-ca.crt") in api.everything(space), "the namespace is furnished", 60)
    clean = api.everything(space)
    helm(api, space, "install", "demo", chart.CHART, "--values", tmp_path / "values.json", "--wait", "--timeout", "120s")

    def lease(name="demo-sluice"):
        return api.call(f"apis/coordination.k8s.io/v1/namespaces/{space}/leases/{name}")

    assert not lease()["spec"].get("holderIdentity")
    kubelet = kube.Kubelet(api, space)
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
        leases = f"apis/coordination.k8s.io/v1/namespaces/{space}/leases"
        assert api.ask(f"{leases}/demo-sluice", token=token)[0] == 200
        other_lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "of-others"}}
        assert api.ask(leases, other_lease)[0] == 201
        asked = [(f"{leases}/of-others", None, None), (f"{leases}/of-others", other_lease, "PUT"), (leases, None, None), (f"{leases}/demo-sluice", None, "DELETE"),
                 (f"api/v1/namespaces/{space}/secrets", None, None), (f"api/v1/namespaces/{space}/pods", None, None)]
        assert [api.ask(path, body, method, token)[0] for path, body, method in asked] == [403] * len(asked)

        # The API server is away for longer than the lease: who leads stays, and serves.
        server = api.pid()
        harness.freeze(server)
        try:
            before = leader.metric("sluice_scheduler_lease_errors_total")
            wait_until(lambda: leader.metric("sluice_scheduler_lease_errors_total") >= before + 9, "looks of two leases have failed", 120)
            assert leader.leads() and not other.leads() and complete() == text
        finally:
            os.kill(server, signal.SIGCONT)
        beat = lease()["metadata"]["annotations"]["sluice.dev/beat"]
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
        helm(api, space, "upgrade", "demo", chart.CHART, "--values", tmp_path / "values.json", "--set", "gateway.podLabels.color=blue", "--wait", "--timeout", "120s")
        beat = lease()["metadata"]["annotations"]["sluice.dev/beat"]
        wait_until(lambda: lease()["metadata"]["annotations"]["sluice.dev/beat"] != beat, "it is renewed", 60)
        assert leader.leads() and lease()["spec"]["holderIdentity"].startswith(f"{leader.address}:")

        # Removed while its processes run: the Lease goes, too, and none of them makes it again.
        before = leader.metric("sluice_scheduler_lease_errors_total")
        helm(api, space, "uninstall", "demo", "--wait", "--timeout", "120s")
        wait_until(lambda: leader.metric("sluice_scheduler_lease_errors_total") >= before + 3, "it is no longer served", 60)
        api.wait_left(space, clean | {("leases", "of-others")})
