"""Every command that a page for users shows is run, in the order of the page and as it stands there: in a network of its own, so that ports and addresses
are the page's. What a reader has to fill in (MODEL, `...`) is filled in; where a command cannot be run here, the test that does it is named."""
from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import tempfile

import pytest

import harness
import test_plan
from harness import ROOT, wait_until

pytestmark = pytest.mark.process
ADDRESSES = ("10.0.0.5", "10.0.0.6", "10.0.0.7")  # that docs/deployment.md gives its hosts
# A command begins with one of these; what else is indented is an answer, a file, or code of another language.
PROGRAMS = ("sluice", "build/release/sluice", "scripts/", "make", "curl", "openssl", "umask", "(umask", "kubectl", "helm", "install", "useradd", "systemctl", "journalctl", "for", "export")
SERVERS = ("serve", "gateway", "scheduler", "prefill", "decode", "mixed", "encode", "fleet")
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
ANSWER = 'curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" -d \'{"prompt": "Once", "max_tokens": 3, "temperature": 0}\''
SERVE = "sluice serve --model stories260k --prefill 0 --decode 0 --mixed 1"


@dataclasses.dataclass
class Page:
    before: list[str] = dataclasses.field(default_factory=list)  # what the page takes to be there
    say: dict[str, str] = dataclasses.field(default_factory=dict)  # what a reader fills in, wherever it stands
    elsewhere: dict[str, str] = dataclasses.field(default_factory=dict)  # beginning of a command -> FILE::TEST that runs it, or a file that does
    tells: dict[str, str] = dataclasses.field(default_factory=dict)  # beginning of a command -> what its output must match
    figures: tuple[str, ...] = ()  # beginnings of commands that measure for hours what the page tells
    installs: tuple[str, ...] = ()  # the commands change the system: they are run in a copy of it, in one shell, and then these are


