"""The pods that the chart renders, run on this machine: the same commands with the same arguments, variables and configuration files, each at a
loopback address of its own. What the kubelet would mount is put into a folder, and paths below mount points lead there; nothing else is changed."""
import hashlib
import http.client
import json
import os
import re
import secrets
import subprocess

import pytest

import chart
import harness
from harness import wait_until

pytestmark = pytest.mark.process
WEIGHTS = harness.MODEL / "model.safetensors"


class Pod:
    """One pod of a role: its folder of mounts, its address, its processes."""

    def __init__(self, cluster, role, index, spec):
        self.cluster, self.role, self.spec = cluster, role, spec
        self.address = cluster.address_of(role, index)
        self.folder = cluster.folder / f"{role}-{index}"
        self.folder.mkdir()
        for volume in spec["volumes"]:
            self.put(volume)
        self.process = None

    def put(self, volume):
        place = self.folder / volume["name"]
        if "configMap" in volume:
            place.mkdir()
            for name, text in self.cluster.config_maps[volume["configMap"]["name"]]["data"].items():
                (place / name).write_text(self.moved(text))
        elif "secret" in volume:
            place.mkdir(mode=0o750)
            for item in volume["secret"]["items"]:
                path = place / item["path"]
                path.write_text(self.cluster.key)
                path.chmod(volume["secret"]["defaultMode"])
        elif "persistentVolumeClaim" in volume:
            place.symlink_to(self.cluster.claims[volume["persistentVolumeClaim"]["claimName"]])
        else:
            assert "emptyDir" in volume, volume
            place.mkdir()

    def moved(self, text):
        """Paths below mount points lead to the pod's folder; addresses of the pods' network to loopback."""
        mounts = {mount["mountPath"]: self.folder / mount["name"] for one in chart.containers(self.spec) for mount in one["volumeMounts"]}
        for path, place in sorted(mounts.items(), reverse=True):
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?=[/\s]|$)", str(place), text, flags=re.MULTILINE)
        text = text.replace("$(POD_IP)", self.address)
        return text.replace(f"{self.cluster.scheduler_name}:", f"{self.cluster.address_of('scheduler', 0)}:")

    def words(self, container):
        words = [self.moved(word) for word in [*container["command"], *container.get("args", [])]]
        return [str(harness.BINARY) if words[0] == "sluice" else words[0], *words[1:]]

    def environment(self, container):
        return {one["name"]: self.moved(one["value"]) for one in container.get("env", []) if "value" in one} | {"POD_IP": self.address}

    def run_init(self):
        """The init containers, one after the other; the first that fails."""
        for one in self.spec.get("initContainers", []):
            done = subprocess.run(self.words(one), env={**os.environ, **self.environment(one)}, capture_output=True, text=True, timeout=120,
                                  cwd=self.moved(one["workingDir"]) if "workingDir" in one else None)
            if done.returncode != 0:
                return done
        return None

    def start(self):
        container = self.spec["containers"][0]
        self.process = harness.Process(self.words(container), self.environment(container))
        return self

    def probe(self, name):
        """Whether the kubelet would take it for started, ready or alive."""
        container = self.spec["containers"][0]
        asked = container[name]["httpGet"]
        port = next(port["containerPort"] for port in container["ports"] if port["name"] == asked["port"])
        connection = http.client.HTTPConnection(self.address, port, timeout=10)
        try:
            connection.request("GET", asked["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def check_alive(self):
        assert self.process.is_alive(), f"{self.role} ended with {self.process.child.returncode}:\n{self.process.output()}"
        return True


class Cluster:
    """All pods of a rendered chart."""

    def __init__(self, values, folder, claims=None):
        self.folder = folder
        self.key = secrets.token_hex(16)
        self.claims = claims or {}
        self.net = f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 1}"
        self.rendered = chart.objects(values)
        self.config_maps = chart.of_kind(self.rendered, "ConfigMap")
        self.specs = {role: spec for role, spec in chart.pods(self.rendered).items() if role != "test"}
        self.scheduler_name = next(name for name in chart.of_kind(self.rendered, "Service") if name.endswith("-scheduler"))
        self.pods = {}
        for role, spec in self.specs.items():
            count = chart.deployment(self.rendered, role)["spec"].get("replicas", 1)
            self.pods[role] = [Pod(self, role, index, spec) for index in range(count)]

    def address_of(self, role, index):
        return f"{self.net}.{10 * (1 + sorted(self.specs).index(role)) + index}"

    @property
    def all(self):
        return [pod for pods in self.pods.values() for pod in pods]

    @property
    def port(self):
        return self.specs["gateway"]["containers"][0]["ports"][0]["containerPort"]

    def start(self):
        for pod in self.all:
            failed = pod.run_init()
            assert failed is None, (failed.args, failed.stdout, failed.stderr)
            pod.start()
        return self

    def wait_ready(self):
        for pod in self.all:
            wait_until(lambda pod=pod: pod.check_alive() and pod.probe("startupProbe") and pod.probe("readinessProbe"), f"{pod.role} is ready", 120)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pod in self.all:
            if pod.process is not None:
                print(f"--- {pod.role} {pod.address}\n{pod.process.output()[-4000:]}")  # shown when the test fails
                pod.process.__exit__()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def values(**more):
    """The example for CPUs with the demo model on a claim, at ports that are free, KV by TCP over loopback."""
    return chart.merged(chart.example("cpu"), {
        "model": {"name": harness.MODEL_ID, "source": "claim", "claim": {"name": "weights", "path": harness.MODEL.name, "checksums": {WEIGHTS.name: sha256(WEIGHTS)}}},
        "kv": {"netDevices": "lo"}, "ports": {"http": harness.free_port(), "control": harness.free_port(), "admin": harness.free_port()}}, more)


CLAIMS = {"weights": harness.MODEL.parent}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(values(decode={"replicas": 2}), tmp_path_factory.mktemp("pods"), CLAIMS) as cluster:
        yield cluster.start().wait_ready()


def chat(cluster, **fields):
    return harness.post(cluster.port, "/v1/chat/completions", model=harness.MODEL_ID, messages=[{"role": "user", "content": "Once upon a time"}], **fields)


def test_the_pods_serve_a_chat(cluster):
    answer = chat(cluster, max_tokens=16, temperature=0)
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"]
    case = harness.golden_cases()[2]
    completed = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0)
    assert case["prompt"] + completed.json()["choices"][0]["text"] == case["output_text"]


