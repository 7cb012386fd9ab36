"""Fixtures of the chart's tests. They run with the tools of scripts/chart-tools (make chart-test)."""
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "integration"), str(ROOT / "tests" / "charts")]


def pytest_terminal_summary(terminalreporter):
    """The line that .ci/run adds up."""
    count = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    terminalreporter.write_line("")
    terminalreporter.write_line(f"{count['passed']} passed, {count['failed'] + count['error']} failed, {count['skipped']} skipped")


def pytest_collection_modifyitems(items):
    import chart

    if not (chart.TOOLS / "bin" / "helm").exists():
        for item in items:
            item.add_marker(pytest.mark.usefixtures("missing_tools"))


@pytest.fixture
def missing_tools():
    pytest.fail("helm is missing: make chart-test installs it")


@pytest.fixture(scope="session")
def kubeconfig():
    """Of a control plane that runs while tests that want it do (scripts/kube-cluster)."""
    script = ROOT / "scripts" / "kube-cluster"
    root = os.environ.get("SLUICE_KUBE") or str(ROOT / "build" / "kube")
    if not os.path.exists(f"{root}/bin/kwok"):
        subprocess.run([str(script), "build"], check=True, timeout=3600)
    # Its children live on behind it: they must not hold a pipe of ours open.
    with open(f"{root}/up.log", "w+") as log:
        subprocess.run([str(script), "up"], check=True, timeout=300, stdout=log, stderr=subprocess.STDOUT)
        log.seek(0)
        path = log.read().splitlines()[-1]
    yield path
    subprocess.run([str(script), "down"], check=True, timeout=60)