PLAN = "tests/integration/test_plan.py"
AUTOPILOT = "tests/integration/test_autopilot.py"
CLUSTER = "tests/charts/test_cluster_pages.py"
MADE_KEYS = ["sluice keys add --file keys.json --name tests"]
CERTIFICATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out certificate.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
ON_KUBERNETES = {"kubectl": f"{CLUSTER}::test_what_the_pages_ask_of_kubectl_is_answered"}
PAGES = {
    "README.md": Page(
        before=[SERVE + " --encoder all-minilm-l6-v2=tests/golden/data/bert_mean"],
        elsewhere={"make serve": "tests/integration/test_default_model.py", "make test": ".ci/run"},
        tells={"curl http://127.0.0.1:8000/v1/chat": '"content"', "curl http://127.0.0.1:8000/v1/embeddings": '"embedding"'}),
    "docs/deployment.md": Page(
        before=[CERTIFICATE], say={"smollm2-135m-instruct": "stories260k", "MODEL": "models/stories260k"},
        tells={"sluice keys add": "sk-sluice-", "sluice smoke": r"(?m)^ok +stream", "sluice top": r"(?s)scheduler.*prefill.*decode|gateway"}),
    "docs/troubleshooting.md": Page(
        before=["sluice config print > sluice.yaml", SERVE], tells={"sluice doctor": "CUDA", "sluice smoke": r"(?m)^ok +stream", "sluice top": "stories260k"}),
    "docs/availability.md": Page(
        say={"/run/sluice-leader": "leader", "9001 ...": "9001 --model stories260k"},
        elsewhere={"sluice scheduler --listen 10.0.0.5:9000 --listen-public --set scheduler.leader_lease=kubernetes": "tests/charts/test_cluster_lease.py::test_schedulers_of_one_lease",
                   "sluice scheduler --listen 10.0.0.5:9000 --listen-public --set scheduler.leader_lease=etcd": "tests/integration/test_etcd_lease.py::test_schedulers_of_one_key"}),
    "docs/fleet.md": Page(
        before=["openssl rand -hex 16 > cluster.key; chmod 600 cluster.key",
                "sluice scheduler --listen 127.0.0.1:7000 --admin-port 9100 --set cluster.key_file=cluster.key",
                "sluice mixed --model stories260k --threads 1 --admin-port 9101 --set cluster.key_file=cluster.key",
                "sluice gateway --model stories260k --set cluster.key_file=cluster.key"],
        say={"9100-9102": "9100-9101", "q=decode+suspect": "q=mixed"}, tells={"sluice keys add": "sk-sluice-", "curl -H": "."}),
    "docs/keys.md": Page(
        before=[CERTIFICATE], say={"'{...}'": f"'{BODY}'"}, tells={"sluice keys add": "sk-sluice-", "curl": '"content"'}),
    "docs/monitoring.md": Page(
        before=["scripts/local-cluster --model models/stories260k --port 8000 --prefill 1 --decode 1 --admin-ports 9100"], tells={
            "sluice top --url": "decode", "curl 'http://127.0.0.1:9102/ready": r"(?m)^\[\+\]model: .*\n\[\+\]requests: taken\n\[\+\]scheduler: ", "curl 'http://127.0.0.1:8000/ready": r"(?m)^\[\+\]model stories260k: "}),
    "docs/security.md": Page(
        say={"ca.crt ...": "ca.crt --model stories260k --threads 1 --scheduler 127.0.0.1:1 --set cluster.key=00112233445566778899aabbccddeeff", "MODEL": "models/stories260k"}),
    "docs/configuration.md": Page(),
    "docs/explain.md": Page(before=[SERVE, ANSWER], say={"explain ...": "explain"}, tells={"sluice explain REQUEST_ID": "(?i)first token|prefill"}),
    "docs/slo.md": Page(before=[SERVE], say={"'{...}'": f"'{BODY}'"}, tells={"curl": '"content"'}),
    "docs/batches.md": Page(
        before=["mkdir -p var"], say={"/var/lib/sluice": "var", "requests.jsonl": "requests.jsonl"}, tells={"curl http://127.0.0.1:8000/v1/files -F": '"id":"file-', "curl": "."}),
    "docs/endpoints.md": Page(before=[SERVE], say={'"max_output_tokens": 60': '"max_output_tokens": 6', '"max_tokens": 60': '"max_tokens": 6'}, tells={"curl": '"usage"'}),
    "docs/sessions.md": Page(before=[SERVE], say={'"messages": [...]': BODY[1:-1], "-H 'x-session-id": "-H 'Content-Type: application/json' -H 'x-session-id"}, tells={"curl": '"content"'}),
    "docs/structured-output.md": Page(before=[SERVE], tells={"curl": r'\\"name\\"'}),
    "docs/tracing.md": Page(),
    "docs/kv-memory.md": Page(
        say={"smollm2-135m-instruct": "stories260k", "/var/lib/sluice": "var"}, elsewhere={"sluice serve --model smollm2-135m-instruct --set cluster.key_file": "tests/integration/test_kv_s3.py"}),
    "docs/kv-events.md": Page(say={"--model ...": "--model stories260k"}),
    "docs/caching.md": Page(
        before=[SERVE + " --set caching.enabled=true --set caching.allow_cut=true", ANSWER],
        say={"e-12 | --tenant T | --tag T | --revision R | --older-than 2h | --near 'a question' | --all": "e-12", "--embedder all-minilm-l6-v2": "--embedder tests/golden/data/bert_mean"},
        elsewhere={"sluice cache examples": "tests/integration/test_in_context.py"}, tells={"sluice cache stats": "equal requests: 1 answers", "sluice bench cache --pairs": "pairs"}),
    "docs/planning.md": Page(
        elsewhere={"sluice simulate --profile": "tests/sim/fidelity_test.cpp", "sluice plan --model config.json": "tests/cli/plan_test.cpp", "sluice serve --model DIR --set": "tests/integration/test_capture.py",
                   "sluice plan fit": "tests/integration/test_capture.py", "sluice plan --live": f"{PLAN}::test_what_plan_would_do_to_a_running_cluster_is_told_and_not_done",
                   "sluice simulate --plan": f"{PLAN}::test_a_simulation_plays_the_same_file", "sluice serve --model DIR --plan": f"{PLAN}::test_what_plan_writes_for_this_machine_is_served_by_one_process",
                   "scripts/local-cluster": f"{PLAN}::test_what_plan_writes_for_this_machine_is_served_by_local_cluster",
                   **{command: f"{AUTOPILOT}::{test}" for command, test in (
                       ("sluice decode --set worker.may_turn", "test_a_worker_turns_while_streams_run_and_no_text_changes"), ("sluice turn", "test_a_worker_turns_while_streams_run_and_no_text_changes"),
                       ("sluice autopilot", "test_the_autopilot_follows_a_workload_that_shifts_and_comes_back"))}},
        say={"DIR": "models/stories260k", "128,512": "32,128", "--batch 1,8": "--batch 1,8 --context 64", "trace.jsonl": "fit.yaml", "16384": "4096", "ttft=2,tpot=200ms": "ttft=20,tpot=2"},
        figures=("sluice model make", "scripts/bench-fidelity")),
    "docs/upgrades.md": Page(),
    "docs/runbooks/README.md": Page(
        before=["openssl rand -hex 16 > cluster.key; chmod 600 cluster.key",
                "sluice scheduler --listen 127.0.0.1:7000 --admin-port 9100 --set cluster.key_file=cluster.key",
                *(f"sluice {role} --model stories260k --threads 1 --listen 127.0.0.1:{listen} --admin-port {admin} --set cluster.key_file=cluster.key"
                  for role, listen, admin in (("prefill", 9001, 9101), ("decode", 9002, 9102))),
                "sluice gateway --model stories260k --set cluster.key_file=cluster.key"],
        say={"drain ID": "drain 127.0.0.1:9002"}, elsewhere=ON_KUBERNETES,
        tells={"sluice top": r"(?s)scheduler.*prefill.*decode", "sluice drain --list": r"(?s)ready.*127\.0\.0\.1:9001.*ready.*127\.0\.0\.1:9002", "sluice drain ID": "takes no new requests"}),
    "docs/runbooks/certificates.md": Page(before=["sluice certs make --out c; cp c/decode/tls.crt tls.crt"], elsewhere=ON_KUBERNETES, tells={"openssl x509": "sluice://sluice/decode"}),
    "docs/runbooks/config-invalid.md": Page(
        before=["sluice config print > sluice.yaml"], say={"/etc/sluice/": ""}, elsewhere={"journalctl": "tests/integration/test_configuration.py"}),
    "docs/runbooks/kv-memory.md": Page(elsewhere=ON_KUBERNETES),
    "docs/runbooks/no-ready-workers.md": Page(elsewhere=ON_KUBERNETES),
    "docs/runbooks/no-scheduler.md": Page(elsewhere=ON_KUBERNETES),
    "configs/systemd/README.md": Page(
        installs=("getent passwd sluice >/dev/null", "setpriv --reuid=sluice --regid=sluice --clear-groups --no-new-privs sluice config check /etc/sluice/sluice.yaml",
                  "if setpriv --reuid=nobody --regid=nogroup --clear-groups cat /etc/sluice/sluice.env; then exit 9; fi",
                  "grep -Eq '^SLUICE_CLUSTER_KEY=[0-9a-f]{32}$' /etc/sluice/sluice.env", "test -s /etc/systemd/system/sluice.target",
                  "test -s /etc/systemd/system/sluice-worker@.service"),
        elsewhere={"systemctl": "tests/charts/test_images.py::test_units_are_ones_that_systemd_understands"}),
    "helm/sluice/README.md": Page(
        elsewhere={"kubectl create": f"{CLUSTER}::test_what_the_chart_s_page_says_installs_it", "helm install": f"{CLUSTER}::test_what_the_chart_s_page_says_installs_it",
                   "helm test": "tests/charts/test_pods_run.py::test_the_chart_s_own_test_passes_on_them",
                   "for role in": f"{CLUSTER}::test_what_the_chart_s_page_says_installs_it"}, tells={"sluice keys add": "sk-sluice-"}),
}
# What users have no need of, or what fetches and measures for hours: their figures say how they came about.
NOT_FOR_USERS = {"docs/benchmarks.md", "docs/clients.md", "docs/architecture.md", "docs/kv-transfer.md", "CONTRIBUTING.md", "docs/folders.md"}


