"""The catalogue of metrics (configs/metrics.toml) is what the code and processes that run export, and no client can make it longer."""
import re
import signal
import socket
import subprocess
import sys

import pytest

import harness
from harness import LocalCluster, wait_until

sys.path.insert(0, str(harness.ROOT / "scripts"))
from monitoring import catalogue, rules  # noqa: E402

METRICS = catalogue.read()
ENCODER = harness.ROOT / "tests" / "golden" / "data" / "bert_mean"
SERIES_MAX = 5000  # of one process, buckets counted one by one
CODE_FOLDERS = ["base", "proto", "device", "net", "text", "kv_cache", "engine", "kv_transfer", "worker", "prefill_worker", "decode_worker", "scheduler", "caching",
                "gateway", "sim", "cli"]
# Said only when something goes wrong, or when a setting that is off by default is on.
NEED_MORE_THAN_LOAD = {"sluice_gateway_retries_total", "sluice_gateway_retries_exhausted_total", "sluice_gateway_cancellations_total",
                       "sluice_scheduler_tenant_placements", "sluice_scheduler_tenant_virtual_tokens",  # only while something is placed when the scheduler looks
                       # with API keys, with TLS in front
                       "sluice_gateway_auth_failures_total", "sluice_gateway_quota_refusals_total", "sluice_gateway_keys", "sluice_gateway_keys_file_valid",
                       *(name for name in METRICS if name.startswith("sluice_gateway_cache_")),  # with caching.enabled
                       *(name for name in METRICS if name.startswith("sluice_gateway_in_context_")),  # with caching.in_context.enabled
                       *(name for name in METRICS if name.startswith("sluice_gateway_batch")),  # with batch.file
                       "sluice_trace_spans_total",  # with tracing.otlp_endpoint
                       *(name for name in METRICS if name.startswith("sluice_autopilot_")),  # of a process that a cluster does without (test_autopilot.py)
                       *(name for name in METRICS if name.startswith("sluice_gateway_certificate_")),
                       *(name for name in METRICS if name.startswith("sluice_certificate_"))}  # with cluster.certificate_file


def registrations():
    """(name, type, help) of every metric that the code asks for."""
    call = re.compile(r'\b(counter|gauge|histogram)\(\s*"((?:sluice)_[a-z0-9_]+)",\s*((?:"[^"]*"\s*)+)')
    found = set()
    for folder in CODE_FOLDERS:
        for path in sorted((harness.ROOT / folder).rglob("*.cpp")):
            for kind, name, text in call.findall(path.read_text()):
                found.add((name, kind, "".join(re.findall(r'"([^"]*)"', text))))
    return found


def test_the_catalogue_is_what_the_code_asks_for():
    in_code = registrations()
    in_catalogue = {(metric.name, metric.type, metric.help) for metric in METRICS.values() if metric.name.startswith("sluice_")}
    assert in_code == in_catalogue
    # What is asked for by other words than these would not be found.
    words = set()
    for folder in CODE_FOLDERS:
        for path in sorted((harness.ROOT / folder).rglob("*.cpp")):
            words |= set(re.findall(r'"(sluice_(?:gateway|scheduler|worker|kv)_[a-z0-9_]+)"', path.read_text()))
    assert words <= set(METRICS)


def test_the_catalogue_keeps_to_the_rules_for_names():
    assert [problem for metric in METRICS.values() for problem in metric.problems()] == []


@pytest.mark.parametrize("expression", [
    "rate(sluice_gateway_request_total[5m])",                                    # no such metric
    'sluice_gateway_requests_total{status="200"}',                               # another label
    'sluice_scheduler_queue_tokens{stage="prefil"}',                             # a value that it never has
    "sum by (model_name) (sluice_gateway_inflight_requests)",                    # grouped by what is not there
    "rate(sluice_gateway_time_to_first_token_seconds[5m])",                      # a histogram has no series of its own name
    "sluice:slo_burn:rate7m",                                                    # recorded by nobody
])
def test_an_expression_that_asks_for_what_nobody_exports_is_refused(expression):
    with pytest.raises(catalogue.Unknown):
        catalogue.check(expression, METRICS, {"sluice:slo_burn:rate1h"})


class Exposition:
    """What one process says at /metrics."""

    def __init__(self, port):
        answer = harness.request(port, "GET", "/metrics")
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.text = answer.body.decode()
        self.help = dict(re.findall(r"^# HELP (\S+) (.*)$", self.text, re.MULTILINE))
        self.type = dict(re.findall(r"^# TYPE (\S+) (.*)$", self.text, re.MULTILINE))
        self.samples = [(name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))) for name, labels
                        in re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$", self.text, re.MULTILINE)]

    def series(self):
        return sorted((name, *sorted(labels.items())) for name, labels in self.samples)


