"""What the chart refuses, and that it says what to do instead. Each is a slip that some chart for serving language models has or had."""
import pytest

import chart
from chart import LEAST, Refused, merged

CLAIM = {"model": {"name": "m", "source": "claim", "claim": {"name": "models", "path": "m"}}}
ROUTE = {"enabled": True, "parentRefs": [{"name": "public"}]}
PROXIES = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
SHARED = {"address": "valkey:6379", "inTheClear": True, "peers": [{"podSelector": {"matchLabels": {"app": "valkey"}}}]}
STORE = {"endpoint": "https://objects.example.org", "bucket": "kv-of-demo", "credentialsSecret": {"name": "store"}, "peers": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]}
CHECKED = merged(CLAIM, {"model": {"claim": {"checksums": {"model.safetensors": "0" * 64}}}})


def refused(*values):
    with pytest.raises(Refused) as error:
        chart.text(merged(LEAST, *values))
    return str(error.value)


def test_the_least_that_an_operator_says_renders():
    assert "kind: Deployment" in chart.text(LEAST)


@pytest.mark.parametrize("without, said", [
    ("image", "image.repository is required"),
    ("cluster", "cluster.existingSecret is required"),
    ("model", "model.name is required"),
])
def test_what_must_be_said_is_asked_for(without, said):
    with pytest.raises(Refused) as error:
        chart.text({key: value for key, value in LEAST.items() if key != without})
    assert said in str(error.value)


