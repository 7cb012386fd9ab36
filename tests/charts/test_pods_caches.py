"""The pods of a release whose caches are on, run on this machine with a real Valkey or Redis server: what was answered or computed once is not computed again, also by pods that were not there."""
import secrets
import signal

import pytest

import chart
import harness
import pods
from harness import wait_until
from key_value import KeyValueServer
from test_pods_run import CLAIMS, values

pytestmark = pytest.mark.process
# What docs/caching.md says that an account on the server needs.
MAY = "+info +get +set +mget +unlink +multi +exec +rpush +ltrim +incr +lrange +scan"
PROMPT = "Once upon a time there was a little girl who had a big red ball. " * 12


def ask(cluster, more):
    answer = harness.request(cluster.port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": PROMPT + more, "max_tokens": 6, "temperature": 0, "ignore_eos": True}, seconds=120)
    assert answer.status == 200, answer.body
    body = answer.json()
    return answer.headers["x-cache"], body["choices"][0]["text"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_answers_outlive_their_gateway_and_kv_its_worker(tmp_path):
    password = secrets.token_hex(8)
    with KeyValueServer("--user", "sluice", "on", f">{password}", "~sluice:*", *MAY.split()) as server:
        assert f"`ACL SETUSER sluice on >PASSWORD ~sluice:* {MAY}`" in (chart.ROOT / "docs" / "caching.md").read_text()
        release = values(caches={"answers": {"enabled": True, "shared": {"address": server.address, "inTheClear": True, "passwordSecret": {"name": "valkey"}, "peers": [{"podSelector": {}}]}},
                                 "kv": {"disk": {"gib": 1}}},
                         config={"caching": {"allow_cut": True, "shared": {"user": "sluice", "patience_ms": 10000}}},
                         prefill={"replicas": 0}, decode={"replicas": 0}, mixed={"replicas": 1, "threads": 1})
        held = {"sluice-key": {"cluster-key": secrets.token_hex(16).encode()}, "valkey": {"password": password.encode()}}
        with pods.Cluster(release, tmp_path, CLAIMS, source=pods.Rendered(chart.objects(release), held)) as cluster:
            cluster.start().wait_ready()
            gateway, worker = cluster.pods["gateway"][0], cluster.pods["mixed"][0]
            wait_until(lambda: gateway.metric("sluice_gateway_cache_shared_current") == 1, "the gateway has its server", 60)
            word, text, _ = ask(cluster, "One.")
            assert word == "MISS" and ask(cluster, "One.")[:2] == ("HIT", text)
            wait_until(lambda: server.documents() >= 1, "the answer is on the server", 60)
            wait_until(lambda: worker.metric("sluice_kv_tier_blocks", tier="disk", state="cached") > 0, "the prompt's KV is on the disk", 60)
            blocks = worker.metric("sluice_kv_tier_blocks", tier="disk", state="cached")
            assert list((worker.folder / "kv").iterdir())

            gateway.process.stop(signal.SIGKILL)
            gateway.start().wait_ready()
            wait_until(lambda: gateway.metric("sluice_gateway_cache_shared_current") == 1, "the new gateway has its server", 60)
            assert ask(cluster, "One.")[:2] == ("HIT", text)

            # As a container that starts again in its pod: the volume is still there.
            assert worker.process.stop() == 0
            worker.start().wait_ready()
            wait_until(lambda: gateway.probe("readinessProbe"), "the gateway has its worker again", 60)
            assert worker.metric("sluice_kv_tier_blocks", tier="disk", state="cached") >= blocks
            word, _, cached = ask(cluster, "Two.")
            assert word == "MISS" and cached >= 64  # of the beginning that both prompts have


def test_what_a_worker_of_a_set_has_on_its_volume_is_there_for_its_successor(tmp_path):
    release = values(prefill={"replicas": 0}, decode={"replicas": 0}, mixed={"replicas": 1, "threads": 1, "kind": "StatefulSet"},
                     caches={"kv": {"disk": {"gib": 1, "storageClassName": "local-nvme"}}})
    with pods.Cluster(release, tmp_path, CLAIMS) as cluster:
        cluster.start().wait_ready()
        gateway, worker = cluster.pods["gateway"][0], cluster.pods["mixed"][0]
        assert worker.name == "demo-sluice-mixed-0"

        def cached_tokens(more):
            answer = harness.request(cluster.port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": PROMPT + more, "max_tokens": 6, "ignore_eos": True}, seconds=120)
            assert answer.status == 200, answer.body
            return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached_tokens("One.") == 0
        wait_until(lambda: worker.metric("sluice_kv_tier_blocks", tier="disk", state="cached") > 0, "the prompt's KV is on the volume", 60)
        assert worker.process.stop() == 0
        successor = cluster.replace(worker)
        assert successor.folder == worker.folder and not list((successor.folder / "cache").iterdir())  # a new pod: what was packed is gone
        successor.start().wait_ready()
        wait_until(lambda: gateway.probe("readinessProbe"), "the gateway has its worker again", 60)
        assert successor.metric("sluice_kv_tier_blocks", tier="disk", state="cached") > 0
        assert cached_tokens("Two.") >= 64
