"""Alerts about causes on a real Prometheus with the chart's rules, while the cause is put into processes of a cluster: KV that is damaged, does not come or cannot be let go, memory that is
full, workers at their limits, a device that hangs, a network that got slow, a certificate that nobody renewed. Nobody is told before; where what is told of goes away, it is over.

What has to hold for minutes has to hold for a second here, and three minutes without a step are fifteen seconds: how long each has to last is in rules_test.yaml, on promtool's clock. No series is made up.
"""
import concurrent.futures
import contextlib
import datetime
import itertools
import json
import os
import random
import re
import resource
import secrets
import subprocess
import threading
import time

import pytest

import chart
import harness
from harness import wait_until
from running import Running
from stopped_thread import stopped_threads
from test_live import CLUSTER, Prometheus

pytestmark = pytest.mark.process
CONTEXT_TOKENS, FULL_TOKENS, BLOCK_TOKENS = 4096, 2000, 16
CAUSES = {"SluiceKvDamaged", "SluiceKvRecomputed", "SluiceKvStranded", "SluiceKvFull", "SluiceKvLevelFails", "SluiceSaturated", "SluiceWorkerStuck", "SluicePredictionsOff", "SluiceCertificateExpires"}
PATIENCE_S = 240  # for whatever has to come on a busy machine


