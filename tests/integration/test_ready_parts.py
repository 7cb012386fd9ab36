"""What a process lacks before it is ready: told to operators; whoever has no key learns whether it is ready, and nothing else."""
from __future__ import annotations

import re
import subprocess

import pytest

import harness
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process


def ask(port, path, key=None):
    answer = harness.request(port, "GET", path, headers={"Authorization": f"Bearer {key}"} if key else None)
    return answer.status, answer.body.decode()


def test_operators_are_told_and_others_are_not(tmp_path):
    def add(*flags):
        return subprocess.run([harness.BINARY, "keys", "add", "--file", tmp_path / "keys.json", *flags], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    user, operator = add("--name", "user"), add("--name", "operator", "--scopes", "admin")
    settings = [f"gateway.keys_file={tmp_path / 'keys.json'}", f"admin.keys_file={tmp_path / 'keys.json'}"]
    with LocalCluster(prefill=1, decode=1, settings=settings) as cluster:
        cluster.wait_ready()
        scheduler = re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]
        worker = rf"\[\+\]model: .+\n\[\+\]requests: taken\n\[\+\]scheduler: knows it, one of {re.escape(scheduler)}\nready\n"
        expected = {"scheduler": r"\[\+\]requests: .+\n\[\+\]lease: this scheduler is alone\nready\n", "prefill": worker, "decode": worker,
                    "gateway": rf"\[\+\]requests: taken\n\[\+\]model {harness.MODEL_ID}: its workers are there\nready\n"}
        ports = {role: cluster.port if role == "gateway" else cluster.admin_port(pid) for role, pid in cluster.pids()}
        for role, port in ports.items():
            status, text = ask(port, "/ready?verbose", operator)
            assert status == 200 and re.fullmatch(expected[role], text), (role, text)
            for key in (None, "sk-sluice-nobody", user):
                assert ask(port, "/ready?verbose", key) == ask(port, "/ready", key), role
                assert scheduler not in ask(port, "/ready?verbose", key)[1]
            assert harness.request(port, "HEAD", "/ready?verbose").status == 200


def test_a_worker_that_no_scheduler_knows_says_so():
    port = harness.free_port()
    nobody = f"127.0.0.1:{harness.free_port()}"
    with harness.Process([harness.BINARY, "mixed", "--model", harness.MODEL, "--scheduler", nobody, "--listen", "127.0.0.1:0", "--threads", "1", "--admin-port", str(port)],
                         {"SLUICE_CLUSTER_KEY": "00112233445566778899aabbccddeeff"}) as worker:

        def told():
            assert worker.is_alive(), worker.output()
            try:
                status, text = ask(port, "/ready?verbose")
            except OSError:
                return False
            assert status == 503 and text.endswith("not ready\n"), text  # whatever it does at the time
            return text if "[+]model" in text else False

        text = wait_until(told, "its model is there", 120)
        assert text.splitlines()[1:] == ["[+]requests: taken", f"[-]scheduler: none has taken it in of {nobody}", "not ready"]
        assert ask(port, "/ready") == (503, "not ready\n") and ask(port, "/live") == (200, "ok\n")
