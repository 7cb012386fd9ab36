"""Alerts on a real Prometheus with the chart's rules: over histories of days that it is given, and while processes of a cluster are hurt. Which window tells of
what, and that nobody is told without a fault. (What takes minutes or hours to be over is in rules_test.yaml, on promtool's clock.)"""
import os
import secrets
import signal
import subprocess
import time

import pytest

import chart
import harness
from harness import wait_until
from running import Running
from test_live import CLUSTER, Prometheus

pytestmark = pytest.mark.process
HOUR_S, STEP_S, HISTORY_HOURS = 3600, 60, 74
BUDGET = 0.001  # of availability, as the rules have it
SERIES = 'sluice_gateway_slo_requests_total{{sluice_cluster="{cluster}",instance="before",model="{model}",slo_class="default",slo="availability",outcome="{outcome}"}}'
# cluster -> requests an hour, faults (from, to: hours ago; how many times too fast the budget went), windows that tell of it now.
HISTORIES = {
    "sound": (600, [], set()),
    "within-budget": (600, [(74, 0, 0.8)], set()),
    "since-an-hour": (600, [(0.8, 0, 22)], {"1h"}),
    "since-hours": (600, [(5, 0, 10)], {"6h"}),
    "since-this-morning": (600, [(16, 0, 5)], {"1d", "3d"}),
    "since-days": (600, [(50, 0, 2)], {"3d"}),
    "over-since-hours": (600, [(8, 7, 100)], set()),
    "over-since-half-a-day": (600, [(20, 12, 20)], set()),
    "hardly-asked": (0.2, [(74, 0, 1000)], set()),
    CLUSTER: (720, [], set()),  # of the cluster that runs, before it was hurt
}


def write_history(path, until, model):
    """As promtool reads it (OpenMetrics), a sample a minute, by the clock of this machine."""
    with open(path, "w") as out:
        out.write("# TYPE sluice_gateway_slo_requests counter\n")
        for cluster, (hourly, faults, _) in HISTORIES.items():
            times = range(until - HISTORY_HOURS * HOUR_S, until, STEP_S)
            total = {"good": 0.0, "bad": 0.0}
            lines = {"good": [], "bad": []}
            for at in times:
                burn = sum(times_too_fast for since, over, times_too_fast in faults if until - since * HOUR_S <= at < until - over * HOUR_S)
                bad = min(1, burn * BUDGET) * hourly * STEP_S / HOUR_S
                total["bad"] += bad
                total["good"] += hourly * STEP_S / HOUR_S - bad
                for outcome, value in total.items():
                    lines[outcome].append(f"{SERIES.format(cluster=cluster, model=model, outcome=outcome)} {value:.6f} {at}\n")
            for outcome in lines:
                out.writelines(lines[outcome])
        out.write("# EOF\n")