def commands(path):
    """Each as one text, with the lines that it goes on in."""
    found, pending = [], ""
    is_fenced = False
    for line in [*(ROOT / path).read_text().splitlines(), ""]:
        if line.startswith("```"):
            is_fenced = not is_fenced
            continue
        if pending:
            pending += "\n" + line.removeprefix("    ")
        elif (line.startswith("    ") or is_fenced) and any(line.strip() == one or line.strip().startswith(one if one.endswith("/") else one + " ") for one in PROGRAMS):
            pending = line.strip()
        else:
            continue
        is_open = pending.endswith("\\") or pending.count("'") % 2 == 1 or (pending.startswith("for ") and not pending.endswith("done"))
        if not is_open:
            found.append(pending)
            pending = ""
    assert not pending, f"{path}: {pending} has no end"
    return found


def all_pages():
    return {str(path.relative_to(ROOT)) for folder in ("docs", "docs/runbooks", "configs/systemd", "helm", "helm/sluice") for path in (ROOT / folder).glob("*.md")} | {"README.md", "CONTRIBUTING.md"}


def test_every_page_that_shows_commands_is_tried():
    assert NOT_FOR_USERS <= all_pages()
    shows = {path for path in all_pages() if commands(path)}
    assert shows - NOT_FOR_USERS <= set(PAGES), sorted(shows - NOT_FOR_USERS - set(PAGES))
    for path, page in PAGES.items():
        told = commands(path)
        for begins in (*page.elsewhere, *page.tells, *page.figures):
            assert any(command.startswith(begins) for command in told), f"{path} has no command that begins with {begins}"
        for place in page.elsewhere.values():
            file, _, name = place.partition("::")
            assert (ROOT / file).exists(), place
            assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), place


