"""What pages tell an operator to type at a cluster, typed at a real control plane."""
import os
import re
import shlex
import shutil
import subprocess

import pytest

import chart
import harness
import kube
from harness import wait_until
from test_page_commands import commands

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")]
CHART_PAGE = "helm/sluice/README.md"


@pytest.fixture
def api(kubeconfig):
    return kube.Api(kubeconfig)


@pytest.fixture
def shell(api, tmp_path):
    """A folder like a checkout, with the programs on the path, and the cluster as kubectl's; gives what was told."""
    for name in ("helm", "scripts", "docs"):
        (tmp_path / name).symlink_to(chart.ROOT / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, program in (("helm", chart.HELM), ("sluice", harness.BINARY)):
        (programs / name).symlink_to(program)

    def run(command, check=True):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
                              env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": api.kubeconfig, "HOME": str(tmp_path)})
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return run


def test_what_the_chart_s_page_says_installs_it(api, shell):
    """From the Secret to a release whose pods run, in the order of the page; `helm test`'s pod is a process in test_pods_run.py, since no kubelet would end it here."""
    shell("kubectl create namespace page")
    shell("cp $KUBECONFIG own && kubectl --kubeconfig own config set-context --current --namespace page")
    api.take_custom_kinds()
    shell("sluice certs make --out certificates")
    wait_until(lambda: ("serviceaccounts", "default") in api.everything("page"), "the namespace is furnished", 60)
    told = commands(CHART_PAGE)
    typed = [one for one in told if one.startswith(("kubectl", "helm install", "sluice", "for "))]
    assert len(typed) >= 5 and set(told) - set(typed) == {"helm test sluice"}
    for command in typed:
        command = command.replace("REGISTRY", "registry.example.org")
        if command.startswith("helm install"):
            command += " --timeout 120s"
        shell(f"export KUBECONFIG=$PWD/own; {command}")
    pods = api.call("api/v1/namespaces/page/pods?labelSelector=app.kubernetes.io/instance%3Dsluice")["items"]
    assert {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in pods} == {"gateway", "scheduler", "prefill", "decode"}
    secrets = {name for kind, name in api.everything("page") if kind == "secrets"}
    assert {"sluice-key", "sluice-keys", *(f"demo-sluice-{role}" for role in ("gateway", "scheduler", "prefill", "decode"))} <= secrets
    shell("KUBECONFIG=$PWD/own helm uninstall sluice --wait --timeout 120s")


def test_what_the_pages_ask_of_kubectl_is_answered(api, shell):
    """With two schedulers and every role, so that each selector finds pods. There are no kubelets, so no logs: those commands are typed where nobody runs."""
    for space in ("asked", "empty"):
        shell(f"kubectl create namespace {space}")
    api.put_secret("asked", "sluice-key", {"cluster-key": b"0" * 32})
    wait_until(lambda: ("serviceaccounts", "default") in api.everything("asked"), "the namespace is furnished", 60)
    shell("helm install demo helm/sluice -f helm/sluice/examples/cpu.yaml --set image.repository=registry.example.org/sluice --namespace asked --wait --timeout 120s")
    typed = [one for path in sorted((chart.ROOT / "docs" / "runbooks").glob("*.md")) for one in commands(path.relative_to(chart.ROOT)) if one.startswith("kubectl")]
    typed += re.findall(r"`(kubectl [^`]*\bNS\b[^`]*)`", "\n".join(path.read_text() for path in (chart.ROOT / "docs" / "runbooks").glob("*.md")))
    assert len(typed) >= 6
    for command in typed:
        command = command.replace("NS", "asked").replace("RELEASE", "demo").replace("certificates,secrets", "secrets")  # cert-manager is not there
        command = command.replace("NAME", "demo-sluice").replace("IMAGE", "registry.example.org/sluice:0.1.0")
        command = command.split(" #")[0].strip() if " run " in command else command.split(" #")[0].split(" | ")[0].strip()
        if " exec " in command:  # what is asked inside of it: test_pods_run.py
            words = shlex.split(command)
            assert "deployment.apps/demo-sluice-gateway" in shell(f"kubectl -n asked get {words[words.index('exec') + 1]} -o name"), command
            continue
        if " run " in command:  # nobody would start the pod; the API server takes it, and it asks every process
            shell("kubectl create namespace monitoring")
            wait_until(lambda: ("serviceaccounts", "default") in api.everything("monitoring"), "the namespace is furnished", 60)
            told = shell(command.replace("--rm -i", "--dry-run=server -o yaml"))
            addresses = shell("kubectl -n asked get pods -o jsonpath='{.items[*].status.podIP}' -l 'app.kubernetes.io/component in (scheduler,prefill,decode)'").split()
            assert len(addresses) == 3 and all(f"http://{address}:9001" in told for address in addresses) and "http://demo-sluice.asked," in told, told
            assert not any(line.rstrip(" \"'").endswith(",") for line in told.splitlines()), told
            continue
        if "delete pod" in command:
            victim = shell("kubectl -n asked get pods -l app.kubernetes.io/component=decode -o name").strip().removeprefix("pod/")
            assert f'pod "{victim}" deleted' in shell(command.replace("POD", victim))
            continue
        words = shlex.split(command)
        if "-l" in words:
            selector = words[words.index("-l") + 1]
            assert "demo-sluice" in shell(f"kubectl -n asked get pods -l {selector}"), command
        if "logs" in words:
            assert "No resources found" in shell(command.replace("asked", "empty"))
        else:
            told = shell(command)
            assert "demo" in told or "sluice-key" in told or "No resources found" in told, f"{command}\n{told}"
    shell("helm uninstall demo --namespace asked --wait --timeout 120s")