class Watched(Running):
    """Two schedulers with a lease, one mixed worker, a gateway, each with the file of settings; and a Prometheus that has scraped it for days, as far as it knows."""

    # One retry, so that one kill of several streams uses the budget up; and nobody takes a process that waits for its processor for one that is lost.
    SOUND = """gateway: {retry_percent: 0, retry_floor_per_s: 0, retry_saved_max: 1, replace_wait_max_ms: 1000, worker_lost_after_ms: 600000}
scheduler: {suspect_ms: 3000, lease_ms: 600000, leader_lease_ms: 30000}
"""

    def __init__(self, folder, model):
        super().__init__()
        self.folder, self.model = folder, model
        self.environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        self.settings = folder / "sluice.yaml"
        self.settings.write_text(self.SOUND)
        self.lease = folder / "lease"
        first = harness.free_run_of_ports(6)
        self.scheduler_ports, self.admin_ports, self.worker_admin, self.port = (first, first + 1), (first + 2, first + 3), first + 4, first + 5

    def start(self, name, words):
        self.running[name] = harness.Process([harness.BINARY, *words, "--config", self.settings], self.environment)
        return self.running[name]

    def start_scheduler(self, index, lease):
        flags = ["--set", f"scheduler.leader_lease={self.lease}"] if lease else []
        self.start(f"scheduler-{index}", ["scheduler", "--listen", f"127.0.0.1:{self.scheduler_ports[index]}", "--admin-port", str(self.admin_ports[index]), *flags])

    def start_worker(self):
        return self.start("worker", ["mixed", "--model", self.model, "--scheduler", self.scheduler, "--listen", "127.0.0.1:0", "--threads", "1", "--admin-port", str(self.worker_admin)])

    @property
    def scheduler(self):
        return f"127.0.0.1:{self.scheduler_ports[0]}"

    def is_ready(self, port):
        for name, process in self.running.items():
            assert process.is_alive(), f"{name}: {process.output()}"
        try:
            return harness.request(port, "GET", "/ready").status == 200
        except OSError:
            return False

    def wait_ready(self):
        wait_until(lambda: all(self.is_ready(port) for port in (*self.admin_ports, self.worker_admin, self.port)), "all are ready", 120)

    def ask(self, tokens=4):
        return harness.request(self.port, "POST", "/v1/completions", {"model": self.model.name, "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}, seconds=120).status

    def counted(self, outcome):
        return sum(value for (name, labels), value in harness.metrics(self.port).items()
                   if name == "sluice_gateway_slo_requests_total" and {("slo", "availability"), ("outcome", outcome)} <= labels)

    def burns(self, cluster=CLUSTER):
        """Windows of alerts about the target that has a history."""
        return {alert["labels"]["window"] for alert in self.prometheus.ask("alerts")["alerts"]
                if alert["state"] == "firing" and alert["labels"]["alertname"] == "SluiceSloBurn" and alert["labels"]["slo"] == "availability" and alert["labels"]["sluice_cluster"] == cluster}

    def causes(self):
        """That fire for the cluster that runs."""
        return {alert["labels"]["alertname"] for alert in self.prometheus.ask("alerts")["alerts"]
                if alert["state"] == "firing" and alert["labels"].get("sluice_cluster") == CLUSTER} - {"SluiceSloBurn", "SluicePredictionsOff"}  # of what else the machine does

    def wait_cause(self, *names):
        wait_until(lambda: set(names) <= self.causes(), f"somebody is told: {names}", 120)

    def wait_over(self, *names):
        wait_until(lambda: not set(names) & self.causes(), f"it is over: {names}", 120)

    def begin(self):
        for index in range(2):
            self.start_scheduler(index, lease=True)
            wait_until(lambda index=index: self.is_ready(self.admin_ports[index]), "the scheduler answers", 60)  # the first one leads
        self.start_worker()
        self.start("gateway", ["gateway", "--model", self.model, "--scheduler", self.scheduler, "--host", "127.0.0.1", "--port", str(self.port)])
        self.wait_ready()
        history = self.folder / "history.txt"
        write_history(history, int(time.time()), self.model.name)
        subprocess.run([str(chart.TOOLS / "bin" / "promtool"), "tsdb", "create-blocks-from", "-q", "openmetrics", str(history), str(self.folder / "data")], check=True,
                       capture_output=True, timeout=300)
        self.prometheus = Prometheus(self.folder, [f"127.0.0.1:{port}" for port in (*self.admin_ports, self.worker_admin, self.port)])
        wait_until(self.prometheus.is_up, f"Prometheus is up: {self.prometheus.output()}", 60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with Watched(tmp_path_factory.mktemp("watched"), harness.make_slow_model(tmp_path_factory.mktemp("models"))) as watched:
        yield watched


def test_every_window_tells_of_what_it_is_for(watched):
    """And none of what is over, of what the budget bears, or of a handful of requests."""
    expected = {cluster: windows for cluster, (_, _, windows) in HISTORIES.items()}
    wait_until(lambda: all(windows <= watched.burns(cluster) for cluster, windows in expected.items()), "what should be told is told", 120)
    asked = watched.prometheus.query("sluice:slo_requests:rate3d")
    assert {one["metric"]["sluice_cluster"] for one in asked} >= set(expected)  # all of it is seen
    assert {cluster: watched.burns(cluster) for cluster in expected} == expected


def test_a_sound_cluster_that_fails_is_told_by_the_fast_window_first(watched):
    assert {watched.ask() for _ in range(20)} == {200}
    wait_until(lambda: watched.prometheus.query(f'sluice_gateway_slo_requests_total{{sluice_cluster="{CLUSTER}",instance!="before",slo="availability",outcome="good"}} >= 20'),
               "Prometheus has seen them", 60)
    burning = watched.prometheus.query(f'sluice:slo_burn:rate5m{{sluice_cluster="{CLUSTER}",slo="availability"}}')
    assert burning and watched.burns() == set()
    wait_until(lambda: not watched.causes(), "nobody is told", 60)  # whatever has to hold for minutes, holds for a second here: of a look that came late that is over

    # Streams are under way when the only worker dies: they are given up, since there is a budget to place one of them again, and no place.
    streams = [harness.Stream(watched.port, "/v1/completions", {"model": watched.model.name, "prompt": f"Once upon a time, number {index}", "max_tokens": 200, "ignore_eos": True}, seconds=120)
               for index in range(3)]
    events = [stream.events() for stream in streams]
    assert all(next(one) for one in events)
    watched.running.pop("worker").stop(signal.SIGKILL)
    assert all(any(b'"error"' in event for event in one) for one in events)
    for stream in streams:
        stream.close()
    bad = f'sluice_gateway_slo_requests_total{{sluice_cluster="{CLUSTER}",instance!="before",slo="availability",outcome="bad"}}'
    # A series that is new has not grown, and of a short one Prometheus takes the ends to be longer than they are.
    wait_until(lambda: watched.prometheus.query(f"count_over_time({bad}[1h]) >= 20"), "Prometheus knows the first that failed for long enough", 120)
    # Of 720 requests an hour before: 14.4 times too fast in an hour are 11, 6 times in six hours are 26, both of the slow ones 52.
    for failed, windows in ((20, {"1h"}), (36, {"1h", "6h"}), (70, {"1h", "6h", "1d", "3d"})):
        while watched.counted("bad") < failed:
            assert watched.ask() in (429, 503)
        wait_until(lambda windows=windows: watched.burns() >= windows, f"{windows} tell of {failed} requests", 120)
        assert watched.burns() == windows
    watched.wait_cause("SluiceNoPrefill", "SluiceNoDecode", "SluiceTargetDown", "SluiceRefusing", "SluiceRetriesExhausted")
    assert watched.causes() <= {"SluiceNoPrefill", "SluiceNoDecode", "SluiceTargetDown", "SluiceRefusing", "SluiceRetriesExhausted", "SluiceSaturated", "SluiceStaleWorkers"}
    watched.start_worker()
    watched.wait_ready()
    watched.wait_over("SluiceNoPrefill", "SluiceNoDecode", "SluiceTargetDown", "SluiceStaleWorkers", "SluiceSaturated")
    assert watched.ask() == 200


def test_settings_that_do_not_do_are_told_until_they_do(watched):
    watched.settings.write_text("gateway:\n  no_such_key: 1\n")
    told = [watched.running["gateway"], watched.running["scheduler-0"]]
    for process in told:
        os.kill(process.pid, signal.SIGHUP)
    watched.wait_cause("SluiceConfigInvalid")
    watched.settings.write_text(watched.SOUND)
    for process in told:
        os.kill(process.pid, signal.SIGHUP)
    watched.wait_over("SluiceConfigInvalid")


def test_a_worker_that_stands_still_is_told_until_it_goes_on(watched):
    harness.freeze(watched.running["worker"].pid)
    try:
        # It is late, and some seconds later gone: gRPC's pings have no answer.
        told = 'max_over_time(ALERTS{alertname="SluiceStaleWorkers",alertstate="firing"}[1m])'
        wait_until(lambda: watched.prometheus.query(told), "somebody is told that it is late", 120)
        watched.wait_cause("SluiceTargetDown", "SluiceNoDecode", "SluiceNoPrefill")
    finally:
        os.kill(watched.running["worker"].pid, signal.SIGCONT)
    watched.wait_over("SluiceStaleWorkers", "SluiceTargetDown", "SluiceNoDecode", "SluiceNoPrefill")
    assert watched.ask() == 200


def test_a_process_that_starts_again_and_again_is_told(watched):
    for _ in range(4):
        watched.running.pop("worker").stop(signal.SIGKILL)
        watched.start_worker()
        watched.wait_ready()
        started = next(value for (name, _), value in harness.metrics(watched.worker_admin).items() if name == "process_start_time_seconds")
        wait_until(lambda started=started: watched.prometheus.query(f'process_start_time_seconds{{instance="127.0.0.1:{watched.worker_admin}"}} == {started}'),
                   "Prometheus has seen the new one", 60)
    watched.wait_cause("SluiceRestarts")


def test_two_schedulers_that_lead_are_told_and_none_is(watched):
    assert not {"SluiceTwoSchedulers", "SluiceNoScheduler"} & watched.causes()
    assert watched.running.pop("scheduler-1").stop() == 0
    watched.start_scheduler(1, lease=False)  # somebody else's settings
    watched.wait_cause("SluiceTwoSchedulers")
    watched.running.pop("scheduler-1").stop()
    watched.wait_over("SluiceTwoSchedulers")
    assert "SluiceNoScheduler" not in watched.causes()
    watched.running.pop("scheduler-0").stop(signal.SIGKILL)
    watched.wait_cause("SluiceNoScheduler")
