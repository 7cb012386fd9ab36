"""The pods that the chart renders, run on this machine (pods.py): they serve, drain, and refuse what they should."""
import hashlib
import json
import os
import re
import secrets
import subprocess

import pytest

import chart
import harness
import pods
from harness import wait_until
from pods import Cluster
from test_kubernetes_lease import TOKEN, ApiServer

pytestmark = pytest.mark.process
WEIGHTS = harness.MODEL / "model.safetensors"


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


def test_kv_goes_from_prefill_pods_to_decode_pods(cluster):
    before = cluster.metric("decode", "sluice_kv_transfers_total", direction="receive", outcome="ok")
    for index in range(4):
        prompt = f"Number {index}: once upon a time there was a little girl who had a big red ball"
        answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=prompt, max_tokens=8)
        assert answer.status == 200, answer.body
    wait_until(lambda: cluster.metric("decode", "sluice_kv_transfers_total", direction="receive", outcome="ok") > before, "KV has come over the network")
    assert cluster.metric("decode", "sluice_kv_fallbacks_total") == 0


def test_the_chart_s_own_test_passes_on_them(cluster):
    pod = next(one for one in cluster.rendered if one["kind"] == "Pod")
    words = pod["spec"]["containers"][0]["args"]
    service = next(name for name in chart.of_kind(cluster.rendered, "Service") if not name.endswith("-scheduler"))
    words = [word.replace(f"http://{service}:80", f"http://127.0.0.1:{cluster.port}") for word in words]
    assert f"http://127.0.0.1:{cluster.port}" in words
    done = subprocess.run([str(harness.BINARY), *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^ok +(\w+)", done.stdout, re.MULTILINE) == ["live", "ready", "models", "chat", "stream", "metrics"], done.stdout


def test_what_a_runbook_types_into_a_pod_tells_of_every_worker(cluster):
    """`kubectl exec` of a page: the words after `--`, with the pod's files and the names of the cluster."""
    typed, = re.findall(r"^    kubectl -n NS exec deploy/NAME-gateway -- (sluice .*)$", (chart.ROOT / "docs" / "runbooks" / "README.md").read_text(), re.MULTILINE)
    pod = cluster.pods["gateway"][0]
    typed = typed.replace("NAME", "demo-sluice").replace(":9000", f":{cluster.ports['control']}")
    words = pod.words({"command": typed.split()})
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={key: value for key, value in os.environ.items() if key != "SLUICE_CLUSTER_KEY"})
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    expected = {(role, f"{one.address}:{cluster.ports['control']}") for role in ("prefill", "decode") for one in cluster.pods[role]}
    assert {(row[1], row[5]) for row in rows} == expected and len(rows) == 3, done.stdout


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


def secured(**more):
    """Certificates for all roles, two schedulers that share a Lease, KV over TLS: nothing is in the clear, on loopback too."""
    return values(cluster={"trustedNetwork": False, "certificates": {"enabled": True}}, scheduler={"replicas": 2},
                  config={"scheduler": {"leader_lease_ms": 15000}, "gateway": {"place_wait_max_ms": 110000}, "worker": {"kv_transport": "tls"}}, **more)


def complete(cluster, seed=1):
    answer = harness.request(cluster.port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": "There was", "max_tokens": 8, "temperature": 1, "seed": seed}, seconds=120)
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0]["text"]


@pytest.fixture
def api_server(tmp_path):
    """What the schedulers find at KUBERNETES_SERVICE_HOST, and the account by which they ask: with the Lease as the chart makes it, that nobody holds."""
    pods.certificates(tmp_path / "api", "--role", "gateway/api", "--san", "IP:127.0.0.1")
    server = ApiServer(tmp_path / "api" / "gateway-api", "llm", "demo-sluice")
    lease = chart.of_kind(chart.objects(secured()), "Lease")["demo-sluice"]
    server.lease = {**lease, "metadata": {**lease["metadata"], "namespace": "llm", "resourceVersion": "0"}}
    server.account = {"token": TOKEN.encode(), "namespace": b"llm", "ca.crt": (tmp_path / "api" / "authority" / "tls.crt").read_bytes()}
    server.environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": server.url.rsplit(":", 1)[1]}
    yield server
    server.close()


def test_pods_with_certificates_and_a_lease_serve_through_a_renewal_and_the_leader_s_end(tmp_path, api_server):
    with Cluster(secured(), tmp_path, CLAIMS, environment=api_server.environment, account=api_server.account) as cluster:
        cluster.start().wait_ready()
        text = complete(cluster)
        assert cluster.metric("decode", "sluice_kv_transfers_total", direction="receive", outcome="ok") > 0
        for pod in cluster.all:
            assert f"this process is sluice://sluice/{pod.role}/{pod.role}" in pod.process.output()
        leader, other = cluster.leader_and_other()
        assert api_server.holder() == f"{leader.address}:{leader.spec['containers'][0]['ports'][0]['containerPort']}"

        # Secrets change, and the kubelet brings them.
        renewed = pods.certificates(tmp_path / "renewed", "--authority", str(tmp_path / "certificates" / "authority"))
        cluster.source.secrets |= renewed
        for pod in cluster.all:
            pod.put(next(volume for volume in pod.spec["volumes"] if volume["name"] == "certificate"))
        wait_until(lambda: all(pod.metric("sluice_certificate_changes_total") == 1 for pod in cluster.all), "all have the new ones", 120)
        assert complete(cluster) == text

        leader.process.child.kill()
        assert complete(cluster) == text  # waits in the gateway until somebody leads
        assert api_server.holder() == f"{other.address}:{other.spec['containers'][0]['ports'][0]['containerPort']}"
        leader.start()  # as the kubelet does
        leader.wait_ready()
        assert complete(cluster) == text


def test_with_api_keys_the_probes_pass_and_nobody_else_without_a_key(tmp_path):
    """And helm test with the key that it is given."""
    def add(*flags):
        done = subprocess.run([str(harness.BINARY), "keys", "add", "--file", str(tmp_path / "keys.json"), *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return re.search(r"sk-\S+", done.stdout)[0]

    client, admin = add("--name", "client"), add("--name", "prometheus", "--scopes", "admin")
    keyed = values(gateway={"keys": {"existingSecret": "api-keys"}}, test={"apiKeySecret": {"name": "client"}}, cluster={"trustedNetwork": True}, prefill={"replicas": 0},
                   decode={"replicas": 0}, mixed={"replicas": 1, "threads": 1})
    held = {"sluice-key": {"cluster-key": secrets.token_hex(16).encode()}, "api-keys": {"keys.json": (tmp_path / "keys.json").read_bytes()}}
    with Cluster(keyed, tmp_path, CLAIMS, source=pods.Rendered(chart.objects(keyed), held)) as cluster:
        cluster.start()
        for pod in cluster.all:
            pod.wait_ready()
        assert chat(cluster).status == 401
        body = {"model": harness.MODEL_ID, "prompt": "There was", "max_tokens": 4}
        assert harness.request(cluster.port, "POST", "/v1/completions", body, {"Authorization": f"Bearer {client}"}).status == 200
        scraped = {key: harness.request(cluster.port, "GET", "/metrics", None, {"Authorization": f"Bearer {key}"}).status for key in (client, admin)}
        assert scraped == {client: 403, admin: 200}
        test = chart.pods(cluster.rendered)["test"]["containers"][0]
        words = [word.replace("http://demo-sluice:80", f"http://127.0.0.1:{cluster.port}") for word in test["args"]]
        assert "SLUICE_API_KEY" in {variable["name"] for variable in test["env"]}
        for key, passes in ((client, True), ("sk-another", False)):
            done = subprocess.run([str(harness.BINARY), *words], capture_output=True, text=True, timeout=120, env={**os.environ, "SLUICE_API_KEY": key})
            assert (done.returncode == 0) == passes, done.stdout + done.stderr


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


def test_what_a_route_lets_in_is_answered_and_what_a_picker_reads_is_there(tmp_path):
    routed = values(gateway={"hosts": ["llm.example.org"], "route": {"enabled": True, "parentRefs": [{"name": "public"}]},
                             "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}, networkPolicy={"proxies": [{"podSelector": {}}]},
                    prefill={"replicas": 0}, decode={"replicas": 0}, mixed={"replicas": 1, "threads": 1})
    with Cluster(routed, tmp_path, CLAIMS) as cluster:
        cluster.start().wait_ready()
        route, = chart.of_kind(cluster.rendered, "HTTPRoute").values()
        pool, = chart.of_kind(cluster.rendered, "InferencePool").values()
        port, = (one["number"] for one in pool["spec"]["targetPorts"])
        prefix, = (match["path"]["value"] for match in route["spec"]["rules"][0]["matches"])
        for host in route["spec"]["hostnames"]:
            for path, body in (("completions", {"prompt": "a", "max_tokens": 4}), ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4})):
                answer = harness.request(port, "POST", f"{prefix}/{path}", {"model": harness.MODEL_ID, **body}, {"Host": host})
                assert answer.status == 200, answer.body
            assert harness.request(port, "GET", f"{prefix}/models", None, {"Host": host}).status == 200
        page = (chart.CHART / "README.md").read_text()
        sentence, = (line for line in page.splitlines() if "under vLLM's names" in line)
        told = re.findall(r"`((?:vllm:|sluice_gateway_)\w+)`", sentence)
        assert len(told) == 4
        metrics = cluster.pods["gateway"][0].get("http", "/metrics")[1]
        assert [name for name in told if not re.search(rf"^{name}\{{", metrics, re.MULTILINE)] == []


def test_weights_that_are_not_those_stated_keep_a_pod_from_serving(tmp_path):
    wrong = values(model={"claim": {"checksums": {WEIGHTS.name: "0" * 64}}})
    with Cluster(wrong, tmp_path, CLAIMS) as cluster:
        failed = cluster.pods["decode"][0].run_init()
        assert failed is not None and "FAILED" in failed.stdout + failed.stderr


def test_a_key_that_others_can_read_is_refused(tmp_path):
    with Cluster(values(), tmp_path, CLAIMS) as cluster:
        pod = cluster.pods["scheduler"][0]
        pod.file("cluster-key/cluster-key").chmod(0o444)
        pod.start()
        assert pod.process.wait() == 2 and "can be read or changed by others" in pod.process.output()


def test_a_pod_with_another_key_is_not_listened_to(tmp_path):
    with Cluster(values(), tmp_path, CLAIMS) as cluster:
        stranger = cluster.pods["decode"][0]
        path = stranger.file("cluster-key/cluster-key")
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
            command = ["smoke"] if role == "test" else [role]
            usage = subprocess.run([str(harness.BINARY), *command, "--help"], capture_output=True, text=True, timeout=60).stdout
            assert all(re.search(rf"{re.escape(flag)}\b", usage) for flag in flags), (role, flags)
        (tmp_path / f"{name}.json").write_text(json.dumps(chart.config(rendered)))
        done = subprocess.run([str(harness.BINARY), "config", "check", "--config", str(tmp_path / f"{name}.json"), "--set", "cluster.key_file="], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
