"""Two schedulers as processes that share a Lease on a real API server (scripts/kube-cluster): who leads, when one stands still, when it dies, and when the
API server does. Once by the token of the cluster's administrator, who makes the Lease, once by an account that has the chart's Role and no more."""
import os
import signal
import time

import pytest

import chart
import harness
import kube
from harness import wait_until
from test_standby_scheduler import OpenStreams, complete, leader_and_other, leads, retries, sample, start

pytestmark = pytest.mark.nightly
NAME, LEASE_MS = "demo-sluice", 4000


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    return harness.make_slow_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def api(kubeconfig):
    api = kube.Api(kubeconfig)
    yield api
    if not api.is_up():
        api.start()


def account(api, space, who, folder):
    """The folder that a pod would have of its service account."""
    token = api.token
    if who == "role":
        rendered = chart.objects(chart.merged(chart.LEAST, {"scheduler": {"replicas": 2}}), namespace=space)
        for kind, path in (("ServiceAccount", "api/v1"), ("Role", "apis/rbac.authorization.k8s.io/v1"), ("RoleBinding", "apis/rbac.authorization.k8s.io/v1")):
            api.call(f"{path}/namespaces/{space}/{kind.lower()}s", chart.of_kind(rendered, kind)[f"{NAME}-scheduler"])
        token = api.token_of(space, f"{NAME}-scheduler")
    folder.mkdir()
    # By whom the server is known, of the server itself: who copies it into namespaces may take minutes to find a server that was away.
    for name, text in (("token", token.encode()), ("namespace", space.encode()), ("ca.crt", (api.state / "certs" / "apiserver.crt").read_bytes())):
        (folder / name).write_bytes(text)
    return folder


@pytest.mark.parametrize("who", ["admin", "role"])
def test_schedulers_of_one_lease(api, tmp_path, slow_model, who):
    space = f"lease-{who}"
    api.make_namespace(space)
    path = f"apis/coordination.k8s.io/v1/namespaces/{space}/leases"

    def lease():
        return api.call(f"{path}/{NAME}")

    with start(slow_model, f"scheduler.leader_lease=kubernetes:{NAME}", f"scheduler.kubernetes_server={api.server}",
               f"scheduler.kubernetes_account_dir={account(api, space, who, tmp_path / 'account')}", f"scheduler.leader_lease_ms={LEASE_MS}") as cluster:
        cluster.wait_ready()
        try:
            leader, other = leader_and_other(cluster)
            expected, text = OpenStreams(cluster).texts(), complete(cluster).json()["choices"][0]["text"]
            first = lease()["spec"]
            assert first["leaseDurationSeconds"] == LEASE_MS // 1000 and first["leaseTransitions"] == 1 and first["acquireTime"] <= first["renewTime"]

            # The leader stands still past its lease: the other one begins, and what the first still has to say counts no more.
            streams = OpenStreams(cluster)
            harness.freeze(leader)
            stood_at = time.monotonic()
            assert complete(cluster).json()["choices"][0]["text"] == text  # waits in the gateway until somebody leads
            print(f"{who}: placed again {time.monotonic() - stood_at:.2f} s after the leader stood still, with a lease of {LEASE_MS / 1000} s")
            assert leads(cluster, other)
            os.kill(leader, signal.SIGCONT)
            wait_until(lambda: not leads(cluster, leader), "the one that stood still leads no more", 60)
            assert [complete(cluster, seed).status for seed in range(5)] == [200] * 5
            assert leads(cluster, other) and sample(cluster, leader, "sluice_scheduler_terms_total") == 1
            second = lease()["spec"]
            assert second["holderIdentity"] not in ("", first["holderIdentity"]) and second["leaseTransitions"] == 2
            assert streams.texts() == expected and retries(cluster) == 0
            leader, other = other, leader

            # The API server dies, for longer than the lease: who leads stays, who is served stays, nobody else begins.
            streams = OpenStreams(cluster)
            api.kill()
            before = sample(cluster, leader, "sluice_scheduler_lease_errors_total")
            wait_until(lambda: sample(cluster, leader, "sluice_scheduler_lease_errors_total") >= before + 9, "looks of two leases have failed", 120)
            assert leads(cluster, leader) and not leads(cluster, other)
            assert [complete(cluster, seed).status for seed in range(5)] == [200] * 5

            # And the leader with it: nobody leads until it is back, and streams run on.
            os.kill(leader, signal.SIGKILL)
            before = sample(cluster, other, "sluice_scheduler_lease_errors_total")
            wait_until(lambda: sample(cluster, other, "sluice_scheduler_lease_errors_total") >= before + 17, "looks of two leases have failed", 120)
            assert not leads(cluster, other)
            assert streams.texts() == expected and retries(cluster) == 0
            api.start()
            back_at = time.monotonic()
            assert complete(cluster).json()["choices"][0]["text"] == text
            print(f"{who}: placed {time.monotonic() - back_at:.2f} s after the API server was back")
            third = lease()["spec"]
            assert leads(cluster, other) and third["holderIdentity"] == first["holderIdentity"] and third["leaseTransitions"] == 3

            # In order: the Lease is free at once, as kubectl shows it.
            os.kill(other, signal.SIGTERM)
            wait_until(lambda: not lease()["spec"].get("holderIdentity"), "the Lease is given back", 60)
        finally:
            print(cluster.logs())  # shown when the test fails


def test_without_the_role_it_is_told_what_is_missing(api, tmp_path):
    space = "lease-none"
    api.make_namespace(space)
    api.call(f"api/v1/namespaces/{space}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    folder = account(api, space, "admin", tmp_path / "account")
    (folder / "token").write_text(api.token_of(space, "nobody"))

    def told(words):
        with harness.Process([harness.BINARY, "scheduler", "--listen", "127.0.0.1:0", "--set", f"scheduler.leader_lease=kubernetes:{NAME}", "--set", f"scheduler.kubernetes_server={api.server}",
                              "--set", f"scheduler.kubernetes_account_dir={folder}"], {"SLUICE_CLUSTER_KEY": "00112233445566778899aabbccddeeff"}) as process:
            wait_until(lambda: all(word in process.output() for word in words), f"{words} are told", 60)

    told(["answers 403", 'cannot get resource "leases"', "needs get, create and update of leases"])
    (folder / "token").write_text("no-token")
    told(["answers 401"])
    (folder / "ca.crt").write_bytes((api.state / "sa.crt").read_bytes())  # another authority
    told(["no answer of", "certificate"])