def label_breaches(role, said):
    """Labels, and values of them, that the catalogue does not have."""
    found = []
    by_series = {name: metric for metric in METRICS.values() for name in catalogue.series_names(metric)}
    for name, labels in said.samples:
        if name not in by_series:
            continue
        metric = by_series[name]
        labels = {label: value for label, value in labels.items() if not (label == "le" and name.endswith("_bucket"))}
        if set(labels) != set(metric.labels):
            found.append(f"{role}: {name} has the labels {sorted(labels)}")
        for label, value in labels.items():
            if metric.labels.get(label) and value not in metric.labels[label]:
                found.append(f"{role}: {name} has {label}={value}")
    return found


def breaches(role, said):
    """How what a process of this role exports differs from the catalogue."""
    found = []
    for name in said.type:
        if name not in METRICS:
            found.append(f"{role} exports {name}, which is not in the catalogue")
            continue
        metric = METRICS[name]
        if (said.type[name], said.help[name]) != (metric.type, metric.help):
            found.append(f"{role} exports {name} as {said.type[name]} '{said.help[name]}'")
        if role not in metric.roles:
            found.append(f"{role} exports {name}, which the catalogue does not say")
    found += label_breaches(role, said)
    missing = {metric.name for metric in METRICS.values() if metric.always and role in metric.roles} - set(said.type)
    return found + [f"{role} does not export {name}" for name in sorted(missing)]


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.process
def test_processes_of_all_roles_export_the_catalogue_and_nothing_else(tmp_path):
    credentials = tmp_path / "credentials"
    credentials.touch(0o600)
    credentials.write_text("aws_access_key_id = a\naws_secret_access_key = b\n")
    tiers = ["engine.kv_host_bytes=8000000", f"engine.kv_disk.path={tmp_path / 'kv'}", "engine.kv_disk.bytes=8000000",
             "engine.kv_s3.endpoint=http://127.0.0.1:1", "engine.kv_s3.bucket=none", f"engine.kv_s3.credentials_file={credentials}",  # nobody is there
             "engine.kv_s3.bytes=8000000", "engine.kv_s3.buffer_bytes=4000000",
             f"capture.file={tmp_path / 'trace'}", "worker.kv_events.endpoint=tcp://127.0.0.1:*", "worker.kv_events.replay_endpoint=tcp://127.0.0.1:*", "slo_classes.default.attainment=0.9"]
    with LocalCluster(1, 1, 1, encoder=ENCODER, settings=tiers) as cluster:
        cluster.wait_ready()
        ports = {role: cluster.port if role == "gateway" else cluster.admin_port(pid) for role, pid in cluster.pids()}
        assert set(ports) == {"scheduler", "prefill", "decode", "mixed", "encode", "gateway"}
        for role, port in ports.items():  # a worker opens its port when it has joined, and a gateway is ready without encoders
            wait_until(lambda port=port: is_open(port), f"the {role}'s port is open", 120)
        before = [breach for role, port in ports.items() for breach in breaches(role, Exposition(port))]
        assert before == []
        for index in range(8):
            answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=f"Once upon a time, number {index}", max_tokens=8, temperature=0,
                                  prompt_cache_key="stories", slo={"ttft_ms": 60000, "tpot_ms": 30000})
            assert answer.status == 200, answer.body
        assert harness.post(cluster.port, "/v1/embeddings", model=ENCODER.name, input=["a", "b"]).status == 200
        # Targets that nobody keeps: one that no scheduler looks at, and two that it may refuse a request for.
        assert harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once", max_tokens=8, ignore_eos=True, slo={"e2e_ms": 1}).status == 200
        assert harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once", max_tokens=8, ignore_eos=True, slo={"ttft_ms": 1, "tpot_ms": 1}).status in (200, 429)

        def seen():
            return {name for port in ports.values() for name in Exposition(port).type}

        wait_until(lambda: set(METRICS) - NEED_MORE_THAN_LOAD <= seen(), f"everything is seen under load; missing: {set(METRICS) - NEED_MORE_THAN_LOAD - seen()}")
        assert [breach for role, port in ports.items() for breach in breaches(role, Exposition(port))] == []
        # And what endpoint pickers read, for which no worker needs another setting.
        for role, models in {"prefill": {harness.MODEL_ID}, "encode": {ENCODER.name}, "scheduler": set()}.items():
            answer = harness.request(ports[role], "GET", "/metrics/vllm")
            told = re.findall(r'^(vllm:\w+)\{model_name="([^"]+)"\} [0-9.]+$', answer.body.decode(), re.MULTILINE)
            names = {"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"}
            assert answer.status == 200 and set(told) == {(name, model) for name in names for model in models}, answer.body
            caches = re.findall(r'^vllm:cache_config_info\{model_name="([^"]+)",engine="[^"]+",block_size="16",num_gpu_blocks="([0-9]+)"\} 1$', answer.body.decode(), re.MULTILINE)
            assert [model for model, blocks in caches if int(blocks) > 0] == ([harness.MODEL_ID] if role == "prefill" else [])


