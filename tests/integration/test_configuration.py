"""The schema of the settings, the page that follows from it, and what SIGHUP does."""
import json
import os
import re
import signal
import subprocess
import sys

import pytest

import harness
from harness import BINARY, MODEL, ROOT, post, wait_until

pytestmark = pytest.mark.process


def sluice(*words):
    return subprocess.run([BINARY, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def settings(section, prefix=""):
    """Path and schema of every setting but those below names of the user's."""
    for name, value in section.get("properties", {}).items():
        key = f"{prefix}.{name}" if prefix else name
        if value.get("type") == "object":
            yield from settings(value, key)
        else:
            yield key, value


@pytest.fixture(scope="module")
def schema():
    shown = sluice("config", "schema")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def test_the_schema_knows_the_settings_that_there_are_and_no_others(schema):
    printed = dict(line.split(": ", 1) for line in sluice("config", "print").stdout.splitlines())
    assert set(printed) == set(dict(settings(schema)))
    assert schema["additionalProperties"] is False
    assert all(section["additionalProperties"] is False for name, section in schema["properties"].items() if name != "slo_classes")
    target = schema["properties"]["slo_classes"]["additionalProperties"]["properties"]["ttft_ms"]
    assert target["type"] == "integer" and target["minimum"] == 0
    assert "weight_format" in schema["properties"]["engine"]["properties"]


def test_what_the_schema_refuses_the_program_refuses(schema):
    beyond = {key: one["maximum"] + 1 for key, one in settings(schema) if "maximum" in one and one["maximum"] < 2**62}
    beyond |= {key: "no-such-choice" for key, one in settings(schema) if "enum" in one}
    assert len(beyond) > 80
    refused = sluice("config", "check", *(word for key, value in beyond.items() for word in ("--set", f"{key}={value}")))
    assert refused.returncode == 2
    assert [key for key in beyond if key not in refused.stderr] == []


def test_the_page_of_the_settings_is_current():
    checked = subprocess.run([sys.executable, ROOT / "scripts" / "make-config-docs", "--check", "--binary", BINARY], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_a_file_is_checked_by_its_name(tmp_path):
    assert sluice("config", "check", ROOT / "configs" / "cluster.yaml").stdout == "the configuration is valid\n"
    bad = tmp_path / "bad.yaml"
    bad.write_text("gateway:\n  port: 99999\n  prot: 1\n")
    refused = sluice("config", "check", bad)
    assert refused.returncode == 2 and f"{bad}:2" in refused.stderr and "unknown key gateway.prot" in refused.stderr


def metric(port, name, **labels):
    return sum(value for (found, had), value in harness.metrics(port).items() if found == name and labels.items() <= dict(had).items())


def test_two_files_are_compared_and_what_needs_a_restart_is_told(tmp_path):
    before, after, wrong = (tmp_path / name for name in ("before.yaml", "after.yaml", "wrong.yaml"))
    before.write_text("gateway: {port: 8001}\nslo_classes:\n  chat: {ttft_ms: 500}\n")
    after.write_text("gateway: {port: 8002}\nslo_classes:\n  chat: {ttft_ms: 400}\n")
    wrong.write_text("gateway: {prot: 1}\n")
    shown = sluice("config", "diff", before, after)
    assert shown.returncode == 0 and shown.stdout.splitlines() == ["gateway.port: 8001 -> 8002", "slo_classes.chat.ttft_ms: 500 -> 400  (reload)"], shown.stdout + shown.stderr
    assert json.loads(sluice("config", "diff", before, after, "--json").stdout) == [
        {"setting": "gateway.port", "before": "8001", "after": "8002", "takes_effect": "restart"},
        {"setting": "slo_classes.chat.ttft_ms", "before": "500", "after": "400", "takes_effect": "reload"}]
    assert sluice("config", "diff", before, before).stdout == ""
    beside_defaults = sluice("config", "diff", after).stdout.splitlines()
    assert "gateway.port: 8000 -> 8002" in beside_defaults and "slo_classes.chat.ttft_ms: - -> 400  (reload)" in beside_defaults, beside_defaults
    refused = sluice("config", "diff", before, wrong)
    assert refused.returncode == 2 and "gateway.prot" in refused.stderr


def test_hangup_takes_in_what_may_change_and_keeps_the_old_where_the_new_is_invalid(tmp_path):
    file = tmp_path / "sluice.yaml"

    def write(ttft_ms, more=""):
        file.write_text(f"slo_classes:\n  chat: {{ttft_ms: {ttft_ms}, tpot_ms: 1000}}\nslo: {{default_class: chat}}\n{more}")

    write(60000)
    port = harness.free_port()
    with harness.Server([BINARY, "serve", "--model", MODEL, "--port", str(port), "--config", file], port) as server:
        server.wait_ready()

        def reload(outcome):
            before = metric(port, "sluice_config_reloads_total", outcome=outcome)
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda: metric(port, "sluice_config_reloads_total", outcome=outcome) == before + 1, f"a reload is {outcome}", 60)

        def target_of_a_request():
            answer = post(port, "/v1/completions", prompt="Once upon a time", max_tokens=3)
            assert answer.status in (200, 429), answer.body
            name = answer.headers["x-request-id"]
            return harness.request(port, "GET", f"/explain/{name}").json()["targets"]["ttft_ms"]

        assert target_of_a_request() == 60000
        write(1, "log: {level: debug}\ngateway: {text_threads: 2}\n")
        reload("applied")
        assert re.search(r"in effect now: log.level, slo_classes.chat.ttft_ms; needs a restart: gateway.text_threads", server.output())
        assert target_of_a_request() == 1
        write(60000, "gateway: {text_threads: many}\n")
        reload("invalid")
        assert metric(port, "sluice_config_valid") == 0
        assert f"{file}:4: gateway.text_threads must be" in server.output()
        file.write_text("slo_classes:\n  chat: {ttft_ms: 60000, tpot_ms: 1000}\n  more: {ttft_ms: 5}\nslo: {default_class: chat}\n")
        reload("invalid")
        assert "other classes than at the start need a restart" in server.output()
        write(60000)
        reload("applied")
        assert metric(port, "sluice_config_valid") == 1
        assert target_of_a_request() == 60000
        assert server.stop() == 0


def test_pages_that_may_ask_and_priorities_change_by_a_hangup(tmp_path):
    """In processes of their own: the gateway takes in both, the scheduler the priorities."""
    file = tmp_path / "sluice.yaml"

    def write(page, priority):
        file.write_text(f"gateway: {{cors_origins: ['{page}']}}\nslo_classes:\n  chat: {{priority: {priority}}}\n")

    port = harness.free_port()
    environment = {"SLUICE_CLUSTER_KEY": "0" * 32}
    write("https://old.example", 0)
    with harness.Process([BINARY, "scheduler", "--listen", "127.0.0.1:0", "--config", file], environment) as scheduler, \
            harness.Process([BINARY, "gateway", "--model", MODEL, "--port", str(port), "--config", file], environment) as gateway:
        wait_until(lambda: "sluice scheduler at" in scheduler.output() and "sluice gateway serves" in gateway.output(), "both run", 60)

        def may_ask(page):
            answer = harness.request(port, "POST", "/tokenize", {"prompt": "a"}, {"Origin": page})
            assert (answer.status, answer.headers.get("access-control-allow-origin")) in ((200, page), (403, None)), answer.body
            return answer.status == 200

        def reload(says):
            for process in (scheduler, gateway):
                before = len(re.findall("the settings (?:were read again|are invalid)", process.output()))
                os.kill(process.pid, signal.SIGHUP)
                wait_until(lambda process=process, before=before: len(re.findall("the settings (?:were read again|are invalid).*\n", process.output())) > before,
                           "the settings were read", 60)
                assert says in re.findall("the settings (?:were read again|are invalid).*", process.output())[-1]

        assert may_ask("https://old.example") and not may_ask("https://new.example")
        write("https://new.example", 3)
        reload("in effect now: gateway.cors_origins, slo_classes.chat.priority")
        assert may_ask("https://new.example") and not may_ask("https://old.example")
        write("https://newer.example/path", 4)
        reload("the old ones stay: gateway.cors_origins: 'https://newer.example/path' has a path")
        assert metric(port, "sluice_config_valid") == 0
        assert may_ask("https://new.example") and not may_ask("https://old.example")
        for process in (gateway, scheduler):
            assert process.stop() == 0


def test_every_role_outlives_a_hangup(tmp_path):
    file = tmp_path / "sluice.yaml"
    file.write_text("log: {level: info}\n")
    environment = {"SLUICE_CLUSTER_KEY": "0" * 32}
    for role, flags in (("scheduler", ["--listen", "127.0.0.1:0"]), ("mixed", ["--model", MODEL]), ("gateway", ["--model", MODEL, "--port", "0"])):
        with harness.Process([BINARY, role, *flags, "--config", file], environment) as process:
            wait_until(lambda process=process: f"sluice {role}" in process.output(), f"{role} runs", 60)
            os.kill(process.pid, signal.SIGHUP)
            wait_until(lambda process=process: "the settings were read again" in process.output(), f"{role} has read its settings", 60)
            assert process.stop() == 0
