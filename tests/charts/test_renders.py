"""What the chart renders: as looked at before (golden/), valid for Kubernetes and the operators, and right in itself."""
import json
import os
import re
import subprocess
import tarfile

import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart
import harness
from chart import LEAST, WORKERS, merged
from monitoring import catalogue, rules

GOLDEN = chart.ROOT / "tests" / "charts" / "golden"
PROFILES = {name: chart.example(name) for name in ("cpu", "colocated", "gpu")}
PROFILES["hpa"] = merged(PROFILES["gpu"], {"autoscaling": {"kind": "hpa", "prometheusUrl": ""}, "monitoring": {"rules": {"runbookUrl": ""}}})
PROFILES["secured"] = merged(PROFILES["cpu"], {"cluster": {"trustedNetwork": False, "certificates": {"enabled": True}}, "scheduler": {"replicas": 2}})
PROFILES["bare"] = merged(LEAST, {"networkPolicy": {"enabled": False}, "test": {"enabled": False}, "serviceAccount": {"create": False, "name": "mine"}})
PROXIES = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
PROFILES["routed"] = merged(PROFILES["cpu"], {
    "gateway": {"hosts": ["llm.example.org"], "route": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "ingress", "sectionName": "https"}]},
                "inferencePool": {"enabled": True, "endpointPicker": {"name": "picker"}}}, "networkPolicy": {"proxies": [PROXIES]}})
VALKEY, STORE = {"podSelector": {"matchLabels": {"app": "valkey"}}}, {"ipBlock": {"cidr": "192.0.2.7/32"}}
PROFILES["cached"] = merged(PROFILES["cpu"], {
    "config": {"caching": {"bytes_max": 536870912, "shared": {"name": "demo"}}, "engine": {"kv_disk": {"io": "page_cache"}}},
    "caches": {"answers": {"enabled": True, "shared": {"address": "valkey.stores.svc:6379", "inTheClear": True, "passwordSecret": {"name": "valkey"}, "peers": [VALKEY]}},
               "kv": {"hostGiB": 2, "disk": {"gib": 64, "storageClassName": "local-nvme"},
                      "store": {"endpoint": "https://objects.example.org", "bucket": "kv-of-demo", "credentialsSecret": {"name": "store"}, "peers": [STORE]}}}})
# Workers that keep their names and volumes, models in one claim that the chart makes.
PROFILES["stable"] = merged(PROFILES["hpa"], {
    "model": {"source": "pull", "pull": {"from": "hf:org/repo@0123abc"}, "store": {"create": {"size": "100Gi", "storageClassName": "shared"}}},
    "caches": {"kv": {"disk": {"gib": 64, "storageClassName": "local-nvme"}}}, "prefill": {"kind": "StatefulSet", "autoscaling": {"enabled": False}}, "decode": {"kind": "StatefulSet", "autoscaling": {"tpotMissed": 0.2}}})
KUBERNETES = ("1.30", "1.33", "1.37")
CUSTOM = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1", "inference.networking.k8s.io/v1"}
every_profile = pytest.mark.parametrize("profile", PROFILES)


@pytest.fixture
def rendered(profile):
    return chart.objects(PROFILES[profile])


