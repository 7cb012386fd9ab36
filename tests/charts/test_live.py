"""Rules and boards on a real Prometheus that scrapes a cluster of processes: every expression can be asked, and says something under load."""
import concurrent.futures
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import urllib.parse
import xml.etree.ElementTree

import pytest
import yaml

import chart
import harness
from harness import LocalCluster, wait_until
from monitoring import boards, rules

pytestmark = pytest.mark.process
CLUSTER = "live"


class Prometheus(harness.Process):
    def __init__(self, folder, targets, ranges=None):
        """`ranges`: those of alerts that are shortened, e.g. {"3m": "15s"}."""
        self.port = harness.free_port()
        plain = yaml.safe_load((chart.CHART / "files" / "rules.yaml").read_text())
        for group in plain["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if rule.get("for"):
                    rule["for"] = "1s"  # what is true for a minute is true for a second
                for long, short in (ranges or {}).items():
                    if "alert" in rule:
                        rule["expr"] = rule["expr"].replace(f"[{long}]", f"[{short}]")
        (folder / "rules.yaml").write_text(yaml.safe_dump(plain))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [{"job_name": "sluice", "static_configs": [{"targets": targets, "labels": {"sluice_cluster": CLUSTER}}]}]}))
        super().__init__([chart.TOOLS / "bin" / "prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
                          f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])

    def ask(self, path, **fields):
        answer = harness.request(self.port, "GET", f"/api/v1/{path}?{urllib.parse.urlencode(fields)}")
        body = answer.json()
        assert answer.status == 200 and body["status"] == "success", (fields, body)
        return body["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def is_up(self):
        try:
            return harness.request(self.port, "GET", "/-/ready").status == 200
        except OSError:
            return False

    def alerts(self):
        """Names of those that fire."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster of all roles that has had load for long enough that rates are there, and a Prometheus that watched it."""
    encoder = harness.ROOT / "tests" / "golden" / "data" / "bert_mean"
    # Nobody takes a worker that has to wait for its processor for one that is lost.
    settings = ["gateway.worker_lost_after_ms=600000", "scheduler.suspect_ms=60000", "scheduler.lease_ms=60000", "slo_classes.default.attainment=0.9"]
    folder = tmp_path_factory.mktemp("prometheus")
    certificates = folder / "certificates"
    subprocess.run([str(harness.BINARY), "certs", "make", "--out", str(certificates)], check=True, capture_output=True, timeout=60)
    with LocalCluster(2, 2, encoder=encoder, settings=settings, certificates=certificates) as cluster:
        cluster.wait_ready()
        targets = [f"127.0.0.1:{cluster.port}"] + [f"127.0.0.1:{cluster.admin_port(pid)}" for role, pid in cluster.pids() if role != "gateway"]
        with Prometheus(folder, targets) as prometheus:
            prometheus.certificates = certificates
            wait_until(prometheus.is_up, f"Prometheus is up: {prometheus.output()}")

            def load(index):
                body = {"model": harness.MODEL_ID, "prompt": f"Number {index}: once upon a time there was a little girl who", "max_tokens": 24,
                        "slo": {"ttft_ms": 60000, "tpot_ms": 30000}}
                status = harness.post(cluster.port, "/v1/completions", **body).status
                return status, harness.post(cluster.port, "/v1/embeddings", model=encoder.name, input=[f"text {index}"]).status

            def seen():
                """Until every rate over the shortest window has two samples with something between them."""
                with concurrent.futures.ThreadPoolExecutor(4) as threads:
                    assert set(threads.map(load, range(12))) == {(200, 200)}
                return all(prometheus.query(expression) for expression in (
                    "sluice:goodput_requests:rate5m > 0", "sluice:slo_burn:rate3d", "sluice:tpot_seconds:p99_5m > 0",
                    'rate(sluice_kv_transfers_total{direction="receive",outcome="ok"}[5m]) > 0', "rate(sluice_scheduler_prediction_ratio_count[5m]) > 0"))

            wait_until(seen, "rates are there", 120)
            print(prometheus.output())
            # The load goes on while boards and rules are asked, however long that takes: what they show is of the last minute.
            prometheus.load = Load(load)
            yield cluster, prometheus
            prometheus.load.end()


class Load:
    """Calls `load(index)`, one at a time, until it is ended; each has to succeed."""

    def __init__(self, load):
        self.ended = threading.Event()
        self.threads = concurrent.futures.ThreadPoolExecutor(1)
        self.result = self.threads.submit(self.go_on, load)

    def go_on(self, load):
        for index in itertools.count(1000):
            assert load(index) == (200, 200)
            if self.ended.wait(0.5):
                return

    def end(self):
        self.ended.set()
        self.result.result(120)
        self.threads.shutdown()


def asked(expression):
    """As Grafana would ask it, with all clusters and models chosen."""
    return expression.replace(boards.RATE, "1m").replace("$cluster", ".*").replace("$model", ".*")


def says_something(result):
    return any(value["value"][1] != "NaN" for value in result)


BOARD_LINES = [(board, panel, line) for board in boards.boards() for panel in board.panels for line in panel.lines]


def test_every_line_of_a_board_says_something_under_load(world):
    _, prometheus = world
    silent = []
    for board, panel, line in BOARD_LINES:
        result = prometheus.query(asked(line.expr))
        if not line.quiet and not says_something(result):
            silent.append((board.uid, panel.title, asked(line.expr)))
        used = set(re.findall(r"\{\{(\w+)\}\}", line.legend))
        for one in result:
            assert used <= set(one["metric"]), f"{board.uid}, {panel.title}: the legend {line.legend} names a label that {one['metric']} has not"
    assert silent == []


def test_every_process_tells_its_metrics_as_prometheus_wants_them(world):
    """promtool's lint: names, units, types and words for all. vLLM's names have a colon, which only they may: pickers ask for them so."""
    cluster, _ = world
    for role, port in {"gateway": cluster.port, **{role: cluster.admin_port(pid) for role, pid in cluster.pids() if role != "gateway"}}.items():
        said = harness.request(port, "GET", "/metrics").body.decode()
        ours = "".join(line for line in said.splitlines(keepends=True) if not re.match(r"(# (HELP|TYPE) )?vllm:", line))
        assert len(ours.splitlines()) > 50, role
        done = subprocess.run([str(chart.TOOLS / "bin" / "promtool"), "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout + done.stderr == "", (role, done.stdout, done.stderr)
    done = subprocess.run([str(chart.TOOLS / "bin" / "promtool"), "check", "metrics"], input="# TYPE requests counter\nrequests 1\n", capture_output=True, text=True, timeout=60)
    assert done.returncode != 0  # it would say so


def test_every_board_can_be_drawn(world, tmp_path):
    _, prometheus = world
    drawn = subprocess.run([harness.ROOT / "scripts" / "draw-boards", f"http://127.0.0.1:{prometheus.port}", tmp_path, "--minutes", "1"], capture_output=True, text=True, timeout=300)
    assert drawn.returncode == 0, drawn.stderr
    for board in boards.boards():
        picture = xml.etree.ElementTree.parse(tmp_path / f"{board.uid}.svg")
        texts = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
        loud = [panel for panel in board.panels if not all(line.quiet for line in panel.lines)]
        assert {panel.title for panel in board.panels} <= texts
        assert len(list(picture.iter("{http://www.w3.org/2000/svg}polyline"))) >= len(loud), board.uid
    nobody = subprocess.run([harness.ROOT / "scripts" / "draw-boards", f"http://127.0.0.1:{harness.free_port()}", tmp_path], capture_output=True, text=True, timeout=60)
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr


def test_the_boards_in_the_chart_are_those_lines():
    exprs = {target["expr"] for path in (chart.CHART / "files" / "dashboards").glob("*.json") for panel in json.loads(path.read_text())["panels"]
             for target in panel["targets"]}
    assert exprs == {line.expr for _, _, line in BOARD_LINES}


def test_every_recorded_series_is_there_and_no_rule_fails(world):
    _, prometheus = world
    failing = [(rule["name"], rule["lastError"]) for group in prometheus.ask("rules")["groups"] for rule in group["rules"] if rule["health"] == "err"]
    assert failing == []
    missing = [name for name in sorted(rules.recorded_names()) if not says_something(prometheus.query(name))]
    assert missing == []


def without_comparison(expression):
    """An alert's expression has no result when all is well: what it compares has to have one."""
    return re.split(r"\s(?:[<>]=?|==|unless|or)\s", expression)[0]


def test_what_an_alert_compares_is_there(world):
    _, prometheus = world
    silent = []
    for rule in rules.burn_alerts() + rules.cause_alerts():
        if rule.alert in ("SluiceRetriesExhausted", "SluiceRefusing", "SluiceKvLevelFails") or rule.labels.get("certificate") == "https":  # of which a sound cluster, without TLS in front and levels of KV, has no series
            continue
        part = without_comparison(rule.expr)
        if part.count("(") != part.count(")"):  # cut inside of a share: ask for its numerator
            part = re.split(r"\s/\s", rule.expr)[0]
        if not prometheus.query(part):
            silent.append((rule.alert, part))
    assert silent == []


def test_queries_of_the_autoscalers_say_something(world):
    _, prometheus = world
    values = chart.merged(chart.example("gpu"), {"model": {"name": harness.MODEL_ID}, "encoder": {"name": "bert_mean"}, "monitoring": {"clusterLabel": CLUSTER},
                                                 "encode": {"autoscaling": {"enabled": True}}, "decode": {"autoscaling": {"tpotMissed": 0.2}}})
    triggers = [trigger["metadata"] for one in chart.objects(values) if one["kind"] == "ScaledObject" for trigger in one["spec"]["triggers"]]
    assert len(triggers) == 7
    for trigger in triggers:
        assert len(prometheus.query(trigger["query"])) == 1, trigger["query"]


def test_a_sound_cluster_alerts_nobody_and_one_that_lost_its_decode_workers_does(world):
    cluster, prometheus = world
    # A machine that does other things besides may be slow; it must not look broken.
    broken = {"SluiceNoPrefill", "SluiceNoDecode", "SluiceNoScheduler", "SluiceTwoSchedulers", "SluiceTargetDown", "SluiceRestarts", "SluiceKvDamaged", "SluiceRefusing",
              "SluiceKvStranded", "SluiceRetriesExhausted", "SluiceSloBurn", "SluiceCertificateExpires", "SluiceCertificateInvalid"}
    assert prometheus.alerts() & broken == set()
    # A certificate that came half: the old one stays in use, and somebody is told.
    (prometheus.certificates / "prefill" / "tls.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    wait_until(lambda: "SluiceCertificateInvalid" in prometheus.alerts(), "somebody is told of the certificate", 60)
    assert prometheus.alerts() & (broken - {"SluiceCertificateInvalid"}) == set()
    prometheus.load.end()
    for pid in cluster.pids_of("decode"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: {"SluiceNoDecode", "SluiceTargetDown"} <= prometheus.alerts(), "somebody is told", 60)
    assert "SluiceNoPrefill" not in prometheus.alerts()
    os.kill(cluster.pids_of("scheduler")[0], signal.SIGKILL)
    wait_until(lambda: "SluiceNoScheduler" in prometheus.alerts(), "somebody is told of the scheduler", 60)