def hostile_requests(port, round_number):
    """One of everything that a client can choose a name in."""
    name = f"hostile-{round_number}"
    tags = {"x-tenant": name, "x-request-id": name, "x-slo-class": name, "User-Agent": name}
    body = {"model": name, "prompt": name, "max_tokens": 1, "user": name}
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", f"/v1/{name}", f"/{name}?x={name}"):
        harness.request(port, "POST", path, body, tags)
        harness.request(port, "GET", path, headers=tags)
    harness.request(port, "POST", "/v1/completions", {**body, "model": harness.MODEL_ID}, {"x-slo-class": name})
    harness.request(port, "POST", "/v1/completions", {**body, "model": harness.MODEL_ID}, {"x-tenant": name})
    harness.request(port, "POST", "/v1/completions", {**body, "model": harness.MODEL_ID, "slo": {"class": name}})
    harness.request(port, "POST", "/v1/completions", name.encode(), {"Content-Type": name})
    harness.request(port, f"X-{round_number}", "/v1/models")


@pytest.mark.process
def test_a_client_cannot_make_series():
    made_by_requests = {"sluice_gateway_requests_total", "sluice_gateway_admission_total", "sluice_gateway_slo_requests_total", "sluice_gateway_inflight_requests",
                        "sluice_gateway_tokens_total", "sluice_gateway_tenant_tokens_total"}
    with harness.serve("--set", "gateway.tenant_header=x-tenant", "--set", "scheduler.tenants_max=2", "--set", "gateway.tenants_named_max=2") as server:
        server.wait_ready()

        def said():
            exposition = Exposition(server.port)
            for _, labels in exposition.samples:  # names of the first tenants are all that a client's word gets into
                assert all("hostile" not in value or (label == "tenant" and value in ("hostile-0", "hostile-1")) for label, value in labels.items()), labels
            assert len(exposition.samples) <= SERIES_MAX
            return [series for series in exposition.series() if series[0] in made_by_requests]

        said()
        for round_number in range(3):  # all that its requests can have in common
            hostile_requests(server.port, round_number)
        before = said()
        for round_number in range(3, 40):
            hostile_requests(server.port, round_number)
        assert said() == before
        assert {dict(labels)["tenant"] for name, *labels in before if name == "sluice_gateway_tenant_tokens_total"} == {"hostile-0", "hostile-1", "other"}


@pytest.mark.process
def test_no_series_of_a_worker_outlives_it():
    """What one worker does it exports itself, and takes with it; scheduler and gateway count workers, and name none."""
    with LocalCluster(0, 0, 1) as cluster:
        cluster.wait_ready()
        scheduler, = cluster.pids_of("scheduler")
        port = cluster.admin_port(scheduler)
        address = re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]

        def workers():
            return sum(value for (name, labels), value in harness.metrics(port).items() if name == "sluice_scheduler_workers" and ("role", "mixed") in labels)

        def said():
            return {(one, *series) for one in (port, cluster.port) for series in Exposition(one).series()}

        def load():
            for index in range(6):
                assert harness.post(cluster.port, "/v1/completions", prompt=f"Number {index}", max_tokens=8, ignore_eos=True).status == 200

        names: set[str] = set()

        def adds_nothing():
            """Whether a worker that came, worked and was killed has left no series that was not there before it."""
            before = said()
            with harness.Process([harness.BINARY, "mixed", "--model", harness.MODEL, "--scheduler", address, "--listen", "127.0.0.1:0", "--threads", "1",
                                  "--admin-port", str(admin := harness.free_port())], {"SLUICE_CLUSTER_KEY": cluster.key}) as worker:
                wait_until(lambda: workers() == 2, f"the scheduler counts it: {worker.output()}", 60)
                load()
                own = {dict(labels)["worker"] for (name, labels) in harness.metrics(admin) if name == "sluice_worker_kv_blocks"}
                assert len(own) == 1 and not own & names
                names.update(own)
                worker.stop(signal.SIGKILL)
            wait_until(lambda: workers() == 1, "the scheduler counts it no more", 60)
            load()
            return said() == before

        # What counts something for the first time is a new series, too, but there is an end to that.
        wait_until(adds_nothing, "workers come and go without a new series", 300)
        assert [series for series in said() if any(name in str(series) for name in names)] == []


def test_generated_files_are_those_of_the_catalogue():
    checked = subprocess.run([sys.executable, harness.ROOT / "scripts" / "make-monitoring", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_runbook_is_listed_and_every_alert_in_it():
    folder = harness.ROOT / rules.RUNBOOKS
    listed = (folder / "README.md").read_text()
    alerts = {rule.alert: rule.runbook for rule in rules.burn_alerts() + rules.cause_alerts()}
    for alert, runbook in alerts.items():
        assert alert in listed, alert
        assert alert.removeprefix("Sluice") in (folder / runbook).read_text().splitlines()[0].replace("Sluice", ""), (alert, runbook)
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} == set(alerts.values())
