"""A cluster whose processes have certificates of their roles: made, replaced under load, and refused where they do not do."""
from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
ROLES = ("gateway", "scheduler", "prefill", "decode", "mixed", "encode", "operator")
RUNNING = ("gateway", "scheduler", "prefill", "decode")


def certs(*arguments):
    return subprocess.run([harness.BINARY, "certs", "make", *map(str, arguments)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def files_of(folder):
    return ["--set", f"cluster.certificate_file={folder}/tls.crt", "--set", f"cluster.certificate_key_file={folder}/tls.key", "--set", f"cluster.authority_file={folder}/ca.crt"]


@pytest.fixture
def folder(tmp_path):
    made = certs("--out", tmp_path / "certificates")
    assert made.returncode == 0, made.stderr
    return tmp_path / "certificates"


def test_a_first_clusters_certificates_are_made_once(tmp_path):
    folder = tmp_path / "new"
    made = certs("--out", folder, "--cluster", "prod", "--san", "DNS:localhost")
    assert made.returncode == 0, made.stderr
    assert re.findall(r"sluice://prod/(\w+)/\1$", made.stdout, re.MULTILINE) == list(ROLES)
    assert "keep it where no process of the cluster can read it" in made.stderr
    paths = [path for path in folder.rglob("*")]
    assert {path.relative_to(folder).as_posix() for path in paths if path.is_file()} == \
        {f"{role}/{name}" for role in ROLES for name in ("tls.crt", "tls.key", "ca.crt")} | {"authority/tls.crt", "authority/tls.key"}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600} and {path.stat().st_mode & 0o777 for path in [folder, *paths] if path.is_dir()} == {0o700}
    # As others read it.
    text = subprocess.run(["openssl", "x509", "-in", folder / "decode" / "tls.crt", "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert "URI:sluice://prod/decode/decode, DNS:localhost" in text and "CA:FALSE" in text
    verified = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", folder / "authority" / "tls.crt", folder / "decode" / "tls.crt"], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr

    before = {path: path.read_bytes() for path in paths if path.is_file()}
    again = certs("--out", folder)
    assert again.returncode == 2 and "nothing is overwritten" in again.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    for flags, words in ((["--role", "king"], "--role king"), (["--role", "decode,decode"], "given twice"), (["--cluster", "a b"], "--cluster a b"),
                         (["--days", 20, "--authority-days", 10], "no certificate outlives its authority"), (["--authority", tmp_path / "none"], "cannot be read"),
                         (["--san", "URI:sluice://prod/scheduler/x"], "DNS:HOST or IP:ADDRESS")):
        refused = certs("--out", tmp_path / "other", *flags)
        assert refused.returncode == 2 and words in refused.stderr, (flags, refused.stderr)
        assert not (tmp_path / "other").exists()


def test_a_process_starts_with_a_certificate_of_its_own_role_alone(folder, tmp_path):
    def start(*arguments):
        return subprocess.run([harness.BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              env={**os.environ, "SLUICE_CLUSTER_KEY": "00112233445566778899aabbccddeeff"})

    wrong = start("scheduler", "--listen", "127.0.0.1:0", *files_of(folder / "gateway"))
    assert wrong.returncode == 2 and "is of sluice://sluice/gateway/gateway, and this process is a scheduler" in wrong.stderr
    os.chmod(folder / "scheduler" / "tls.key", 0o644)
    shown = start("scheduler", "--listen", "127.0.0.1:0", *files_of(folder / "scheduler"))
    assert shown.returncode == 2 and "chmod 600" in shown.stderr
    os.chmod(folder / "scheduler" / "tls.key", 0o600)
    two = start("scheduler", "--listen", "127.0.0.1:0", *files_of(folder / "scheduler")[:4])
    assert two.returncode == 2 and "belong together" in two.stderr
    certs("--out", tmp_path / "others")
    shutil.copy(tmp_path / "others" / "scheduler" / "ca.crt", folder / "scheduler" / "ca.crt")
    other = start("scheduler", "--listen", "127.0.0.1:0", *files_of(folder / "scheduler"))
    assert other.returncode == 2 and "is of another authority" in other.stderr
    whole = start("serve", "--model", harness.MODEL, "--port", "0", *files_of(folder / "gateway"))
    assert whole.returncode == 2 and "serve is one process" in whole.stderr


def replace(folder, role, name, text):
    """As those do that renew certificates: a new file in the place of the old one."""
    fresh = folder / role / (name + ".new")
    fresh.write_bytes(text)
    os.chmod(fresh, 0o600)
    os.rename(fresh, folder / role / name)


def changes(cluster):
    """How often each process has taken new certificates."""
    ports = [cluster.port if role == "gateway" else cluster.admin_port(pid) for role, pid in cluster.pids()]
    return [sum(value for (name, _), value in harness.metrics(port).items() if name == "sluice_certificate_changes_total") for port in ports]


def complete(cluster, tokens=8, seed=1):
    return harness.request(cluster.port, "POST", "/v1/completions", {"model": "stories260k", "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 1, "seed": seed}, seconds=120)


def drain(cluster, *flags):
    scheduler = re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]
    worker = re.search(r"worker ([0-9a-f]{16}) incarnation", cluster.logs())[1]
    return subprocess.run([harness.BINARY, "drain", "--worker", worker, "--scheduler", scheduler, *map(str, flags)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, env={**os.environ, "SLUICE_CLUSTER_KEY": cluster.key})


def test_certificates_and_their_authority_are_replaced_under_load(folder, tmp_path):
    with LocalCluster(prefill=1, decode=1, certificates=folder, settings=["worker.kv_transport=tls", "cluster.certificates_look_ms=50"]) as cluster:
        cluster.wait_ready()
        text = complete(cluster).json()["choices"][0]["text"]
        assert "KV goes over TLS" in cluster.logs()
        told = []
        is_over = threading.Event()

        def ask():
            while not is_over.is_set():
                answer = complete(cluster)
                told.append((answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.body.decode()))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        stream = harness.Stream(cluster.port, "/v1/completions", {"model": "stories260k", "prompt": "A long one", "max_tokens": 400, "temperature": 1, "seed": 3, "ignore_eos": True}, seconds=300)
        chunks = stream.chunks()
        first = next(chunks)
        for thread in threads:
            thread.start()
        try:
            assert certs("--out", tmp_path / "renewed", "--authority", folder / "authority").returncode == 0
            assert certs("--out", tmp_path / "successor").returncode == 0
            old, new = (folder / "authority" / "tls.crt").read_bytes(), (tmp_path / "successor" / "authority" / "tls.crt").read_bytes()
            taken = 0

            def all_have_taken(one_file_more):
                nonlocal taken
                taken += one_file_more
                before = len(told)
                wait_until(lambda: min(changes(cluster)) >= taken, "all processes have taken what is new", 120)
                wait_until(lambda: len(told) >= before + 6, "requests are answered with it", 120)

            # A renewal: first the certificate, whose key is not there yet, then the key.
            for name in ("tls.crt", "tls.key"):
                for role in RUNNING:
                    replace(folder, role, name, (tmp_path / "renewed" / role / name).read_bytes())
                if name == "tls.crt":
                    wait_until(lambda: cluster.logs().count("the certificate that was there before stays in use") >= len(RUNNING), "all say what is missing", 120)
            all_have_taken(1)
            # A new authority: both are trusted, then all have certificates of the new one, then the old one is not trusted any more.
            for role in RUNNING:
                replace(folder, role, "ca.crt", old + new)
            all_have_taken(1)
            for role in RUNNING:
                for name in ("tls.crt", "tls.key"):
                    replace(folder, role, name, (tmp_path / "successor" / role / name).read_bytes())
            all_have_taken(1)
            for role in RUNNING:
                replace(folder, role, "ca.crt", new)
            all_have_taken(1)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert set(told) == {(200, text)}
        pieces = [first, *chunks]
        stream.close()
        assert harness.text_of(pieces) and pieces[-1]["choices"][0]["finish_reason"] == "length"
        assert sum(value for (name, _), value in harness.metrics(cluster.port).items() if name == "sluice_gateway_retries_total") == 0

        # Whoever comes now is known by the new authority; who has a certificate of the old one is told.
        worker = [harness.BINARY, "decode", "--model", harness.MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--scheduler",
                  re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1], "--set", "worker.kv_transport=tls"]
        key = {"SLUICE_CLUSTER_KEY": cluster.key}
        with harness.Process([*worker, *files_of(tmp_path / "successor" / "decode")], key):
            wait_until(lambda: len(set(re.findall(r"worker ([0-9a-f]{16}) incarnation", cluster.logs()))) == 3, "a worker with a new certificate registers", 120)
        with harness.Process([*worker, *files_of(tmp_path / "renewed" / "decode")], key) as late:
            wait_until(lambda: "is not spoken to" in late.output() and "is of another authority" in late.output(), "a worker with an old one does not speak to the scheduler", 120)
        both = tmp_path / "renewed" / "decode" / "ca.crt"
        both.write_bytes(old + new)
        with harness.Process([*worker, *files_of(both.parent)], key) as late:
            # It trusts the scheduler, but not the other way round: both ends say so.
            wait_until(lambda: "is of another authority" in late.output(), "the worker is told", 120)
            wait_until(lambda: "is not served: the certificate of" in cluster.logs(), "the scheduler says so, too", 120)
        assert complete(cluster).json()["choices"][0]["text"] == text

        # Nobody but an operator drains, and nobody without a certificate is listened to, on loopback too.
        assert "UNAVAILABLE" in drain(cluster).stderr.upper() or drain(cluster).returncode != 0
        decode = tmp_path / "successor" / "decode"
        wrong = drain(cluster, "--certificate-file", decode / "tls.crt", "--certificate-key-file", decode / "tls.key", "--authority-file", decode / "ca.crt")
        assert wrong.returncode == 2 and "this process is a operator" in wrong.stderr
        operator = tmp_path / "successor" / "operator"
        drained = drain(cluster, "--certificate-file", operator / "tls.crt", "--certificate-key-file", operator / "tls.key", "--authority-file", operator / "ca.crt")
        assert drained.returncode == 0, drained.stderr


def watchers(pid):
    """Threads of gRPC that read the file with a process's certificate, again and again."""
    return [name for task in pathlib.Path(f"/proc/{pid}/task").iterdir() if (name := (task / "comm").read_text().strip()).startswith("FileWatcher")]


def test_settings_that_are_read_again_leave_no_watcher_behind(folder):
    """A watcher of a file that is closed reads whatever its descriptor becomes next."""
    with LocalCluster(1, 1, certificates=folder) as cluster:
        cluster.wait_ready()
        for role, pid in cluster.pids():
            port = cluster.port if role == "gateway" else cluster.admin_port(pid)
            assert len(watchers(pid)) == 1, role
            for times in range(1, 4):
                os.kill(pid, signal.SIGHUP)
                wait_until(lambda port=port, times=times: harness.metrics(port)[("sluice_config_reloads_total", frozenset({("outcome", "applied")}))] == times, f"{role} has read its settings", 60)
            assert len(watchers(pid)) == 1, role
        assert complete(cluster).status == 200
