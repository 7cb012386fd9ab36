"""Two schedulers that agree by a Lease of Kubernetes on who leads: over HTTPS, with a server that keeps the Lease as an API server does."""
from __future__ import annotations

import http.server
import json
import os
import signal
import ssl
import subprocess
import threading

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
TOKEN = "token-of-the-service-account"


class ApiServer:
    """One Lease, and its versions."""

    def __init__(self, certificate, namespace="serving", name="sluice"):
        self.leases, self.name = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", name
        self.lock = threading.Lock()
        self.lease = None
        self.version = 0
        self.is_down = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
                status, told = outer.answer(self.command, self.path, self.headers.get("Authorization"), body)
                text = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method, path, authorization, body):
        with self.lock:
            if authorization != f"Bearer {TOKEN}":
                return 401, {"message": "Unauthorized"}
            if self.is_down:
                return 503, {"message": "the server is currently unable to handle the request"}
            is_there = self.lease is not None
            if (method, path) == ("GET", f"{self.leases}/{self.name}"):
                return (200, self.lease) if is_there else (404, {"message": f'leases.coordination.k8s.io "{self.name}" not found'})
            if (method, path) == ("POST", self.leases):
                if is_there:
                    return 409, {"reason": "AlreadyExists"}
            elif (method, path) == ("PUT", f"{self.leases}/{self.name}"):
                if not is_there or body["metadata"].get("resourceVersion") != self.lease["metadata"]["resourceVersion"]:
                    return (409 if is_there else 404), {"reason": "Conflict"}
            else:
                return 403, {"message": f"cannot {method} {path}"}
            self.version += 1
            self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
            return (201 if method == "POST" else 200), self.lease

    def holder(self):
        with self.lock:
            return (self.lease or {}).get("spec", {}).get("holderIdentity")

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def account(tmp_path):
    made = subprocess.run([harness.BINARY, "certs", "make", "--out", tmp_path / "certificates", "--role", "gateway/api", "--san", "IP:127.0.0.1"], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    (folder / "namespace").write_text("serving")
    (folder / "ca.crt").write_bytes((tmp_path / "certificates" / "authority" / "tls.crt").read_bytes())
    return folder


@pytest.fixture
def server(tmp_path, account):
    server = ApiServer(tmp_path / "certificates" / "gateway-api")
    yield server
    server.close()


def start(server, account, *settings):
    return LocalCluster(prefill=1, decode=1, schedulers=2, settings=["scheduler.leader_lease=kubernetes:sluice", f"scheduler.kubernetes_server={server.url}",
                                                                     f"scheduler.kubernetes_account_dir={account}", *settings])


def sample(cluster, pid, name):
    return sum(value for (found, _), value in harness.metrics(cluster.admin_port(pid)).items() if found == name)


def leads(cluster, pid):
    return sample(cluster, pid, "sluice_scheduler_leads") == 1


def complete(cluster):
    return harness.request(cluster.port, "POST", "/v1/completions", {"model": "stories260k", "prompt": "There was", "max_tokens": 4, "temperature": 1, "seed": 1}, seconds=120)


def leader_and_other(cluster, server):
    first, second = cluster.pids_of("scheduler")
    wait_until(lambda: leads(cluster, first) != leads(cluster, second), "one scheduler leads", 60)
    wait_until(lambda: server.lease["metadata"]["annotations"]["sluice.dev/workers"] == "2", "the Lease tells of both workers")
    return (first, second) if leads(cluster, first) else (second, first)


def test_a_killed_leader_is_followed_and_an_api_server_that_is_gone_changes_nothing(server, account):
    with start(server, account, "gateway.place_wait_max_ms=60000", "scheduler.leader_lease_ms=6000") as cluster:
        cluster.wait_ready()
        text = complete(cluster).json()["choices"][0]["text"]
        leader, other = leader_and_other(cluster, server)
        assert server.lease["spec"]["leaseDurationSeconds"] == 6 and server.lease["metadata"]["namespace"] == "serving"

        # Gone for longer than the lease: who leads stays, and serves.
        server.is_down = True
        before = sample(cluster, leader, "sluice_scheduler_lease_errors_total")
        wait_until(lambda: sample(cluster, leader, "sluice_scheduler_lease_errors_total") >= before + 9, "looks of two leases have failed", 60)
        assert leads(cluster, leader) and not leads(cluster, other)
        assert complete(cluster).json()["choices"][0]["text"] == text
        server.is_down = False
        beat = server.lease["metadata"]["annotations"]["sluice.dev/beat"]
        wait_until(lambda: server.lease["metadata"]["annotations"]["sluice.dev/beat"] != beat, "it renews again", 60)
        assert leads(cluster, leader) and sample(cluster, leader, "sluice_scheduler_terms_total") == 1

        holder = server.holder()
        os.kill(leader, signal.SIGKILL)
        assert complete(cluster).json()["choices"][0]["text"] == text  # waits in the gateway until somebody leads
        assert leads(cluster, other) and server.holder() not in (holder, "", None)
        assert server.lease["spec"]["leaseTransitions"] == 2

        # It ends in order: the Lease is free at once, as kubectl shows it.
        os.kill(other, signal.SIGTERM)
        wait_until(lambda: server.holder() == "", "the Lease is given back", 60)


def test_a_leader_that_stood_still_finds_another_one(server, account):
    with start(server, account, "gateway.place_wait_max_ms=60000", "scheduler.leader_lease_ms=4000") as cluster:
        cluster.wait_ready()
        leader, other = leader_and_other(cluster, server)
        harness.freeze(leader)
        assert complete(cluster).status == 200
        assert leads(cluster, other)
        os.kill(leader, signal.SIGCONT)
        wait_until(lambda: sample(cluster, leader, "sluice_scheduler_leads") == 0, "the one that stood still leads no more", 60)
        assert complete(cluster).status == 200 and leads(cluster, other)


def test_a_server_of_another_authority_or_an_account_without_rights_is_told_of(server, account, tmp_path):
    def scheduler(*settings):
        return harness.Process([harness.BINARY, "scheduler", "--listen", "127.0.0.1:0", "--set", "scheduler.leader_lease=kubernetes:sluice", "--set", f"scheduler.kubernetes_server={server.url}",
                                "--set", f"scheduler.kubernetes_account_dir={account}", *settings], {"SLUICE_CLUSTER_KEY": "00112233445566778899aabbccddeeff"})

    (account / "token").write_text("another")
    with scheduler() as process:
        wait_until(lambda: "answers 401: Unauthorized" in process.output() and "needs get, create and update of leases" in process.output(), "the refusal is told", 60)
    (account / "token").write_text(TOKEN)
    subprocess.run([harness.BINARY, "certs", "make", "--out", tmp_path / "others"], capture_output=True, timeout=60, check=True)
    (account / "ca.crt").write_bytes((tmp_path / "others" / "authority" / "tls.crt").read_bytes())
    with scheduler() as process:
        wait_until(lambda: f"no answer of {server.url}" in process.output() and "certificate" in process.output().lower(), "the certificate is told of", 60)
    assert server.lease is None
    (account / "token").unlink()
    with scheduler() as process:
        assert process.wait() == 1 and "has the pod a service account" in process.output()
