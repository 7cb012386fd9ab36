"""Fixtures of the chart's tests. They run with the tools of scripts/chart-tools (make chart-test)."""
import pathlib
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