def test_lint_finds_nothing():
    for name in ("cpu", "colocated", "gpu"):
        done = chart.helm("lint", "--strict", "--kube-version", chart.KUBERNETES, chart.CHART, "--values", chart.EXAMPLES / f"{name}.yaml", "--set", "image.repository=r", check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@every_profile
def test_the_render_is_the_one_that_was_looked_at(profile):
    """UPDATE_GOLDEN=1 writes it anew: look at the difference. Rules and boards are left out; they have tests of their own."""
    kept = [one for one in chart.objects(PROFILES[profile]) if one["kind"] != "PrometheusRule" and not one["metadata"]["name"].endswith("-board")]
    text = yaml.safe_dump_all(kept, sort_keys=True, width=160)
    path = GOLDEN / f"{profile}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} is not what the chart renders; UPDATE_GOLDEN=1 make chart-test writes it anew"


@every_profile
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid_for_kubernetes(rendered, version):
    for one in rendered:
        if one["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def custom_schemas():
    """(apiVersion, kind) -> schema, of the operators' own definitions."""
    found = {}
    for path in (chart.TOOLS / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        for version in definition["versions"]:
            found[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    return found


def closed(schema):
    """The schema with every object that lists its fields closed to others; an API server would drop those."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


@every_profile
def test_every_object_of_an_operator_is_valid_for_it(rendered):
    schemas = custom_schemas()
    own = [one for one in rendered if one["apiVersion"] in CUSTOM]
    for one in own:
        schema = closed(schemas[one["apiVersion"], one["kind"]])
        schema["properties"]["metadata"] = {"type": "object"}
        problems = [f"{one['kind']} {'/'.join(map(str, error.absolute_path))}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(one)]
        assert problems == []


def test_a_field_that_an_operator_does_not_know_would_be_found():
    rendered = chart.objects(PROFILES["gpu"])
    monitor = next(iter(chart.of_kind(rendered, "PodMonitor").values()))
    monitor["spec"]["podMetricsEndpoints"][0]["scrapeTimeOut"] = "1s"
    schema = closed(custom_schemas()["monitoring.coreos.com/v1", "PodMonitor"])
    assert "scrapeTimeOut" in str([error.message for error in jsonschema.Draft7Validator(schema).iter_errors(monitor)])


def test_a_field_that_kubernetes_does_not_know_would_be_found():
    broken = json.loads(json.dumps(chart.deployment(chart.objects(LEAST), "decode")))
    broken["spec"]["template"]["spec"]["containers"][0]["readyness"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


@every_profile
def test_names_are_unique_and_labels_say_whose_it_is(rendered):
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered]
    assert len(names) == len(set(names))
    for one in rendered:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo", one["metadata"]["name"]


@every_profile
def test_selectors_find_pods_and_ports_have_names(rendered):
    all_labels = [one["spec"]["template"]["metadata"]["labels"] for one in chart.workloads(rendered)]
    all_labels += [one["metadata"]["labels"] for one in rendered if one["kind"] == "Pod"]
    port_names = {port["name"] for spec in chart.pods(rendered).values() for one in spec["containers"] for port in one.get("ports", [])}

    def finds(selector):
        wanted = selector.get("matchLabels", {})
        terms = selector.get("matchExpressions", [])
        return [labels for labels in all_labels if wanted.items() <= labels.items()
                and all(labels.get(term["key"]) in term["values"] for term in terms if term["operator"] == "In")]

    for one in rendered:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert finds(spec["selector"]) == [spec["template"]["metadata"]["labels"]]
        elif one["kind"] == "Service":
            assert len(finds({"matchLabels": spec["selector"]})) == 1
            assert {port["targetPort"] for port in spec["ports"]} <= port_names
        elif one["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            assert finds(spec["selector"])
        elif one["kind"] == "InferencePool":
            assert [labels["app.kubernetes.io/component"] for labels in finds(spec["selector"])] == ["gateway"]
            assert [port["number"] for port in spec["targetPorts"]] == [port["containerPort"] for port in chart.pod(rendered, "gateway")["containers"][0]["ports"]]
        elif one["kind"] == "HTTPRoute":
            for backend in (backend for rule in spec["rules"] for backend in rule["backendRefs"]):
                target = chart.of_kind(rendered, backend.get("kind", "Service"))[backend["name"]]
                assert target["kind"] == "InferencePool" or backend["port"] in {port["port"] for port in target["spec"]["ports"]}
        elif one["kind"] == "NetworkPolicy" and not one["metadata"]["name"].endswith("-test"):
            assert finds(spec["podSelector"]), one["metadata"]["name"]
        elif one["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
            assert spec["scaleTargetRef"]["name"] in chart.of_kind(rendered, spec["scaleTargetRef"].get("kind", "Deployment"))
        for endpoint in [*spec.get("endpoints", []), *spec.get("podMetricsEndpoints", [])]:
            assert endpoint["port"] in port_names | {"http"}


@every_profile
def test_every_container_is_held_as_tight_as_it_can_be(rendered):
    claims = {one["metadata"]["name"] for kept in chart.of_kind(rendered, "StatefulSet").values() for one in kept["spec"].get("volumeClaimTemplates", [])}
    for role, spec in chart.pods(rendered).items():
        # Who asks the API server: several schedulers, for their Lease.
        assert spec["automountServiceAccountToken"] is (role == "scheduler" and bool(chart.of_kind(rendered, "Lease")))
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in chart.containers(spec):
            security = one["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True, (role, one["name"])
            assert security["capabilities"]["drop"] == ["ALL"]
            assert set(security["capabilities"].get("add", [])) <= ({"IPC_LOCK"} if role in WORKERS and profile_has_rdma(rendered) else set())
            assert "memory" in one["resources"]["limits"] and "cpu" not in one["resources"]["limits"], "a CPU limit throttles steps"
            assert not re.search(r":latest$|^[^:@]+$", one["image"])
            mounts = {mount["name"] for mount in one.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in spec["volumes"]} | claims


def profile_has_rdma(rendered):
    return any(key.startswith("rdma/") for spec in chart.pods(rendered).values() for one in spec["containers"] for key in one["resources"]["limits"])


@every_profile
def test_no_secret_is_written_down(rendered):
    assert not chart.of_kind(rendered, "Secret")
    for spec in chart.pods(rendered).values():
        for one in chart.containers(spec):
            for variable in one.get("env", []):
                assert not re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]) or "secretKeyRef" in variable.get("valueFrom", {}), variable
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440  # the process refuses a key that others can read
    assert "key" not in chart.config(rendered)["cluster"]


@every_profile
def test_pods_have_the_time_to_finish_that_their_configuration_gives_them(rendered):
    settings = chart.config(rendered)
    for role, spec in chart.pods(rendered).items():
        if role in ("test", "scheduler"):
            continue
        container = spec["containers"][0]
        wait = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if role == "gateway":
            drain_ms = settings["gateway"]["drain_timeout_ms"]
            assert wait > 0, "a Service still sends to a pod that is going"
        else:
            drain_ms = int(re.search(r"worker\.drain_timeout_ms=(\d+)", " ".join(container["args"]))[1])
        assert spec["terminationGracePeriodSeconds"] > wait + drain_ms / 1000 + 5, role


@every_profile
def test_probes_ask_what_they_are_for(rendered):
    for role, spec in chart.pods(rendered).items():
        if role == "test":
            continue
        container = spec["containers"][0]
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == "/live"  # never asks others: a dead peer restarts nobody
        patience = container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"]
        assert patience >= {"gateway": 120, "scheduler": 60, "encode": 300}.get(role, 900)


def test_the_pods_restart_when_their_configuration_changes():
    def sums(values):
        rendered = chart.objects(values)
        return {role: chart.deployment(rendered, role)["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for role in ("gateway", "scheduler", "decode")}

    before, after = sums(LEAST), sums(merged(LEAST, {"config": {"scheduler": {"heartbeat_ms": 100}}}))
    assert all(before[role] != after[role] for role in before)
    assert sums(merged(LEAST, {"gateway": {"replicas": 3}})) == before


def test_an_archive_of_the_chart_renders_as_its_folder(tmp_path):
    chart.helm("package", chart.CHART, "--destination", tmp_path)
    archive, = tmp_path.glob("sluice-*.tgz")
    with tarfile.open(archive) as packed:
        held = {name.split("/")[1] for name in packed.getnames()}
    assert held - {".helmignore"} == {"Chart.yaml", "README.md", "files", "templates", "values.schema.json", "values.yaml"}
    (tmp_path / "values.json").write_text(json.dumps(PROFILES["gpu"]))
    done = chart.helm("template", "demo", archive, "--namespace", "llm", "--kube-version", chart.KUBERNETES, "--values", tmp_path / "values.json")
    assert done.stdout == chart.text(PROFILES["gpu"])


def test_settings_of_the_operator_are_kept_beside_those_of_the_chart():
    settings = chart.config(chart.objects(PROFILES["gpu"]))
    assert settings["slo_classes"]["chat"] == {"ttft_ms": 500, "tpot_ms": 30}
    assert settings["gateway"] == {"drain_timeout_ms": 60000, "hosts": ["llm.example.org", "demo-sluice", "demo-sluice.llm", "demo-sluice.llm.svc", "demo-sluice.llm.svc.cluster.local"]}
    assert settings["worker"] == {"kv_net_devices": "mlx5_0:1,eth0", "kv_ucx_environment": ["UCX_TLS"]}


def test_an_autoscaled_role_leaves_its_count_to_the_autoscaler():
    rendered = chart.objects(PROFILES["gpu"])
    assert "replicas" not in chart.deployment(rendered, "decode")["spec"]
    assert chart.deployment(rendered, "encode")["spec"]["replicas"] == 1
    scaled = {one["metadata"]["name"].rsplit("-", 1)[1]: one["spec"] for one in rendered if one["kind"] == "ScaledObject"}
    assert set(scaled) == {"gateway", "prefill", "decode"}
    for role, spec in scaled.items():
        assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
        assert spec["fallback"]["behavior"] == "currentReplicas"
        for trigger in spec["triggers"]:
            assert trigger["metricType"] == "AverageValue"  # of no other kind does KEDA keep a fallback
            catalogue.check(trigger["metadata"]["query"], catalogue.read())
            assert 'sluice_cluster="llm-demo"' in trigger["metadata"]["query"]
            if "ratio" in trigger["metadata"]["query"]:
                assert 0 < float(trigger["metadata"]["threshold"]) <= 1
    queries = " ".join(trigger["metadata"]["query"] for trigger in scaled["decode"]["triggers"])
    assert "time_to_first_token" not in queries and "prefill" not in queries


def test_what_is_scraped_bears_the_label_that_rules_and_autoscalers_ask_for():
    rendered = chart.objects(PROFILES["gpu"])
    monitors = [*chart.of_kind(rendered, "ServiceMonitor").values(), *chart.of_kind(rendered, "PodMonitor").values()]
    assert len(monitors) == 2
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        for endpoint in [*monitor["spec"].get("endpoints", []), *monitor["spec"].get("podMetricsEndpoints", [])]:
            assert endpoint["relabelings"] == [{"targetLabel": "sluice_cluster", "replacement": "llm-demo"}]
            assert endpoint["honorLabels"] is False
    scraped = {term for monitor in monitors for rule in monitor["spec"]["selector"].get("matchExpressions", []) for term in rule["values"]} | {"gateway"}
    assert scraped == set(chart.pods(rendered)) - {"test"}


def test_the_rules_in_the_chart_are_those_that_are_tested_with_its_objectives():
    rendered = chart.objects(merged(PROFILES["gpu"], {"monitoring": {"rules": {"objectives": {"ttft": 0.99}}}}))
    groups = {group["name"]: group["rules"] for group in next(iter(chart.of_kind(rendered, "PrometheusRule").values()))["spec"]["groups"]}
    plain = {group["name"]: group["rules"] for group in yaml.safe_load((chart.CHART / "files" / "rules.yaml").read_text())["groups"]}
    assert {rule["labels"]["slo"]: rule["expr"] for rule in groups.pop("sluice-objectives")} == \
        {slo: f"vector({0.99 if slo == 'ttft' else objective})" for slo, objective in rules.OBJECTIVES.items()}
    del plain["sluice-objectives"]
    for name, expected in plain.items():
        for rule, other in zip(groups[name], expected, strict=True):
            if "annotations" in rule:
                assert rule["annotations"].pop("runbook_url") == \
                    other["annotations"].pop("runbook_url").replace("docs/runbooks", "https://wiki.example.org/sluice/runbooks")
            assert rule == other
    boards = {key: json.loads(text) for one in rendered if one["metadata"]["name"].endswith("-board") for key, text in one["data"].items()}
    assert boards == {path.name: json.loads(path.read_text()) for path in (chart.CHART / "files" / "dashboards").glob("*.json")}
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "1" for one in rendered if one["metadata"]["name"].endswith("-board"))


class Network:
    """Which pods may connect to which, as NetworkPolicies say."""

    def __init__(self, rendered):
        self.labels = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["metadata"]["labels"]
                       for one in chart.workloads(rendered)}
        self.policies = [one["spec"] for one in rendered if one["kind"] == "NetworkPolicy"]

    @staticmethod
    def selects(selector, labels):
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", []))

    def allows(self, direction, role, other, port):
        """`direction`: Ingress of `role` from `other`, or Egress of `role` to it."""
        mine = [policy for policy in self.policies if self.selects(policy["podSelector"], self.labels[role]) and direction in policy["policyTypes"]]
        assert mine, "nothing holds this pod"
        peers = {"Ingress": "from", "Egress": "to"}[direction]
        for policy in mine:
            for rule in policy.get(direction.lower(), []):
                if rule.get("ports") and all(one["port"] != port for one in rule["ports"]):
                    continue
                if any("podSelector" in peer and "namespaceSelector" not in peer and self.selects(peer["podSelector"], self.labels[other]) for peer in rule[peers]):
                    return True
        return False

    def connects(self, role, other, port):
        return self.allows("Egress", role, other, port) and self.allows("Ingress", other, role, port)


def test_the_network_lets_through_what_the_roles_need_and_nothing_else():
    network = Network(chart.objects(merged(PROFILES["gpu"], {"networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "client"}}}]}})))
    control, kv = 9000, 41234
    roles = ("gateway", "scheduler", "prefill", "decode", "encode")
    expected_control = {("gateway", "scheduler")} | {("gateway", one) for one in ("prefill", "decode", "encode")} | \
        {(one, "scheduler") for one in ("prefill", "decode", "encode")}
    carry_kv = {("prefill", "decode"), ("decode", "prefill"), ("prefill", "prefill"), ("decode", "decode")}
    for one in roles:
        for other in roles:
            # Ports of UCX are not known before, so that workers of KV reach each other at all.
            assert network.connects(one, other, control) == ((one, other) in expected_control | carry_kv), (one, other)
            assert network.connects(one, other, kv) == ((one, other) in carry_kv), (one, other)
            assert not network.connects(one, other, 8000) or (one, other) in carry_kv, (one, other)


@pytest.mark.parametrize("endpoint, port", [("http://otel.tracing.svc:4318", 4318), ("http://otel.tracing.svc:4318/v1/traces", 4318), ("https://otel.example.org", 443),
                                            ("http://otel.example.org/", 80)])
def test_spans_have_a_way_to_their_collector(endpoint, port):
    collector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}}
    values = merged(PROFILES["gpu"], {"config": {"tracing": {"otlp_endpoint": endpoint}}, "networkPolicy": {"collector": [collector]}})
    policies = chart.of_kind(chart.objects(values), "NetworkPolicy")
    for role in ("gateway", "scheduler", "prefill", "decode", "encode"):
        let_out = [(peer, rule.get("ports")) for rule in policies[f"demo-sluice-{role}"]["spec"]["egress"] for peer in rule["to"]]
        assert ((collector, [{"port": port, "protocol": "TCP"}]) in let_out) == (role != "scheduler"), role  # it makes no spans
    assert "4318" not in chart.text(PROFILES["gpu"])


def test_caches_have_their_settings_their_secrets_and_their_way_through_the_network():
    rendered = chart.objects(PROFILES["cached"])
    settings = chart.config(rendered)
    assert settings["caching"] == {"enabled": True, "bytes_max": 536870912,
                                   "shared": {"address": "valkey.stores.svc:6379", "name": "demo", "password_file": "/run/secrets/sluice-answers/password"}}
    gib = 2**30
    assert settings["engine"]["kv_host_bytes"] == 2 * gib and settings["engine"]["kv_disk"] == {"path": "/kv", "bytes": 64 * gib, "io": "page_cache"}
    assert settings["engine"]["kv_s3"] == {"endpoint": "https://objects.example.org", "bucket": "kv-of-demo", "credentials_file": "/run/secrets/sluice-store/credentials"}
    policies = chart.of_kind(rendered, "NetworkPolicy")
    for role in ("gateway", "scheduler", "prefill", "decode"):
        mounted = {one["mountPath"] for one in chart.pod(rendered, role)["containers"][0]["volumeMounts"]}
        assert ("/run/secrets/sluice-answers" in mounted) == (role == "gateway")
        assert ({"/kv", "/run/secrets/sluice-store"} <= mounted) == (role in ("prefill", "decode")) and ("/kv" in mounted) == (role in ("prefill", "decode"))
        let_out = [(peer, rule.get("ports")) for rule in policies[f"demo-sluice-{role}"]["spec"]["egress"] for peer in rule["to"]]
        assert ((VALKEY, [{"port": 6379, "protocol": "TCP"}]) in let_out) == (role == "gateway")
        assert ((STORE, [{"port": 443, "protocol": "TCP"}]) in let_out) == (role in ("prefill", "decode"))
    kept = next(one for one in chart.pod(rendered, "decode")["volumes"] if one["name"] == "kv")
    assert kept["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"] == {"requests": {"storage": "65Gi"}}  # what is kept, and what says of it what it is
    plain = chart.objects(merged(PROFILES["cached"], {"caches": {"kv": {"disk": {"storageClassName": ""}, "store": {"endpoint": "http://objects.example.org:9000"}}}}))
    assert {"name": "kv", "emptyDir": {"sizeLimit": "65Gi"}} in chart.pod(plain, "decode")["volumes"]
    assert {"port": 9000, "protocol": "TCP"} in [port for rule in chart.of_kind(plain, "NetworkPolicy")["demo-sluice-decode"]["spec"]["egress"] for port in rule.get("ports", [])]


def test_settings_are_held_against_the_schema_that_editors_have():
    """`sluice config schema`, but for what the chart writes itself."""
    of_binary = json.loads(subprocess.run([str(harness.BINARY), "config", "schema"], check=True, capture_output=True, text=True, timeout=60).stdout)
    of_chart = json.loads((chart.CHART / "values.schema.json").read_text())["properties"]["config"]
    assert of_chart["properties"] == {name: section for name, section in of_binary["properties"].items() if name not in ("cluster", "test")}
    assert of_chart["additionalProperties"] is False


def test_a_route_leads_to_the_gateway_which_knows_its_names_and_lets_its_proxies_in():
    rendered = chart.objects(merged(PROFILES["routed"], {"gateway": {"inferencePool": {"enabled": False}}}))
    route = chart.of_kind(rendered, "HTTPRoute")["demo-sluice"]["spec"]
    assert route["hostnames"] == ["llm.example.org"] and set(route["hostnames"]) <= set(chart.config(rendered)["gateway"]["hosts"])
    assert route["parentRefs"] == [{"name": "public", "namespace": "ingress", "sectionName": "https"}]
    rule, = route["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]  # metrics, probes and the page are for inside
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}  # a proxy's own would cut long answers
    assert rule["backendRefs"] == [{"name": "demo-sluice", "port": 80}]
    assert not chart.of_kind(rendered, "InferencePool")
    policies = chart.of_kind(rendered, "NetworkPolicy")
    let_in = [rule["ports"] for rule in policies["demo-sluice-gateway"]["spec"]["ingress"] if PROXIES in rule["from"]]
    assert let_in == [[{"port": 8000, "protocol": "TCP"}]]
    assert not any("ingress" in json.dumps(policy["spec"].get("ingress", [])) for name, policy in policies.items() if name != "demo-sluice-gateway")

    pooled = chart.objects(PROFILES["routed"])
    rule, = chart.of_kind(pooled, "HTTPRoute")["demo-sluice"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "demo-sluice"}]
    assert chart.of_kind(pooled, "InferencePool")["demo-sluice"]["spec"]["endpointPickerRef"] == {
        "kind": "Service", "name": "picker", "port": {"number": 9002}, "failureMode": "FailOpen"}

    # Every name, or those of the Gateway's listener.
    for hosts, own, expected in ((["*"], [], None), ([], [], None), (["*"], ["a.example.org"], ["a.example.org"]), (["a.example.org", "b.example.org"], ["b.example.org"], ["b.example.org"])):
        made = chart.objects(merged(PROFILES["routed"], {"gateway": {"hosts": hosts, "route": {"hostnames": own}}}))
        assert chart.of_kind(made, "HTTPRoute")["demo-sluice"]["spec"].get("hostnames") == expected


def test_unless_the_network_is_trusted_nothing_is_in_the_clear_and_kv_has_one_port():
    done = chart.helm("template", "demo", chart.CHART, "--namespace", "llm", "--kube-version", chart.KUBERNETES, "--values", chart.EXAMPLES / "cpu.yaml",
                      "--set", "image.repository=r,cluster.trustedNetwork=false")
    rendered = [one for one in yaml.safe_load_all(done.stdout) if one]
    settings = chart.config(rendered)
    assert settings["cluster"]["trusted_network"] is False
    assert settings["worker"] == {"kv_net_devices": "", "kv_port": 9002, "kv_ucx_environment": []}
    network = Network(rendered)
    assert network.connects("prefill", "decode", 9002) and not network.connects("prefill", "decode", 41234) and not network.connects("prefill", "decode", 9001)


def test_each_role_has_its_own_certificate_and_no_other():
    values = merged(PROFILES["cpu"], {"cluster": {"certificates": {"enabled": True}}})
    rendered = chart.objects(values)
    for one in rendered:
        if one["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)
    folder = "/run/secrets/sluice-certificate"
    settings = chart.config(rendered)["cluster"]
    assert (settings["certificate_file"], settings["certificate_key_file"], settings["authority_file"]) == tuple(f"{folder}/{name}" for name in ("tls.crt", "tls.key", "ca.crt"))
    for role in ("gateway", "scheduler", "prefill", "decode"):
        spec = chart.pod(rendered, role)
        secrets = {one["name"]: one["secret"] for one in spec["volumes"] if "secret" in one}
        assert secrets["certificate"] == {"secretName": f"demo-sluice-{role}", "defaultMode": 0o440}  # as ours refuses what others can read
        assert set(secrets) == {"cluster-key", "certificate"}
        assert {"name": "certificate", "mountPath": folder, "readOnly": True} in spec["containers"][0]["volumeMounts"]
    named = chart.pod(chart.objects(merged(values, {"cluster": {"certificates": {"secretPrefix": "mine"}}})), "decode")
    assert [one["secret"]["secretName"] for one in named["volumes"] if one["name"] == "certificate"] == ["mine-decode"]
    assert "certificate" not in chart.text(PROFILES["cpu"])


def test_several_schedulers_agree_by_a_lease_and_alone_may_touch_it():
    rendered = chart.objects(merged(PROFILES["cpu"], {"scheduler": {"replicas": 2}}))
    for one in rendered:
        if one["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)
    stateful = chart.of_kind(rendered, "StatefulSet")["demo-sluice-scheduler"]["spec"]
    # Part of the release, so that it goes with it; who holds it is none of the chart's business.
    lease = chart.of_kind(rendered, "Lease")["demo-sluice"]
    assert "spec" not in lease and "annotations" not in lease["metadata"]
    assert stateful["replicas"] == 2 and stateful["serviceName"] == "demo-sluice-schedulers" and stateful["podManagementPolicy"] == "Parallel"
    assert "demo-sluice-scheduler" not in chart.of_kind(rendered, "Deployment")
    # Each by a name of its own, whether it is ready or not: who leads is for the callers to find.
    headless = chart.of_kind(rendered, "Service")["demo-sluice-schedulers"]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True
    assert headless["selector"].items() <= stateful["template"]["metadata"]["labels"].items()
    addresses = ",".join(f"demo-sluice-scheduler-{index}.demo-sluice-schedulers:9000" for index in range(2))
    for role in ("gateway", "prefill", "decode"):
        args = chart.pod(rendered, role)["containers"][0]["args"]
        assert args[args.index("--scheduler") + 1] == addresses
        assert chart.pod(rendered, role)["automountServiceAccountToken"] is False and chart.pod(rendered, role)["serviceAccountName"] == "demo-sluice"
    assert chart.config(rendered)["scheduler"]["leader_lease"] == "kubernetes:demo-sluice"
    spec = stateful["template"]["spec"]
    assert spec["automountServiceAccountToken"] is True and spec["serviceAccountName"] == "demo-sluice-scheduler"
    binding = chart.of_kind(rendered, "RoleBinding")["demo-sluice-scheduler"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "demo-sluice-scheduler", "namespace": "llm"}] and binding["roleRef"]["name"] == "demo-sluice-scheduler"
    assert chart.of_kind(rendered, "Role")["demo-sluice-scheduler"]["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["demo-sluice"], "verbs": ["get", "update"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}]
    assert "demo-sluice-scheduler" in chart.of_kind(rendered, "ServiceAccount")
    egress = chart.of_kind(rendered, "NetworkPolicy")["demo-sluice-scheduler"]["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[443, 6443]]
    # One alone has no use for any of it.
    alone = chart.objects(PROFILES["cpu"])
    assert not {"StatefulSet", "Role", "RoleBinding", "Lease"} & {one["kind"] for one in alone} and "leader_lease" not in chart.config(alone).get("scheduler", {})


def test_decode_is_placed_where_prefill_is():
    spec = chart.pod(chart.objects(PROFILES["gpu"]), "decode")
    term = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert term["topologyKey"] == "topology.kubernetes.io/zone" and term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "prefill"
    relaxed = chart.pod(chart.objects(LEAST), "decode")["affinity"]["podAffinity"]
    assert set(relaxed) == {"preferredDuringSchedulingIgnoredDuringExecution"}


def device_of(spec):
    """Which device the command asks for; nothing: whatever there is."""
    return next((word.removeprefix("engine.device=") for word in spec["containers"][0]["args"] if word.startswith("engine.device=")), None)


def test_a_pod_that_asks_for_a_gpu_computes_on_nothing_else():
    """By itself a worker would take the processors of a node whose device it does not see, and be slow."""
    pods = chart.pods(chart.objects(PROFILES["gpu"]))
    assert {role: device_of(spec) for role, spec in pods.items() if role in chart.WORKERS} == {"prefill": "cuda:0", "decode": "cuda:0", "encode": None}
    assert all(spec["containers"][0]["args"][-2:] == ["--set", "engine.device=cuda:0"] for role, spec in pods.items() if role in ("prefill", "decode"))
    assert {device_of(spec) for spec in chart.pods(chart.objects(PROFILES["cpu"])).values()} == {None}
    own = chart.objects(merged(PROFILES["gpu"], {"encoder": {"name": ""}, "encode": {"replicas": 0}, "config": {"engine": {"device": "auto"}}}))
    assert device_of(chart.pod(own, "decode")) is None and chart.config(own)["engine"]["device"] == "auto"


@pytest.mark.parametrize("version, group", [("1.33.0", "v1beta1"), ("1.34.0", "v1"), ("1.37.0", "v1")])
def test_devices_may_come_by_claims(version, group):
    values = merged(LEAST, {"decode": {"dra": {"deviceClassName": "gpu.nvidia.com"}}})
    rendered = chart.objects(values, version=version)
    for one in rendered:
        kubernetes_validate.validate(one, version.rsplit(".", 1)[0], strict=True)
    templates = chart.of_kind(rendered, "ResourceClaimTemplate")
    assert set(templates) == {"demo-sluice-decode"} and templates["demo-sluice-decode"]["apiVersion"] == f"resource.k8s.io/{group}"
    request = templates["demo-sluice-decode"]["spec"]["spec"]["devices"]["requests"][0]
    assert request.get("exactly", request)["deviceClassName"] == "gpu.nvidia.com" and request.get("exactly", request)["count"] == 1
    spec = chart.pod(rendered, "decode")
    assert spec["resourceClaims"] == [{"name": "devices", "resourceClaimTemplateName": "demo-sluice-decode"}]
    assert spec["containers"][0]["resources"]["claims"] == [{"name": "devices"}] and device_of(spec) == "cuda:0"
    assert "resourceClaims" not in chart.pod(rendered, "prefill") and "resourceClaims" not in chart.pod(rendered, "gateway")
    assert chart.deployment(rendered, "decode")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}  # as with GPUs


KEYS = {"gateway": {"keys": {"existingSecret": "api-keys"}}, "test": {"apiKeySecret": {"name": "a-client"}}, "monitoring": {"apiKeySecret": {"name": "prometheus", "key": "k"}}}


def test_api_keys_are_a_secret_of_the_gateway_alone_and_whoever_must_have_one_has_it():
    rendered = chart.objects(merged(PROFILES["gpu"], KEYS))
    assert chart.config(rendered)["gateway"]["keys_file"] == "/run/secrets/sluice-keys/keys.json"
    for role, spec in chart.pods(rendered).items():
        mounted = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
        assert ("api-keys" in mounted) == (role == "gateway")
    variable = chart.pods(rendered)["test"]["containers"][0]["env"][1]
    assert variable == {"name": "SLUICE_API_KEY", "valueFrom": {"secretKeyRef": {"name": "a-client", "key": "api-key"}}}
    assert "$(SLUICE_API_KEY)" not in chart.pods(rendered)["test"]["containers"][0]["args"]  # words of a command are seen by all who see processes
    monitor = next(iter(chart.of_kind(rendered, "ServiceMonitor").values()))["spec"]["endpoints"][0]
    assert monitor["authorization"] == {"credentials": {"name": "prometheus", "key": "k"}}
    for one in rendered:
        if one["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)
    schema = closed(custom_schemas()["monitoring.coreos.com/v1", "ServiceMonitor"])["properties"]["spec"]
    assert list(jsonschema.Draft7Validator(schema).iter_errors(next(iter(chart.of_kind(rendered, "ServiceMonitor").values()))["spec"])) == []


def test_metrics_of_schedulers_and_workers_may_need_a_key():
    rendered = chart.objects(merged(PROFILES["gpu"], {"adminKeys": {"existingSecret": "operators"}, "monitoring": {"apiKeySecret": {"name": "prometheus"}}}))
    assert chart.config(rendered)["admin"] == {"keys_file": "/run/secrets/sluice-admin-keys/keys.json"}
    for one in chart.workloads(rendered):
        role = one["metadata"]["labels"]["app.kubernetes.io/component"]
        held = [volume["secret"]["secretName"] for volume in chart.pod(rendered, role)["volumes"] if volume["name"] == "admin-keys"]
        mounted = [mount["mountPath"] for mount in chart.pod(rendered, role)["containers"][0]["volumeMounts"] if mount["name"] == "admin-keys"]
        assert (held, mounted) == (([], []) if role == "gateway" else (["operators"], ["/run/secrets/sluice-admin-keys"]))
    endpoint, = next(iter(chart.of_kind(rendered, "PodMonitor").values()))["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "prometheus", "key": "api-key"}}
    assert "authorization" not in chart.text(PROFILES["gpu"]) and "admin-keys" not in chart.text(PROFILES["gpu"])


def test_gpus_and_rdma_are_asked_for_where_they_are_wanted():
    rendered = chart.objects(PROFILES["gpu"])
    limits = {role: spec["containers"][0]["resources"]["limits"] for role, spec in chart.pods(rendered).items()}
    assert limits["prefill"]["nvidia.com/gpu"] == "1" and limits["decode"]["rdma/hca_shared_devices_a"] == "1"
    assert "nvidia.com/gpu" not in limits["encode"] and not any("/" in key for role in ("gateway", "scheduler", "test") for key in limits[role])
    strategy = chart.deployment(rendered, "prefill")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}  # there may be no GPU for one more


@pytest.mark.parametrize("cpu, threads, expected", [("8", 0, "8"), ("250m", 0, "1"), ("2500m", 0, "3"), ("1.5", 0, "2"), (4, 0, "4"), ("8", 6, "6")])
def test_a_worker_has_as_many_threads_as_it_asked_for_processors(cpu, threads, expected):
    args = chart.pod(chart.objects(merged(LEAST, {"decode": {"threads": threads, "resources": {"requests": {"cpu": cpu}}}})), "decode")["containers"][0]["args"]
    assert args[args.index("--threads") + 1] == expected


def test_weights_are_checked_before_a_pod_serves():
    for role in ("gateway", "prefill", "decode"):
        spec = chart.pod(chart.objects(PROFILES["gpu"]), role)
        check = next(one for one in spec["initContainers"] if one["name"] == "model-checksums")
        assert check["command"] == ["sha256sum", "--check", "--strict", "--quiet", "/etc/sluice/model.sha256"]
        assert check["workingDir"] == "/models/llama-3.1-8b-instruct"