@pytest.mark.parametrize("values, said", [
    # Keys that nobody reads are mistakes, at every level.
    ({"replicas": 2}, "replicas"),
    ({"prefill": {"replica": 2}}, "replica"),
    ({"decode": {"autoscaling": {"enable": True}}}, "enable"),
    ({"monitoring": {"rules": {"objectives": {"ttfb": 0.9}}}}, "ttfb"),
    ({"config": {"gatway": {}}}, "gatway"),
    # As the settings themselves have it: keys, types and bounds.
    ({"config": {"caching": {"ttl": 5}}}, "ttl"),
    ({"config": {"scheduler": {"suspect_ms": "soon"}}}, "suspect_ms"),
    ({"config": {"worker": {"batch_sequences_max": 0}}}, "batch_sequences_max"),
    ({"config": {"test": {"kv_fault_plan": "drop"}}}, "test"),
    # Caches that nobody could reach, or that would be somewhere else than the chart knows.
    ({"config": {"caching": {"enabled": True}}}, "config.caching.enabled is written by the chart: say caches.answers.enabled"),
    ({"config": {"engine": {"kv_disk": {"path": "/tmp"}}}}, "config.engine.kv_disk.path is written by the chart: say caches.kv.disk"),
    ({"config": {"engine": {"kv_s3": {"endpoint": "https://x"}}}}, "config.engine.kv_s3.endpoint is written by the chart: say caches.kv.store"),
    ({"config": {"caching": {"store_file": "/tmp/answers"}}}, "config.caching.store_file has no volume to be on"),
    ({"caches": {"answers": {"shared": SHARED}}}, "caches.answers.enabled is false"),
    ({"caches": {"answers": {"enabled": True, "shared": {**SHARED, "inTheClear": False}}}}, "caches.answers.shared.inTheClear must be true"),
    ({"caches": {"answers": {"enabled": True, "shared": {**SHARED, "peers": []}}}}, "caches.answers.shared.peers is required with networkPolicy"),
    ({"caches": {"answers": {"enabled": True, "shared": {**SHARED, "address": "valkey"}}}}, "address"),
    ({"caches": {"answers": {"enabled": True, "shared": {**SHARED, "password": "secret"}}}}, "password"),
    ({"caches": {"kv": {"store": {**STORE, "bucket": ""}}}}, "caches.kv.store.bucket is required"),
    ({"caches": {"kv": {"store": {**STORE, "credentialsSecret": {}}}}}, "caches.kv.store.credentialsSecret.name is required"),
    ({"caches": {"kv": {"store": {**STORE, "peers": []}}}}, "caches.kv.store.peers is required with networkPolicy"),
    ({"caches": {"kv": {"disk": {"gib": 0.5}}}}, "gib"),
    # Images whose content changes under the same name.
    ({"image": {"tag": "latest"}}, "image.tag is latest"),
    ({"image": {"digest": "sha256:12"}}, "digest"),
    # A secret is named, never written down.
    ({"cluster": {"key": "0123456789abcdef0123456789abcdef"}}, "key"),
    ({"config": {"cluster": {"key": "0123456789abcdef0123456789abcdef"}}}, "cluster"),
    ({"model": {"pull": {"token": "hf_secret"}}}, "token"),
    # Pods that are killed while they finish.
    ({"decode": {"terminationGracePeriodSeconds": 305}}, "decode.terminationGracePeriodSeconds is 305: it must be more than preStopSeconds + drainSeconds + 5 = 305"),
    ({"gateway": {"preStopSeconds": 60, "terminationGracePeriodSeconds": 120}}, "gateway.terminationGracePeriodSeconds"),
    ({"config": {"worker": {"drain_timeout_ms": 900000}}}, "config.worker.drain_timeout_ms is written by the chart"),
    ({"config": {"gateway": {"drain_timeout_ms": 900000}}}, "config.gateway.drain_timeout_ms is written by the chart"),
    # A share is between 0 and 1: a target of 70 would never be reached.
    ({"decode": {"autoscaling": {"kvUsage": 70}}}, "kvUsage"),
    ({"decode": {"autoscaling": {"saturation": 80}}}, "saturation"),
    # Decode is not scaled on TTFT, prefill not on the KV memory of decode.
    ({"decode": {"autoscaling": {"ttftSeconds": 1}}}, "ttftSeconds"),
    ({"prefill": {"autoscaling": {"kvUsage": 0.5}}}, "kvUsage"),
    # What scales asks a Prometheus that knows the series.
    ({"decode": {"autoscaling": {"enabled": True}}}, "decode.autoscaling needs monitoring.enabled"),
    ({"decode": {"autoscaling": {"enabled": True}}, "monitoring": {"enabled": True}}, "autoscaling.prometheusUrl is required"),
    ({"decode": {"autoscaling": {"enabled": True, "minReplicas": 5}}, "monitoring": {"enabled": True}, "autoscaling": {"kind": "hpa"}}, "maxReplicas is below minReplicas"),
    ({"monitoring": {"enabled": True, "interval": "10s"}}, "monitoring.scrapeTimeout must be less"),
    # Roles that cannot serve.
    ({"prefill": {"replicas": 0}}, "nobody can serve a whole request"),
    ({"decode": {"replicas": 0}}, "nobody can serve a whole request"),
    ({"encode": {"replicas": 1}}, "encoder.name names no encoder"),
    ({"encoder": {"name": "e", "pull": {"from": "e"}}}, "encode.replicas is 0"),
    ({"kv": {"netDevices": ""}}, "kv.netDevices is empty"),
    ({"kv": {"ucxEnvironment": {"LD_PRELOAD": "x"}}}, "LD_PRELOAD"),
    # Weights that nobody has vouched for, or that change.
    (CLAIM, "model.claim.checksums is empty"),
    ({"model": {"source": "claim", "claim": {"path": "m"}}}, "model.claim.name is required"),
    ({"model": {"source": "pull"}}, "model.pull.from is required"),
    ({"model": {"source": "pull", "pull": {"from": "hf:org/repo"}}}, "has no revision"),
    ({"model": {"source": "pull", "pull": {"from": "pip:a==1"}}}, "the image has no pip"),
    ({"model": {"source": "pull", "pull": {"from": "https://example.org/m.gguf"}}}, "model.pull.sha256 is required"),
    ({"model": {"source": "claim", "claim": {"checksums": {"a": "12"}}}}, "checksums"),
    ({"model": {"source": "image"}}, "model.image.reference is required"),
    ({"model": {"source": "image", "image": {"reference": "registry.example.org/m:latest"}}}, "reference"),
    ({"encoder": {"name": "e", "source": "image"}, "encode": {"replicas": 1}}, "source"),
    # A place for models that nobody uses, or two.
    ({"model": {"store": {"create": {"size": "10Gi"}}}}, "a claim that nobody would use"),
    ({"model": {"source": "pull", "pull": {"from": "m"}, "store": {"existingClaim": "c", "create": {"size": "10Gi"}}}}, "model.store.existingClaim and model.store.create"),
    # What a StatefulSet does not know.
    ({"decode": {"kind": "DaemonSet"}}, "kind"),
    ({"decode": {"kind": "StatefulSet", "maxSurge": 1}}, "the pods of a StatefulSet are replaced one at a time"),
    ({"gateway": {"kind": "StatefulSet"}}, "kind"),
    ({"decode": {"autoscaling": {"tpotMissed": 20}}}, "tpotMissed"),
    ({"prefill": {"autoscaling": {"tpotMissed": 0.2}}}, "tpotMissed"),
    # Budgets and rollouts that never end.
    ({"decode": {"pdb": {"maxUnavailable": 0}}}, "no node could ever be drained"),
    ({"decode": {"maxSurge": 0, "maxUnavailable": 0}}, "no pod could ever be replaced"),
    ({"prefill": {"gpus": 1, "resources": {"limits": {"nvidia.com/gpu": "1"}}}}, "say prefill.gpus instead"),
    ({"securityContext": {"runAsUser": 0}}, "runAsUser"),
    ({"scheduler": {"replicas": 4}}, "replicas"),
    ({"decode": {"gpus": 1, "dra": {"deviceClassName": "gpu.example.com"}}}, "decode.gpus and decode.dra both ask for devices"),
    # Spans that a policy would swallow.
    ({"config": {"tracing": {"otlp_endpoint": "http://otel.tracing.svc:4318"}}}, "networkPolicy.collector is required with config.tracing.otlp_endpoint"),
    # A device that nobody would compute on.
    ({"decode": {"gpus": 2}}, "decode.gpus is 2: a worker of this version computes on one device"),
    ({"decode": {"dra": {"deviceClassName": "gpu.example.com", "count": 2}}}, "decode.dra.count is 2: a worker of this version computes on one device"),
    ({"encoder": {"name": "e", "pull": {"from": "all-minilm-l6-v2"}}, "encode": {"replicas": 1, "gpus": 1}}, "sentence encoders compute on processors"),
    # Routes that lead nowhere, and pods that their proxies cannot reach.
    ({"gateway": {"route": {"enabled": True}}}, "gateway.route.parentRefs is required"),
    ({"gateway": {"route": {"enabled": True, "parentRefs": [{"namespace": "ingress"}]}}}, "name"),
    ({"gateway": {"route": {"parentRef": []}}}, "parentRef"),
    ({"gateway": {"route": ROUTE}}, "networkPolicy.proxies is required with gateway.route"),
    ({"gateway": {"inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}}, "networkPolicy.proxies is required with gateway.route or gateway.inferencePool"),
    ({"gateway": {"inferencePool": {"enabled": True}}, "networkPolicy": {"proxies": PROXIES}}, "gateway.inferencePool.endpointPicker.name is required"),
    ({"gateway": {"inferencePool": {"failureMode": "Retry"}}}, "failureMode"),
    ({"gateway": {"hosts": ["a.example.org"], "route": {**ROUTE, "hostnames": ["b.example.org"]}}, "networkPolicy": {"proxies": PROXIES}},
     "gateway.route.hostnames has b.example.org, which gateway.hosts does not"),
    ({"gateway": {"route": {"hostnames": ["https://a.example.org"]}}}, "hostnames"),
    ({"gateway": {"route": {"paths": ["v1"]}}}, "paths"),
    ({"gateway": {"route": {"requestTimeout": "forever"}}}, "requestTimeout"),
    # API keys by name; and nobody who then needs one is left without.
    ({"gateway": {"keys": {"keys": ["sk-1"]}}}, "keys"),
    ({"config": {"gateway": {"keys_file": "/tmp/keys.json"}}}, "config.gateway.keys_file is written by the chart"),
    ({"gateway": {"keys": {"existingSecret": "s"}}}, "test.apiKeySecret.name is required with gateway.keys"),
    ({"gateway": {"keys": {"existingSecret": "s"}}, "test": {"enabled": False}, "monitoring": {"enabled": True}}, "monitoring.apiKeySecret.name is required with gateway.keys"),
    ({"adminKeys": {"existingSecret": "s"}, "monitoring": {"enabled": True}}, "monitoring.apiKeySecret.name is required with adminKeys"),
    ({"config": {"admin": {"keys_file": "/tmp/keys.json"}}}, "config.admin.keys_file is written by the chart"),
    ({"config": {"scheduler": {"leader_lease": "/tmp/x"}}}, "config.scheduler.leader_lease is written by the chart"),
    ({"cluster": {"certificates": {"enabled": True}, "admitWithoutKey": True}}, "contradict each other"),
])
def test_a_slip_is_refused_with_what_to_do(values, said):
    assert said in refused(values)


def test_an_artifact_wants_a_kubernetes_that_mounts_it():
    values = merged(LEAST, {"model": {"source": "image", "image": {"reference": "r/m@sha256:" + "0" * 64}}})
    with pytest.raises(Refused) as error:
        chart.text(values, version="1.32.0")
    assert "model.source image needs Kubernetes 1.33 or newer" in str(error.value)
    assert "image:" in chart.text(values, version="1.33.0")


def test_what_is_refused_by_one_value_is_rendered_by_another():
    chart.text(merged(LEAST, CHECKED))
    chart.text(merged(LEAST, CLAIM, {"model": {"claim": {"allowUnverified": True}}}))
    chart.text(merged(LEAST, {"decode": {"terminationGracePeriodSeconds": 306}}))
    chart.text(merged(LEAST, {"model": {"source": "pull", "pull": {"from": "hf:org/repo@0123abc"}}}))
    alone = {"prefill": {"replicas": 0}, "decode": {"replicas": 0}, "mixed": {"replicas": 1}}
    chart.text(merged(LEAST, alone, {"kv": {"netDevices": ""}}))
    chart.text(merged(LEAST, {"cluster": {"trustedNetwork": False}}))
    chart.text(merged(LEAST, {"gateway": {"route": ROUTE}, "networkPolicy": {"proxies": PROXIES}}))
    chart.text(merged(LEAST, {"gateway": {"route": ROUTE}, "networkPolicy": {"enabled": False}}))
    chart.text(merged(LEAST, {"caches": {"answers": {"enabled": True, "shared": {**SHARED, "peers": []}}, "kv": {"store": {**STORE, "peers": []}}}, "networkPolicy": {"enabled": False}}))
    chart.text(merged(LEAST, {"caches": {"answers": {"enabled": True}, "kv": {"hostGiB": 1, "disk": {"gib": 1}}}}))
