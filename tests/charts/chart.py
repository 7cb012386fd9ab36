"""The chart, rendered: what `helm template` makes of values."""
from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm" / "sluice"
EXAMPLES = CHART / "examples"
TOOLS = pathlib.Path(os.environ.get("SLUICE_CHART_TOOLS") or ROOT / "build" / "chart-tools")
HELM = TOOLS / "bin" / "helm"
IMAGE = {"image": {"repository": "registry.example.org/sluice"}}
# The least that an operator has to say.
LEAST: dict[str, Any] = {**IMAGE, "cluster": {"existingSecret": "sluice-key", "trustedNetwork": True}, "model": {"name": "m", "source": "builtin"}}
KUBERNETES = "1.33.0"  # a helm that is built from its module believes in 1.20
WORKERS = ("prefill", "decode", "mixed", "encode")


class Refused(Exception):
    """helm did not render these values; what it said."""


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    """Later ones win, key by key, as with several -f."""
    result: dict[str, Any] = {}
    for one in values:
        for key, value in one.items():
            result[key] = merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
    return result


def example(name: str) -> dict[str, Any]:
    return merged(IMAGE, yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))


def helm(*words: str | os.PathLike[str], check: bool = True, seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="sluice-helm-") as home:
        return subprocess.run([str(HELM), *map(str, words)], capture_output=True, text=True, timeout=seconds, check=check,
                              env={**os.environ, "HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home, **environment})


@functools.cache
def _rendered(values: str, release: str, namespace: str, version: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        done = helm("template", release, CHART, "--namespace", namespace, "--kube-version", version, "--values", file.name, check=False)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


def text(values: dict[str, Any], release: str = "demo", namespace: str = "llm", version: str = KUBERNETES) -> str:
    return _rendered(json.dumps(values, sort_keys=True), release, namespace, version)


def objects(values: dict[str, Any], **options: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text(values, **options)) if one]


def of_kind(rendered: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """By name."""
    return {one["metadata"]["name"]: one for one in rendered if one["kind"] == kind}


def workloads(rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What pods are made of."""
    return [one for one in rendered if one["kind"] in ("Deployment", "StatefulSet")]


def deployment(rendered: list[dict[str, Any]], role: str) -> dict[str, Any]:
    """The role's Deployment, or the StatefulSet of several schedulers."""
    found = [one for one in workloads(rendered) if one["metadata"]["labels"]["app.kubernetes.io/component"] == role]
    assert len(found) == 1, (role, [one["metadata"]["name"] for one in rendered])
    return found[0]


def pod(rendered: list[dict[str, Any]], role: str) -> dict[str, Any]:
    return deployment(rendered, role)["spec"]["template"]["spec"]


def pods(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod of every role, and the test's."""
    found = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["spec"] for one in workloads(rendered)}
    found |= {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"] for one in rendered if one["kind"] == "Pod"}
    return found


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def config(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    found = [one for one in rendered if one["kind"] == "ConfigMap" and "sluice.yaml" in one["data"]]
    return yaml.safe_load(found[0]["data"]["sluice.yaml"])
