"""What pages tell an operator to type, and to set, is there. (Whole commands are run by tests/integration/test_page_commands.py.)"""
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import chart
import harness

PAGES = [*sorted((chart.ROOT / "docs" / "runbooks").glob("*.md")), chart.ROOT / "docs" / "monitoring.md", chart.CHART / "README.md", chart.ROOT / "helm" / "README.md",
         chart.ROOT / "configs" / "systemd" / "README.md"]
ALL = sorted({*PAGES, *(chart.ROOT / "docs").glob("*.md"), chart.ROOT / "README.md", chart.ROOT / "SECURITY.md", chart.ROOT / "CONTRIBUTING.md"})
MISSING = object()
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(chart.ROOT)))
every_page_of_all = pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(chart.ROOT)))


@every_page_of_all
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@every_page_of_all
def test_commands_are_ones_that_the_binary_knows(path):
    for words in re.findall(r"\bsluice ((?:[a-z][a-z-]* ){1,2}--[a-z-]+[^`\n]*)", path.read_text()):
        command = re.match(r"(?:[a-z][a-z-]* )+", words)[0].split()
        usage = subprocess.run([str(harness.BINARY), *command, "--help"], capture_output=True, text=True, timeout=60)
        assert usage.returncode == 0, words
        for flag in re.findall(r"--[a-z-]+", words.split(" (")[0]):
            assert re.search(rf"{flag}\b", usage.stdout), (words, flag)


@every_page
def test_pods_are_asked_for_by_labels_that_they_have(path):
    components = set(chart.pods(chart.objects(chart.merged(chart.LEAST, {"mixed": {"replicas": 1}}))))
    assert set(re.findall(r"app\.kubernetes\.io/component=(\w+)", path.read_text())) <= components


@every_page
def test_values_and_settings_that_are_named_exist(path):
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    printed = subprocess.run([str(harness.BINARY), "config", "print"], capture_output=True, text=True, check=True, timeout=60).stdout
    settings = set(re.findall(r"^([a-z_.]+):", printed, re.MULTILINE))
    assert len(settings) > 50
    roles = ("gateway", "scheduler", "prefill", "decode", "mixed", "encode")
    for name in re.findall(r"`((?:[A-Za-z]+)(?:\.[A-Za-z_]+)+)(?::[^`]*)?`", path.read_text()):
        first, *rest = name.split(".")
        places = [values[role] for role in roles if "autoscaling" in values[role]] if name.startswith(("autoscaling.m", "ROLE.")) else []
        if first == "ROLE":
            first, *rest = rest
        if name in settings or (first not in values and not places and all(not one.startswith(first + ".") for one in settings)):
            continue  # or the name of a file
        for tree in [values, *places]:
            at = tree
            for part in [first, *rest]:
                at = at.get(part, MISSING) if isinstance(at, dict) else MISSING
            if at is not MISSING:
                break
        else:
            raise AssertionError(f"{name} is neither a value of the chart nor a setting")


def test_all_values_are_told_of_in_the_charts_page(tmp_path):
    make = chart.ROOT / "scripts" / "make-chart-docs"
    checked = subprocess.run([sys.executable, make, "--check"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # And what is not told of is refused: a copy with a value that nobody has described, and one with a changed default.
    copy = tmp_path / "helm" / "sluice"
    copy.mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(make, tmp_path / "scripts")
    shutil.copy(chart.CHART / "README.md", copy)
    values = (chart.CHART / "values.yaml").read_text()
    for changed, words in ((values + "another: {value: 1}\n", "write it beside them: another"), (values.replace("pullPolicy: IfNotPresent", "pullPolicy: Never"), "run it")):
        (copy / "values.yaml").write_text(changed)
        refused = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1 and words in refused.stdout + refused.stderr, refused
