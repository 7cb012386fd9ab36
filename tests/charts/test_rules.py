"""The rules by Prometheus' own tool: they parse, they say what they should of series that are made up, and every alert is tried."""
import subprocess

import yaml

import chart
from monitoring import catalogue, rules

RULES = chart.CHART / "files" / "rules.yaml"
TESTS = chart.ROOT / "tests" / "charts" / "rules_test.yaml"


def promtool(*words):
    return subprocess.run([str(chart.TOOLS / "bin" / "promtool"), *map(str, words)], capture_output=True, text=True, timeout=120)


def test_the_rules_are_valid():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = sum(len(group) for group in rules.groups().values())
    assert f"SUCCESS: {expected} rules found" in done.stdout


def test_the_rules_of_the_chart_are_valid(tmp_path):
    rendered = chart.objects(chart.example("gpu"))
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": next(iter(chart.of_kind(rendered, "PrometheusRule").values()))["spec"]["groups"]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_come_when_they_should_and_not_before(tmp_path):
    path = tmp_path / "rules_test.yaml"
    path.write_text(TESTS.read_text().replace("{{RULES}}", str(RULES)))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried():
    tried = {one["alertname"] for test in yaml.safe_load(TESTS.read_text().replace("{{RULES}}", ""))["tests"]
             for one in test.get("alert_rule_test", []) if one["exp_alerts"]}
    assert tried == {rule.alert for rule in rules.burn_alerts() + rules.cause_alerts()}


def test_series_that_are_made_up_are_those_of_the_catalogue():
    metrics = catalogue.read()
    for test in yaml.safe_load(TESTS.read_text().replace("{{RULES}}", ""))["tests"]:
        for one in test["input_series"]:
            catalogue.check(one["series"], metrics)
