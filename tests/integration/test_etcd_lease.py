"""Two schedulers that agree by a key of etcd on who leads: with a server that speaks as etcd does, and with etcd itself where it is there ($SLUICE_ETCD, or on the path)."""
from __future__ import annotations

import base64
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading

import pytest

import harness
from harness import LocalCluster, wait_until
from test_standby_scheduler import OpenStreams, complete, leader_and_other, leads, retries, sample

pytestmark = pytest.mark.process
KEY = "sluice/leader"
ETCD = os.environ.get("SLUICE_ETCD") or shutil.which("etcd")


class ScriptedEtcd:
    """One key, and its revisions, as the JSON gateway tells them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.value, self.revision, self.changed = None, 1, 0
        self.is_down = self.loses_next_answer = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                status, told = outer.answer(self.path, body)
                if told is None:
                    self.close_connection = True
                    return
                text = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.flags = [f"scheduler.etcd_servers=http://127.0.0.1:{self.server.server_port}"]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, body):
        with self.lock:
            if self.is_down:
                return 503, {"error": "etcdserver: no leader", "message": "etcdserver: no leader", "code": 14}
            header = {"cluster_id": "1", "member_id": "1", "revision": str(self.revision), "raft_term": "2"}
            if path == "/v3/kv/range":
                assert base64.b64decode(body["key"]).decode() == KEY
                if self.value is None:
                    return 200, {"header": header}
                return 200, {"header": header, "count": "1", "kvs": [{"key": body["key"], "mod_revision": str(self.changed), "create_revision": "2", "version": "1", "value": self.value}]}
            assert path == "/v3/kv/txn", path
            compare, = body["compare"]
            assert (compare["target"], compare["result"], base64.b64decode(compare["key"]).decode()) == ("MOD", "EQUAL", KEY)
            if int(compare["mod_revision"]) != (0 if self.value is None else self.changed):
                return 200, {"header": header, "responses": []}
            put = body["success"][0]["request_put"]
            self.value = put["value"]
            self.revision += 1
            self.changed = self.revision
            if self.loses_next_answer:
                self.loses_next_answer = False
                return 200, None
            return 200, {"header": {**header, "revision": str(self.revision)}, "succeeded": True, "responses": [{"response_put": {"header": header}}]}

    def record(self):
        with self.lock:
            return json.loads(base64.b64decode(self.value)) if self.value else None

    def take_away(self):
        with self.lock:
            self.value = None

    def stop(self):
        self.is_down = True

    def go_on(self):
        self.is_down = False

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class RealEtcd:
    """With TLS, and who shows no certificate of its authority is refused."""

    def __init__(self, folder):
        made = subprocess.run([harness.BINARY, "certs", "make", "--out", folder / "certificates", "--role", "gateway/etcd,operator/schedulers", "--san", "IP:127.0.0.1"],
                              capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        own, client, self.authority = (folder / "certificates" / name for name in ("gateway-etcd", "operator-schedulers", "authority"))
        self.client = client
        self.url, peer = (f"{scheme}://127.0.0.1:{harness.free_port()}" for scheme in ("https", "http"))
        self.process = harness.Process([ETCD, "--data-dir", folder / "etcd", "--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
                                        "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--cert-file", own / "tls.crt", "--key-file", own / "tls.key",
                                        "--trusted-ca-file", self.authority / "tls.crt", "--client-cert-auth"])
        # The first of the members is not there: the next one is asked.
        self.flags = [f"scheduler.etcd_servers=https://127.0.0.1:1,{self.url}", f"scheduler.etcd_authority_file={self.authority / 'tls.crt'}",
                      f"scheduler.etcd_certificate_file={client / 'tls.crt'}", f"scheduler.etcd_certificate_key_file={client / 'tls.key'}"]
        wait_until(lambda: self.ask("range", {"key": self.key()}) is not None, f"etcd answers: {self.process.output()}", 60)

    @staticmethod
    def key():
        return base64.b64encode(KEY.encode()).decode()

    def ask(self, what, body):
        assert self.process.is_alive(), self.process.output()
        done = subprocess.run(["curl", "-sf", "--max-time", "10", "--cacert", self.authority / "tls.crt", "--cert", self.client / "tls.crt", "--key", self.client / "tls.key",
                               f"{self.url}/v3/kv/{what}", "-d", json.dumps(body)], capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def record(self):
        found = self.ask("range", {"key": self.key()})
        return json.loads(base64.b64decode(found["kvs"][0]["value"])) if found and found.get("kvs") else None

    def take_away(self):
        assert self.ask("deleterange", {"key": self.key()})

    def stop(self):
        harness.freeze(self.process.pid)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self):
        self.process.__exit__()


@pytest.fixture(params=["scripted", "etcd"])
def store(request, tmp_path):
    if request.param == "etcd" and not ETCD:
        pytest.skip("SKIPPED: no etcd here (SLUICE_ETCD=FILE, or on the path)")
    store = ScriptedEtcd() if request.param == "scripted" else RealEtcd(tmp_path)
    yield store
    store.close()


def start(store, model, lease_ms):
    return LocalCluster(prefill=1, decode=1, model=model, schedulers=2, settings=["gateway.place_wait_max_ms=60000", f"scheduler.leader_lease=etcd:{KEY}", *store.flags,
                                                                               f"scheduler.leader_lease_ms={lease_ms}"])


def as_the_key_says(cluster, store):
    """The schedulers, whom the key names first; None unless it leads alone."""
    held = store.record()["holder"]
    first, second = sorted(cluster.pids_of("scheduler"), key=lambda pid: held not in pathlib.Path(f"/proc/{pid}/cmdline").read_text())
    return (first, second) if leads(cluster, first) and not leads(cluster, second) else None


@pytest.mark.timeout(400)
def test_schedulers_of_one_key(store, slow_model):
    with start(store, slow_model, 4000) as cluster:
        try:
            cluster.wait_ready()
            expected, text = OpenStreams(cluster).texts(), complete(cluster).json()["choices"][0]["text"]
            leader, other = leader_and_other(cluster)
            wait_until(lambda: store.record()["workers"] == 2, "the key tells of both workers", 60)
            first = store.record()
            assert first["serial"] == 1 and first["holder"] and not first["over"]

            # etcd is away for longer than the lease: who leads stays, and serves.
            streams = OpenStreams(cluster)
            store.stop()
            before = sample(cluster, leader, "sluice_scheduler_lease_errors_total")
            wait_until(lambda: sample(cluster, leader, "sluice_scheduler_lease_errors_total") >= before + 9, "looks of two leases have failed", 120)
            assert leads(cluster, leader) and not leads(cluster, other)
            assert complete(cluster).json()["choices"][0]["text"] == text
            store.go_on()
            wait_until(lambda: (store.record() or first)["beat"] > first["beat"], "it renews again", 60)
            assert leads(cluster, leader) and sample(cluster, leader, "sluice_scheduler_terms_total") == 1

            # Somebody takes the key away: whoever looks first makes it again, and one of them leads.
            store.take_away()
            wait_until(lambda: store.record(), "the key is there again", 60)
            assert complete(cluster).json()["choices"][0]["text"] == text
            leader, other = wait_until(lambda: as_the_key_says(cluster, store), "the one that the key names leads, and no other", 60)
            wait_until(lambda: store.record()["workers"] == 2, "the key tells of both workers", 60)
            first, terms = store.record(), sample(cluster, leader, "sluice_scheduler_terms_total")

            # Standing still past the lease, and woken: what it still has to say counts no more.
            harness.freeze(leader)
            assert complete(cluster).json()["choices"][0]["text"] == text
            assert leads(cluster, other)
            os.kill(leader, signal.SIGCONT)
            wait_until(lambda: not leads(cluster, leader), "the one that stood still leads no more", 60)
            assert [complete(cluster, seed).status for seed in range(3)] == [200] * 3
            assert leads(cluster, other) and sample(cluster, leader, "sluice_scheduler_terms_total") == terms
            second = store.record()
            assert second["serial"] == first["serial"] + 1 and second["epoch"] > first["epoch"] and second["holder"] != first["holder"]

            # Killed: the other one leads when its lease is over.
            os.kill(other, signal.SIGKILL)
            assert complete(cluster).json()["choices"][0]["text"] == text  # waits in the gateway until somebody leads
            assert leads(cluster, leader) and store.record()["serial"] == second["serial"] + 1
            assert streams.texts() == expected and retries(cluster) == 0
            os.kill(leader, signal.SIGTERM)
            wait_until(lambda: store.record()["over"], "the key is given back", 60)
        finally:
            print(cluster.logs())  # shown when the test fails


def scheduler(*settings):
    return harness.Process([harness.BINARY, "scheduler", "--listen", "127.0.0.1:0", *(word for setting in settings for word in ("--set", setting))],
                           {"SLUICE_CLUSTER_KEY": "00112233445566778899aabbccddeeff"})


def test_a_renewal_whose_answer_is_lost_ends_no_term():
    store = ScriptedEtcd()
    try:
        with scheduler(f"scheduler.leader_lease=etcd:{KEY}", *store.flags, "scheduler.leader_lease_ms=2000") as process:
            wait_until(lambda: store.record(), "it leads", 60)
            for _ in range(3):
                store.loses_next_answer = True
                beat = store.record()["beat"]
                wait_until(lambda beat=beat: store.record()["beat"] >= beat + 3 and not store.loses_next_answer, "it renews on", 60)
            assert store.record()["serial"] == 1 and "leads no more" not in process.output(), process.output()
    finally:
        store.close()


def test_what_cannot_be_used_is_said(tmp_path):
    store = ScriptedEtcd()
    store.value = base64.b64encode(b"somebody else's").decode()
    try:
        with scheduler(f"scheduler.leader_lease=etcd:{KEY}", *store.flags) as process:
            wait_until(lambda: "holds no leader of Sluice's schedulers" in process.output(), "the key of others is told of", 60)
        assert base64.b64decode(store.value) == b"somebody else's"
    finally:
        store.close()
    (tmp_path / "here").touch()
    for settings, words in ((["scheduler.leader_lease=etcd:a"], "scheduler.etcd_servers has to say where etcd is"),
                            (["scheduler.leader_lease=etcd:a", "scheduler.etcd_servers=http://10.0.0.1:2379"], "https://HOST:PORT"),
                            (["scheduler.leader_lease=etcd:a", "scheduler.etcd_servers=http://127.0.0.1:1,"], "got ''"),
                            (["scheduler.leader_lease=etcd:a", "scheduler.etcd_servers=http://127.0.0.1:1", f"scheduler.etcd_certificate_file={tmp_path / 'here'}"], "go together"),
                            (["scheduler.leader_lease=etcd:a", "scheduler.etcd_servers=http://127.0.0.1:1", f"scheduler.etcd_authority_file={tmp_path / 'gone'}"], "cannot be read")):
        with scheduler(*settings) as process:
            assert process.wait() != 0 and words in process.output() and "scheduler.leader_lease" in process.output(), process.output()