class Hurt(Running):
    """A scheduler, a prefill and a decode worker and a gateway, with certificates, and a Prometheus that scrapes them. Workers start anew with other settings at the same ports."""

    SETTINGS = """cluster: {certificates_look_ms: 100}
gateway: {worker_lost_after_ms: 10000, placements_max: 2, replace_wait_max_ms: 60000, place_wait_max_ms: 60000}
scheduler: {suspect_ms: 20000, lease_ms: 60000, admit_by_prediction: false}
worker: {kv_transport: tls}
engine: {kv_dtype: f32}
"""

    def __init__(self, folder, model):
        super().__init__()
        self.folder, self.model = folder, model
        self.environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16)}
        self.certificates = folder / "certificates"
        made = subprocess.run([harness.BINARY, "certs", "make", "--out", self.certificates], capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        (folder / "sluice.yaml").write_text(self.SETTINGS)
        self.scheduler_port, self.port, *admin = range(first := harness.free_run_of_ports(5), first + 5)
        self.admin = dict(zip(("scheduler", "prefill", "decode"), admin, strict=True))
        self.source = random.Random(20261130)

    def start(self, role, *words):
        certificate = self.certificates / role
        # Who writes beyond what its system lets it is told so, and goes on.
        self.running[role] = harness.Process(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "start", harness.BINARY, role, *words, "--config", self.folder / "sluice.yaml", "--set", f"cluster.certificate_file={certificate / 'tls.crt'}",
                                              "--set", f"cluster.certificate_key_file={certificate / 'tls.key'}", "--set", f"cluster.authority_file={certificate / 'ca.crt'}"], self.environment)

    def start_worker(self, role, *settings):
        """In the place of the one that runs. Returns when it is there and Prometheus has seen it."""
        if role in self.running:
            assert self.running.pop(role).stop() == 0
        self.start(role, "--model", self.model, "--scheduler", f"127.0.0.1:{self.scheduler_port}", "--listen", "127.0.0.1:0", "--threads", "1", "--admin-port", str(self.admin[role]),
                   *(word for setting in settings for word in ("--set", setting)))
        self.wait_ready()
        wait_until(lambda: self.answers(role), f"the new {role} tells its metrics", PATIENCE_S)  # it registers before it does
        began = self.sample(role, "process_start_time_seconds")
        wait_until(lambda: self.prometheus.query(f'process_start_time_seconds{{instance="127.0.0.1:{self.admin[role]}"}} == {began!r}'), f"Prometheus has seen the new {role}", 60)

    def answers(self, process):
        try:
            return bool(harness.metrics(self.admin[process]))
        except OSError:
            return False

    def sample(self, process, name, **labels):
        return sum(value for (found, has), value in harness.metrics(self.admin[process]).items() if found == name and set(labels.items()) <= has)

    def is_ready(self):
        for name, process in self.running.items():
            assert process.is_alive(), f"{name}: {process.output()}"
        try:
            workers = [self.sample("scheduler", "sluice_scheduler_workers", role=role, state="ready") for role in ("prefill", "decode")]
            return workers == [1, 1] and harness.request(self.port, "GET", "/health").status == 200
        except OSError:
            return False

    def wait_ready(self):
        wait_until(self.is_ready, "the cluster is ready", 120)

    def prompt(self, tokens):
        """One that nobody has asked before."""
        return [self.source.randrange(3, 30000) for _ in range(tokens)]

    def ask(self, prompt, tokens=8):
        answer = harness.request(self.port, "POST", "/v1/completions", {"model": self.model.name, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
                                                                       "return_token_ids": True}, seconds=PATIENCE_S)
        return answer.status, answer.json()["choices"][0]["token_ids"] if answer.status == 200 else answer.body

    def asked(self, count, prompt_tokens=40, tokens=8):
        """So many at once; all have to succeed."""
        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            answers = list(threads.map(lambda prompt: self.ask(prompt, tokens), [self.prompt(prompt_tokens) for _ in range(count)]))
        assert {status for status, _ in answers} == {200}, answers

    @contextlib.contextmanager
    def load(self, clients, prompt_tokens, tokens):
        """Within, so many clients ask one request after another."""
        is_over = threading.Event()
        lock = threading.Lock()

        def client():
            while not is_over.is_set():
                with lock:
                    prompt = self.prompt(prompt_tokens)
                status, answer = self.ask(prompt, tokens)
                assert status in (200, 429), answer

        with concurrent.futures.ThreadPoolExecutor(clients) as threads:
            running = [threads.submit(client) for _ in range(clients)]
            try:
                yield
            finally:
                is_over.set()
        for one in running:
            one.result()

    def wait_idle(self, role):
        wait_until(lambda: harness.blocks_in_use(self.admin[role]) == 0, f"{role} has nothing to do", PATIENCE_S)

    def wait_evaluated(self):
        """Until every rule has seen what is now."""
        def oldest():
            groups = self.prometheus.ask("rules")["groups"]
            return min(datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", group["lastEvaluation"]).replace("Z", "+00:00")).timestamp() for group in groups)
        now = time.time() + 2  # with a scrape before it
        wait_until(lambda: oldest() > now, "the rules are evaluated", PATIENCE_S)

    def fires(self, name, **labels):
        return any(alert["state"] == "firing" and alert["labels"]["alertname"] == name and labels.items() <= alert["labels"].items()
                   for alert in self.prometheus.ask("alerts")["alerts"])

    def wait_told(self, name, **labels):
        wait_until(lambda: self.fires(name, **labels), f"somebody is told: {name} {labels}", PATIENCE_S)

    def wait_over(self, name, **labels):
        wait_until(lambda: not self.fires(name, **labels), f"it is over: {name} {labels}", PATIENCE_S)

    def instance(self, role):
        return f"127.0.0.1:{self.admin[role]}"

    def begin(self):
        self.start("scheduler", "--listen", f"127.0.0.1:{self.scheduler_port}", "--admin-port", str(self.admin["scheduler"]))
        self.start("gateway", "--model", self.model, "--scheduler", f"127.0.0.1:{self.scheduler_port}", "--host", "127.0.0.1", "--port", str(self.port))
        self.prometheus = Prometheus(self.folder, [self.instance(role) for role in self.admin] + [f"127.0.0.1:{self.port}"], ranges={"3m": "15s"})
        wait_until(self.prometheus.is_up, f"Prometheus is up: {self.prometheus.output()}", 60)
        for role in ("prefill", "decode"):
            self.start(role, "--model", self.model, "--scheduler", f"127.0.0.1:{self.scheduler_port}", "--listen", "127.0.0.1:0", "--threads", "1", "--admin-port", str(self.admin[role]))
        self.wait_ready()


@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    model = harness.make_slow_model(tmp_path_factory.mktemp("models"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT_TOKENS}))  # what it says is nonsense in any case
    with Hurt(tmp_path_factory.mktemp("hurt"), model) as hurt:
        yield hurt


def test_of_a_sound_cluster_nobody_is_told(hurt):
    for _ in range(4):
        hurt.asked(4, tokens=64)
    wait_until(lambda: hurt.prometheus.query('sum(sluice_kv_transfers_total{direction="receive",outcome="ok"}) >= 16'), "Prometheus has seen all hand-offs", 60)
    hurt.wait_evaluated()
    assert [name for name in sorted(CAUSES - {"SluicePredictionsOff"}) if hurt.fires(name)] == []

    def is_predicted():  # other work on this machine may come and go, until the predictions know of it
        hurt.asked(2, tokens=64)
        return not hurt.fires("SluicePredictionsOff")
    wait_until(is_predicted, "the predictions are right", PATIENCE_S)


def test_a_network_that_steps_do_not_tell_of_makes_predictions_wrong(hurt):
    """Each message of the prefill worker is late by two seconds, and a stream waits for its KV: its tokens come later than decode's steps say."""
    assert not hurt.fires("SluicePredictionsOff", kind="tpot")
    patient = ("worker.kv_lease_ms=60000", "worker.room_pending_ms=60000", "worker.kv_wait_ms=60000")
    hurt.start_worker("decode", *patient)
    hurt.start_worker("prefill", "test.kv_fault_plan='delay:probability=1,ms=2000'", *patient)

    def is_told():
        hurt.asked(8)
        return hurt.fires("SluicePredictionsOff", kind="tpot")
    wait_until(is_told, "somebody is told of the predictions", PATIENCE_S)
    hurt.start_worker("decode")
    hurt.start_worker("prefill")