def write_inputs(folder):
    """Files that pages say a reader has."""
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": json.loads(BODY)})
    (folder / "requests.jsonl").write_text(line + "\n")
    asked = [{"t_ms": index * 5000, "tenant": "a", "category": "faq", "messages": [{"role": "user", "content": "How do I close my account?"}], "temperature": 0.0, "tools": False,
              "equiv": "close", "scope": "tenant", "version": 0, "cacheable": True} for index in range(3)]
    with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in asked)
    (folder / "pairs.jsonl").write_text("".join(json.dumps({"a": "How do I close my account?", "b": other, "label": label}) + "\n"
                                                for other, label in (("How can I close my account?", 1), ("What is the weather like?", 0))))
    (folder / "cache.yaml").write_text("caching:\n  semantic:\n    similarity: true\n")
    (folder / "fit.yaml").write_text(test_plan.FIT)


class Host:
    """A network of its own, with the addresses of three hosts, and a folder like a checkout that is built."""

    def __init__(self):
        self.name = f"sl{os.getpid()}-page"
        self.folder = tempfile.TemporaryDirectory(prefix="sluice-page-")
        self.path = pathlib.Path(self.folder.name)
        for name in ("scripts", "build", "configs", "helm", "docs", "models", "tests", "docker", ".venv"):
            (self.path / name).symlink_to(ROOT / name)
        programs = self.path / ".programs"
        programs.mkdir()
        (programs / "sluice").symlink_to(harness.BINARY)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": self.folder.name, "LANG": "C.UTF-8", "USER": "root"}
        self.key, self.seen = "", {}
        self.servers = []  # (command, process)
        subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True, timeout=30)
        for words in (["link", "set", "lo", "up"], *(["addr", "add", f"{address}/32", "dev", "lo"] for address in ADDRESSES)):
            subprocess.run(["ip", "-n", self.name, *words], check=True, capture_output=True, timeout=30)

    def enter(self, command):
        return ["ip", "netns", "exec", self.name, *harness.DIE_WITH_PARENT, "env", "-i", *(f"{key}={value}" for key, value in {**self.environment, "KEY": self.key}.items()),
                "bash", "-c", f"cd {shlex.quote(self.folder.name)} && {command}"]

    def run(self, command, seconds=120):
        done = subprocess.run(self.enter(command), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
        told = done.stdout + done.stderr
        if key := re.search(r"sk-sluice-[\w-]+", done.stdout):
            self.key = key[0]
        for name, pattern in (("worker", r'"id": ?"([0-9a-f]{16})"'), ("incarnation", r'"incarnation": ?"([0-9a-f]+)"'), ("file", r'"id": ?"(file-[^"]+)"'), ("batch", r'"id": ?"(batch_[^"]+)"'),
                              ("request", r'"id": ?"((?:cmpl|chatcmpl)-[^"]+)"')):
            if match := re.search(pattern, done.stdout):
                self.seen[name] = match[1]
        return done.returncode, told

    def is_healthy(self, address, process):
        assert process.is_alive(), process.output()
        return subprocess.run(self.enter(f"curl -skf -o /dev/null {address}/health"), timeout=60).returncode == 0

    def serve(self, command):
        """In the background, for what comes after it; what has the same place ends before."""
        role = next((word for word in shlex.split(command) if word in SERVERS or word.startswith("scripts/")), "")
        front = role in ("serve", "gateway", "scripts/local-cluster")
        if front:
            for other, process in self.servers:
                if other == "front":
                    process.stop(signal.SIGTERM)
            self.servers = [one for one in self.servers if one[0] != "front"]
        process = harness.Process(self.enter("exec " + command))
        self.servers.append(("front" if front else role, process))
        if front or role == "fleet":
            port = re.search(r"--port (\d+)", command)
            host = re.search(r"--host (\d[\d.]*)", command)
            scheme = "https" if "tls_certificate_file" in command else "http"
            address = f"{scheme}://{(host[1] if host else '127.0.0.1').replace('0.0.0.0', '127.0.0.1')}:{8010 if role == 'fleet' else port[1] if port else 8000}"
            if role == "fleet":
                wait_until(lambda: self.run(f"curl -sf -o /dev/null {address}/")[0] == 0 or not process.is_alive(), f"{command} answers", 60)
            else:
                wait_until(lambda: self.is_healthy(address, process), f"{command} is ready", harness.START_SECONDS)

    def remove(self):
        for _, process in reversed(self.servers):
            print(" ".join(process.command[-1:]), process.output()[-1500:], sep="\n")
            if process.is_alive():
                process.child.terminate()
        for _, process in reversed(self.servers):
            try:
                process.child.wait(30)
            except subprocess.TimeoutExpired:
                pass
            process.__exit__()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=30)
        self.folder.cleanup()