def admin_metrics(cluster, role, name, **labels):
    total = 0
    for pod in cluster.pods[role]:
        connection = http.client.HTTPConnection(pod.address, pod.spec["containers"][0]["ports"][1]["containerPort"], timeout=10)
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if re.match(rf"{name}(\{{|\s)", line) and all(f'{label}="{value}"' in line for label, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        connection.close()
    return total


def test_kv_goes_from_prefill_pods_to_decode_pods(cluster):
    before = admin_metrics(cluster, "decode", "sluice_kv_transfers_total", direction="receive", outcome="ok")
    for index in range(4):
        prompt = f"Number {index}: once upon a time there was a little girl who had a big red ball"
        answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=prompt, max_tokens=8)
        assert answer.status == 200, answer.body
    wait_until(lambda: admin_metrics(cluster, "decode", "sluice_kv_transfers_total", direction="receive", outcome="ok") > before, "KV has come over the network")
    assert admin_metrics(cluster, "decode", "sluice_kv_fallbacks_total") == 0


def test_the_chart_s_own_test_passes_on_them(cluster):
    pod = next(one for one in cluster.rendered if one["kind"] == "Pod")
    words = pod["spec"]["containers"][0]["args"]
    service = next(name for name in chart.of_kind(cluster.rendered, "Service") if not name.endswith("-scheduler"))
    words = [word.replace(f"http://{service}:80", f"http://127.0.0.1:{cluster.port}") for word in words]
    assert f"http://127.0.0.1:{cluster.port}" in words
    done = subprocess.run([str(harness.BINARY), *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_one_that_config_check_accepts(cluster):
    for pod in cluster.all:
        done = subprocess.run([str(harness.BINARY), "config", "check", "--config", str(pod.folder / "config" / "sluice.yaml")], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_a_pod_that_is_to_go_says_so_finishes_and_ends(tmp_path):
    with Cluster(values(), tmp_path, CLAIMS) as cluster:
        cluster.start().wait_ready()
        gateway = cluster.pods["gateway"][0]
        stream = harness.Stream(cluster.port, "/v1/completions", {"model": harness.MODEL_ID, "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True,
                                                                  "temperature": 1, "seed": 1})
        chunks = stream.chunks()
        head = [next(chunks) for _ in range(3)]
        gateway.process.child.terminate()
        wait_until(lambda: not gateway.process.is_alive() or not gateway.probe("readinessProbe"), "it is no longer ready")
        assert harness.text_of([*head, *chunks])  # to the end
        stream.close()
        assert gateway.process.wait(gateway.spec["terminationGracePeriodSeconds"]) == 0
        for role in ("decode", "prefill", "scheduler"):
            assert cluster.pods[role][0].process.stop(seconds=cluster.pods[role][0].spec["terminationGracePeriodSeconds"]) == 0


def test_mixed_workers_need_no_trusted_network(tmp_path):
    """All that the roles say to each other is inside TLS; here, where all are on loopback, because they are told to."""
    always = {"extraArgs": ["--set", "cluster.always_tls=true"]}
    secure = values(cluster={"trustedNetwork": False}, prefill={"replicas": 0}, decode={"replicas": 0}, mixed={"replicas": 2, "threads": 1, **always},
                    gateway=always, scheduler=always)
    with Cluster(secure, tmp_path, CLAIMS) as cluster:
        cluster.start().wait_ready()
        assert chart.config(cluster.rendered)["cluster"]["trusted_network"] is False
        assert chat(cluster, max_tokens=8, temperature=0).status == 200


def test_a_gateway_without_workers_is_alive_and_not_ready(tmp_path):
    with Cluster(values(gateway={"hosts": ["llm.example.org"]}), tmp_path, CLAIMS) as cluster:
        for role in ("scheduler", "gateway"):
            cluster.pods[role][0].start()
        gateway = cluster.pods["gateway"][0]
        wait_until(lambda: gateway.check_alive() and gateway.probe("startupProbe"), "the gateway has started")
        assert gateway.probe("livenessProbe") and not gateway.probe("readinessProbe")
        assert chat(cluster).status == 503
        asked = {host: harness.request(cluster.port, "POST", "/v1/completions", {"prompt": "a"}, {"Host": host}).status
                 for host in ("llm.example.org", "demo-sluice", "demo-sluice.llm.svc:80", "elsewhere.example.org")}
        assert asked == {"llm.example.org": 503, "demo-sluice": 503, "demo-sluice.llm.svc:80": 503, "elsewhere.example.org": 403}


def test_weights_that_are_not_those_stated_keep_a_pod_from_serving(tmp_path):
    wrong = values(model={"claim": {"checksums": {WEIGHTS.name: "0" * 64}}})
    with Cluster(wrong, tmp_path, CLAIMS) as cluster:
        failed = cluster.pods["decode"][0].run_init()
        assert failed is not None and "FAILED" in failed.stdout + failed.stderr


def test_a_key_that_others_can_read_is_refused(tmp_path):
    with Cluster(values(), tmp_path, CLAIMS) as cluster:
        pod = cluster.pods["scheduler"][0]
        (pod.folder / "cluster-key" / "cluster-key").chmod(0o444)
        pod.start()
        assert pod.process.wait() == 2 and "can be read or changed by others" in pod.process.output()


def test_a_pod_with_another_key_is_not_listened_to(tmp_path):
    with Cluster(values(), tmp_path, CLAIMS) as cluster:
        stranger = cluster.pods["decode"][0]
        path = stranger.folder / "cluster-key" / "cluster-key"
        path.chmod(0o600)
        path.write_text(secrets.token_hex(16))
        cluster.start()
        wait_until(lambda: "another cluster key" in stranger.process.output() or "unauthenticated" in stranger.process.output().lower(), "it hears why", 60)
        assert not cluster.pods["gateway"][0].probe("readinessProbe")


def test_examples_name_nothing_that_the_binary_does_not_know(tmp_path):
    """Every argument that a profile gives a role is one of the binary's."""
    for name in ("cpu", "colocated", "gpu"):
        rendered = chart.objects(chart.example(name))
        for role, spec in chart.pods(rendered).items():
            flags = [word for word in spec["containers"][0]["args"] if word.startswith("--")]
            command = ["bench", "serve"] if role == "test" else [role]
            usage = subprocess.run([str(harness.BINARY), *command, "--help"], capture_output=True, text=True, timeout=60).stdout
            assert all(re.search(rf"{re.escape(flag)}\b", usage) for flag in flags), (role, flags)
        (tmp_path / f"{name}.json").write_text(json.dumps(chart.config(rendered)))
        done = subprocess.run([str(harness.BINARY), "config", "check", "--config", str(tmp_path / f"{name}.json"), "--set", "cluster.key_file="], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
