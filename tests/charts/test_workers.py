"""Workers of a StatefulSet, where models are, and what grows a pool: what follows from values that are off by default."""
import json

import kubernetes_validate

import chart
from chart import LEAST, merged
from monitoring import catalogue
from test_renders import KUBERNETES, PROFILES


def scalers(values):
    return chart.of_kind(chart.objects(values), "ScaledObject")


def test_missed_targets_grow_a_pool_only_where_that_is_asked_for():
    """One that no idle worker keeps would grow it without end."""
    assert "slo_requests" not in json.dumps(scalers(PROFILES["gpu"]))
    scaled = scalers(merged(PROFILES["gpu"], {"decode": {"autoscaling": {"tpotMissed": 0.2}}}))
    assert "slo_requests" not in json.dumps(scaled["demo-sluice-prefill"])
    trigger, = [one for one in scaled["demo-sluice-decode"]["spec"]["triggers"] if "slo_requests" in one["metadata"]["query"]]
    assert trigger["metricType"] == "AverageValue" and trigger["metadata"]["threshold"] == "0.2" and 'slo="tpot"' in trigger["metadata"]["query"]
    catalogue.check(trigger["metadata"]["query"], catalogue.read())


def test_workers_of_a_set_keep_their_volumes_and_are_what_is_scaled():
    rendered = chart.objects(PROFILES["stable"])
    sets = chart.of_kind(rendered, "StatefulSet")
    assert set(sets) == {"demo-sluice-prefill", "demo-sluice-decode"}
    for name, one in sets.items():
        spec = one["spec"]
        assert spec["serviceName"] == name and chart.of_kind(rendered, "Service")[name]["spec"]["clusterIP"] == "None"
        assert "strategy" not in spec and ("replicas" in spec) == name.endswith("prefill")
        claim, = spec["volumeClaimTemplates"]
        assert claim["spec"]["resources"] == {"requests": {"storage": "65Gi"}} and claim["spec"]["storageClassName"] == "local-nvme"
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Delete"}  # nothing is left behind
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts[claim["metadata"]["name"]] == "/kv" and "kv" not in {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    scaled = chart.of_kind(rendered, "HorizontalPodAutoscaler")["demo-sluice-decode"]["spec"]
    assert scaled["scaleTargetRef"]["kind"] == "StatefulSet"
    assert {"slo": "tpot"}.items() <= next(one["external"]["metric"]["selector"]["matchLabels"] for one in scaled["metrics"] if one["external"]["metric"]["name"] == "sluice_gateway_slo_missed_ratio").items()
    without_class = chart.deployment(chart.objects(merged(PROFILES["stable"], {"caches": {"kv": {"disk": {"storageClassName": ""}}}})), "decode")
    assert "volumeClaimTemplates" not in without_class["spec"] and {"name": "kv", "emptyDir": {"sizeLimit": "65Gi"}} in without_class["spec"]["template"]["spec"]["volumes"]


def test_a_claim_that_the_chart_makes_is_shared_by_all_who_pull():
    rendered = chart.objects(PROFILES["stable"])
    made, = chart.of_kind(rendered, "PersistentVolumeClaim").values()
    assert made["spec"] == {"accessModes": ["ReadWriteMany"], "storageClassName": "shared", "resources": {"requests": {"storage": "100Gi"}}}
    for role in ("gateway", "prefill", "decode", "encode"):
        volumes = {volume["name"]: volume for volume in chart.pod(rendered, role)["volumes"]}
        for name in {"models", "encoders"} & set(volumes):
            assert volumes[name]["persistentVolumeClaim"] == {"claimName": made["metadata"]["name"]}, (role, name)
    assert not chart.of_kind(chart.objects(PROFILES["gpu"]), "PersistentVolumeClaim")


def test_a_model_may_be_an_artifact_of_a_registry():
    reference = "registry.example.org/models/m@sha256:" + "0" * 64
    rendered = chart.objects(merged(LEAST, {"model": {"source": "image", "image": {"reference": reference, "path": "m"}}}), version="1.37.0")
    for one in rendered:
        kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)
    for role in ("gateway", "prefill", "decode"):
        spec = chart.pod(rendered, role)
        assert {"name": "models", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}} in spec["volumes"] and "initContainers" not in spec
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in spec["containers"][0]["volumeMounts"]
        args = spec["containers"][0]["args"]
        assert args[args.index("--model") + 1] == ("m=/models/m" if role == "gateway" else "/models/m")
    assert not any("443" in str(rule.get("ports")) for rule in chart.of_kind(rendered, "NetworkPolicy")["demo-sluice-decode"]["spec"]["egress"])  # the kubelet fetches it