@pytest.fixture
def host():
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: network namespaces need root")
    try:
        host = Host()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"SKIPPED: no network namespaces here: {(getattr(error, 'stderr', b'') or str(error))!r}")
    try:
        yield host
    finally:
        host.remove()


def filled_in(command, page, host):
    """What the reader would type."""
    for text, instead in page.say.items():
        command = command.replace(text, instead)
    for text, name in (("REQUEST_ID", "request"), ("file-..", "file"), ("batch_..", "batch")):
        command = command.replace(text, host.seen.get(name, text))
    command = re.sub(r"sk-sluice-\.\.\.", host.key, command)
    command = command.replace('"worker": "…"', f'"worker": "{host.seen.get("worker", "")}"').replace('"incarnation": "…"', f'"incarnation": "{host.seen.get("incarnation", "")}"')
    if command.startswith("curl") and " -f" not in command:
        command = "curl -sS --fail-with-body" + command.removeprefix("curl")
    if re.match(r"sluice top\b", command) and "--once" not in command:
        command = command.split(" #")[0] + " --once"  # else it goes on
    if re.match(r"sluice serve\b", command) and "--model" not in command:
        command = command.split(" #")[0].rstrip() + " --model stories260k"  # else it is pulled
    return command


def is_server(command):
    return command.startswith("scripts/local-cluster") or re.match(rf"sluice ({'|'.join(SERVERS)})\b", command) is not None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", [path for path, page in PAGES.items() if page.installs], ids=lambda path: path.removesuffix(".md"))
def test_what_a_page_installs_is_there(host, path):
    """On this machine, but with a copy of /etc and an empty /usr/local/bin that end with the test."""
    page = PAGES[path]
    typed = [filled_in(command, page, host) for command in commands(path) if not any(command.startswith(begins) for begins in page.elsewhere)]
    assert typed
    script = "set -e\ncp -a /etc .etc; mount --bind .etc /etc; mount -t tmpfs none /usr/local/bin\n" + "\n".join([*typed, *page.installs])
    (host.path / "script").write_text(script)
    status, told = host.run("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin exec unshare --mount bash -x script")
    assert status == 0, told
    assert "sluice" not in pathlib.Path("/etc/passwd").read_text()  # it was the copy


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", [path for path, page in PAGES.items() if not page.installs], ids=lambda path: path.removesuffix(".md"))
def test_what_a_page_says_works(host, path):
    page = PAGES[path]
    write_inputs(host.path)
    for is_told, command in [*((False, one) for one in page.before), *((True, one) for one in commands(path))]:
        if is_told and any(command.startswith(begins) for begins in (*page.elsewhere, *page.figures)):
            continue
        typed = filled_in(command, page, host)
        if is_server(typed.split("#")[0].strip()):
            host.serve(typed.split(" #")[0].strip())
            continue
        if match := re.match(r"export (\w+)=", typed):
            typed += f"; echo ${match[1]}"
        status, told = host.run(typed)
        if match:
            host.environment[match[1]] = told.strip()
        assert status == 0, f"{typed}\n{told}"
        for begins, pattern in page.tells.items() if is_told else ():
            if command.startswith(begins):
                assert re.search(pattern, told), f"{typed}\n{told}"
    for name, process in host.servers:
        assert process.is_alive(), f"{name}: {process.output()}"