def test_one_damaged_frame_is_told_and_no_token_is_wrong(hurt):
    prompt = hurt.prompt(60)
    expected = hurt.ask(prompt)
    assert expected[0] == 200
    hurt.start_worker("decode")  # has nothing of the prompt
    hurt.start_worker("prefill", "test.kv_fault_plan='seed=1;corrupt:kind=3,nth=1'")
    assert not hurt.fires("SluiceKvDamaged")
    assert hurt.ask(prompt) == expected
    hurt.wait_told("SluiceKvDamaged", instance=hurt.instance("decode"), outcome="checksum_mismatch")
    assert not hurt.fires("SluiceKvRecomputed")


def test_hand_offs_that_never_come_are_told(hurt):
    assert not hurt.fires("SluiceKvRecomputed")
    impatient = ("worker.kv_wait_ms=500", "worker.kv_lease_ms=200")
    hurt.start_worker("decode", *impatient)
    hurt.start_worker("prefill", "test.kv_fault_plan='drop:kind=3,probability=1'", *impatient)

    def is_told():
        hurt.asked(8)
        return hurt.fires("SluiceKvRecomputed")
    wait_until(is_told, "somebody is told of what is computed again", PATIENCE_S)


def test_memory_that_hangs_on_a_transfer_is_told_until_it_is_let_go(hurt):
    """The thread that sends KV stands still, as behind a network card whose driver hangs: what has been asked for meanwhile is answered, and its blocks stay with the transfer."""
    hurt.start_worker("decode", "worker.kv_wait_ms=500", "worker.room_pending_ms=500")
    hurt.start_worker("prefill", "engine.kv_pool_bytes=20000000")  # 90 blocks of 16 tokens
    hurt.asked(2)
    assert not hurt.fires("SluiceKvStranded")
    hurt.wait_idle("prefill")
    with stopped_threads(hurt.running["prefill"].pid, "kv-send"):
        hurt.asked(4)
        hurt.wait_told("SluiceKvStranded")
        wait_until(lambda: hurt.sample("prefill", "sluice_worker_kv_blocks", state="stranded") >= 4 * (40 // BLOCK_TOKENS), "all four wait for their transfer", 60)
    hurt.wait_over("SluiceKvStranded")
    hurt.asked(2)


def test_memory_that_prompts_fill_is_told(hurt):
    blocks = -(-FULL_TOKENS // BLOCK_TOKENS) + 1
    per_token = 2 * 4 * 6 * 288  # keys and values, in four bytes, of six layers of the model
    for role in ("decode", "prefill"):
        hurt.start_worker(role, f"engine.kv_pool_bytes={blocks * BLOCK_TOKENS * per_token}")
        assert hurt.sample(role, "sluice_worker_kv_blocks_capacity") == blocks
    assert not hurt.fires("SluiceKvFull")
    with hurt.load(clients=2, prompt_tokens=FULL_TOKENS, tokens=8):
        hurt.wait_told("SluiceKvFull", model=hurt.model.name)
    hurt.wait_over("SluiceKvFull")


def test_a_disk_that_takes_nothing_is_told(hurt):
    """The worker may write no file beyond its first bytes: as on a file system that others have filled. Prompts are computed, and asked for again they are answered alike."""
    hurt.start_worker("prefill", f"engine.kv_disk.path={hurt.folder / 'kv'}", "engine.kv_disk.bytes=40000000", "engine.kv_disk.io=page_cache")
    hurt.asked(2)
    wait_until(lambda: hurt.sample("prefill", "sluice_kv_tier_saves_total", tier="disk", outcome="complete") >= 2, "the disk has something", PATIENCE_S)
    hurt.wait_evaluated()
    assert not hurt.fires("SluiceKvLevelFails")
    prompt = hurt.prompt(200)
    pid = hurt.running["prefill"].pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (65536, before[1]))
    expected = hurt.ask(prompt)
    assert expected[0] == 200

    def is_told():
        hurt.asked(2, prompt_tokens=200)
        return hurt.fires("SluiceKvLevelFails", tier="disk", instance=hurt.instance("prefill"))
    wait_until(is_told, "somebody is told of the disk", PATIENCE_S)
    assert hurt.sample("prefill", "sluice_kv_tier_saves_total", tier="disk", outcome="failed") > 0
    assert hurt.ask(prompt) == expected
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    saved = hurt.sample("prefill", "sluice_kv_tier_saves_total", tier="disk", outcome="complete")

    def is_well():
        hurt.asked(2, prompt_tokens=200)
        return hurt.sample("prefill", "sluice_kv_tier_saves_total", tier="disk", outcome="complete") > saved
    wait_until(is_well, "the disk takes what comes", PATIENCE_S)  # ten minutes later nobody is told any more: rules_test.yaml
    hurt.start_worker("prefill")


def test_workers_at_their_limits_are_told(hurt):
    hurt.start_worker("prefill")
    hurt.start_worker("decode", "worker.batch_sequences_max=2")
    hurt.wait_over("SluiceSaturated")  # of full memory
    with hurt.load(clients=6, prompt_tokens=20, tokens=200):
        hurt.wait_told("SluiceSaturated", stage="decode")
    hurt.wait_over("SluiceSaturated", stage="decode")


def test_a_device_that_hangs_is_told(hurt):
    """The engine's thread stands still, as in a call of a device that never comes back. The worker goes on to answer whoever asks, and holds the memory of what it computes, after its
    gateway has given it up."""
    hurt.start_worker("decode", "worker.stall_limit_ms=2000")
    hurt.asked(2)
    assert not hurt.fires("SluiceWorkerStuck")
    hurt.wait_idle("decode")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        with stopped_threads(hurt.running["decode"].pid, "engine"):
            asked = threads.submit(hurt.ask, hurt.prompt(40))
            wait_until(lambda: hurt.sample("decode", "sluice_worker_kv_blocks", state="used") > 0, "the step has begun", 60)
            assert asked.result()[0] != 200  # the gateway has given the worker up, and there is no other
            wait_until(lambda: hurt.sample("decode", "sluice_worker_requests_running") == 0, "no request is its own", 60)
            hurt.wait_evaluated()
            hurt.wait_told("SluiceWorkerStuck", instance=hurt.instance("decode"))
            assert hurt.sample("decode", "sluice_worker_kv_blocks", state="used") > 0
            assert not hurt.fires("SluiceWorkerStuck", instance=hurt.instance("prefill"))
    hurt.wait_over("SluiceWorkerStuck")
    hurt.asked(2)


def test_a_certificate_that_nobody_renews_is_told_twice(hurt):
    assert not hurt.fires("SluiceCertificateExpires")
    folder = hurt.certificates / "prefill"
    renewed = (folder / "tls.crt").read_bytes()
    serials = itertools.count(1)

    def replace(text):
        (folder / "new").write_bytes(text)
        os.chmod(folder / "new", 0o600)
        os.rename(folder / "new", folder / "tls.crt")

    def certificate(left):
        """Of the same authority, key and role, with a life of ten hours, of which so many are left."""
        work = hurt.folder / f"signed-{next(serials)}"
        work.mkdir()
        (work / "index").touch()
        (work / "openssl.cnf").write_text(f"""[ca]
default_ca = one
[one]
database = {work}/index
new_certs_dir = {work}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
x509_extensions = role
[any]
commonName = supplied
[role]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:sluice://sluice/prefill/prefill
[req]
distinguished_name = any
""")
        ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=left)
        starts = ends - datetime.timedelta(hours=10)
        for words in (["req", "-new", "-key", folder / "tls.key", "-subj", "/CN=prefill", "-config", work / "openssl.cnf", "-out", work / "request"],
                      ["ca", "-batch", "-notext", "-config", work / "openssl.cnf", "-cert", hurt.certificates / "authority" / "tls.crt", "-keyfile", hurt.certificates / "authority" / "tls.key",
                       "-startdate", f"{starts:%Y%m%d%H%M%SZ}", "-enddate", f"{ends:%Y%m%d%H%M%SZ}", "-in", work / "request", "-out", work / "signed"]):
            done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        return (work / "signed").read_bytes()

    peers = {"certificate": "peers", "instance": hurt.instance("prefill")}
    replace(certificate(left=1.5))
    hurt.wait_told("SluiceCertificateExpires", severity="ticket", **peers)
    assert not hurt.fires("SluiceCertificateExpires", severity="page")
    replace(certificate(left=0.4))
    hurt.wait_told("SluiceCertificateExpires", severity="page", **peers)
    hurt.asked(2)  # and serves on
    replace(renewed)
    hurt.wait_over("SluiceCertificateExpires")


def test_every_cause_is_put_into_a_cluster_somewhere():
    """Here, in test_ejected.py, test_faults.py or test_live.py."""
    from monitoring import rules

    tried = "".join((chart.ROOT / "tests" / "charts" / f"test_{name}.py").read_text() for name in ("causes", "ejected", "faults", "live"))
    waited = {name for name in {rule.alert for rule in rules.burn_alerts() + rules.cause_alerts()} if name in tried}
    assert waited == {rule.alert for rule in rules.burn_alerts() + rules.cause_alerts()}
