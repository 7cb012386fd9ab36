"""A control plane of Kubernetes that scripts/kube-cluster has started: what its API server says, and what a kubelet would take from it."""
from __future__ import annotations

import base64
import json
import os
import pathlib
import signal
import subprocess
from typing import Any

import yaml

import chart
import harness

KINDS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Api:
    def __init__(self, kubeconfig: str) -> None:
        cluster = yaml.safe_load(pathlib.Path(kubeconfig).read_text())
        self.kubeconfig = kubeconfig
        self.server: str = cluster["clusters"][0]["cluster"]["server"]
        self.token: str = cluster["users"][0]["user"]["token"]
        self.state = pathlib.Path(kubeconfig).parent

    def ask(self, path: str, body: Any = None, method: str | None = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and answer; of what is no JSON (a path that is not served yet) the words."""
        command = ["curl", "-sk", "--max-time", "30", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {token or self.token}", "-H", "Content-Type: application/json",
                   f"{self.server}/{path}"]
        if body is not None:
            command += ["--data-binary", "@-"]
        if method is not None:
            command += ["-X", method]
        done = subprocess.run(command, capture_output=True, text=True, check=True, input=None if body is None else json.dumps(body))
        text, status = done.stdout.rsplit("\n", 1)
        try:
            return int(status), json.loads(text)
        except json.JSONDecodeError:
            return int(status), {"message": text}

    def call(self, path: str, body: Any = None, method: str | None = None) -> dict[str, Any]:
        status, told = self.ask(path, body, method)
        assert status < 300, (path, told)
        return told

    def make_namespace(self, name: str) -> None:
        self.call("api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted"}}})  # pods that are not held tight would be refused

    def put_secret(self, namespace: str, name: str, files: dict[str, bytes], kind: str = "Opaque") -> None:
        """Makes it, or puts other content in its place."""
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind,
                "data": {file: base64.b64encode(text).decode() for file, text in files.items()}}
        status, told = self.ask(f"api/v1/namespaces/{namespace}/secrets", body)
        if status == 409:
            status, told = self.ask(f"api/v1/namespaces/{namespace}/secrets/{name}", body, "PUT")
        assert status in (200, 201), told

    def take_custom_kinds(self) -> None:
        """The operators' definitions that scripts/chart-tools has fetched, served from now on."""
        for path in sorted((chart.TOOLS / "crds").glob("*.yaml")):
            definition = yaml.safe_load(path.read_text())
            status, told = self.ask(KINDS, definition)
            assert status in (201, 409), told
            group, versions = definition["spec"]["group"], {one["name"] for one in definition["spec"]["versions"] if one["served"]}
            harness.wait_until(lambda: any(versions <= {one["version"] for one in found["versions"]} for found in self.call("apis")["groups"] if found["name"] == group),
                               f"{group} is served", 60)
            harness.wait_until(lambda: all(self.ask(f"apis/{group}/{version}/{definition['spec']['names']['plural']}")[0] == 200 for version in versions),
                               f"{definition['metadata']['name']} is served", 60)

    def token_of(self, namespace: str, account: str, seconds: int = 3600, pod: dict[str, Any] | None = None) -> str:
        """A token of a service account; one for a pod ends with it."""
        bound = {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}} if pod else {}
        return self.call(f"api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds, **bound}})["status"]["token"]

    def authority(self, namespace: str) -> bytes:
        """By which processes in pods know the API server."""
        return self.call(f"api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt")["data"]["ca.crt"].encode()

    def everything(self, namespace: str) -> set[tuple[str, str]]:
        """(resource, name) of all that it keeps in the namespace and outside of any, whatever its labels; no events."""
        found = set()
        for group in ["api/v1", *(f"apis/{one['preferredVersion']['groupVersion']}" for one in self.call("apis")["groups"])]:
            for resource in self.call(group)["resources"]:
                if "/" not in resource["name"] and "list" in resource["verbs"] and resource["name"] != "events":
                    place = f"{group}/namespaces/{namespace}/{resource['name']}" if resource["namespaced"] else f"{group}/{resource['name']}"
                    found |= {(resource["name"], item["metadata"]["name"]) for item in self.call(place)["items"]}
        return found

    def wait_left(self, namespace: str, before: set[tuple[str, str]]) -> None:
        """Until nothing is there that was not before; nothing may be missing either."""
        left: set[tuple[str, str]] = set()

        def is_as_before() -> bool:
            nonlocal left
            left = self.everything(namespace) ^ before
            return not left

        try:
            harness.wait_until(is_as_before, "nothing is left", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}: {sorted(left)}") from None

    def pid(self) -> int:
        return int((self.state / "api.pid").read_text())

    def is_up(self) -> bool:
        return subprocess.run(["curl", "-skf", "--max-time", "5", f"{self.server}/readyz"], capture_output=True).returncode == 0

    def kill(self) -> None:
        """kill -9: connections break, new ones are refused. start() begins it anew, as whatever looks after it would."""
        pid = self.pid()
        self.command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: not self.is_up(), "the API server is gone", 60)

    def start(self) -> None:
        with open(self.state / "api.log", "a") as log:
            child = subprocess.Popen(self.command, cwd=self.state, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (self.state / "api.pid").write_text(f"{child.pid}\n")  # scripts/kube-cluster down ends it
        harness.wait_until(self.is_up, "the API server is back", 120)


class Kubelet:
    """What pods mount, as the API server has it."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def one(self, kind: str, name: str) -> dict[str, Any]:
        return self.api.call(f"api/v1/namespaces/{self.namespace}/{kind}/{name}")

    def config_map(self, name: str) -> dict[str, str]:
        return self.one("configmaps", name)["data"]

    def secret(self, name: str) -> dict[str, bytes]:
        return {file: base64.b64decode(text) for file, text in self.one("secrets", name)["data"].items()}

    def account_of(self, spec: dict[str, Any], pod_name: str) -> dict[str, bytes]:
        """What the volume asks for that the API server has added: a token that ends with the pod, and by whom its server is known."""
        asked = next(one for volume in spec["volumes"] if "projected" in volume for one in volume["projected"]["sources"] if "serviceAccountToken" in one)["serviceAccountToken"]
        token = self.api.token_of(self.namespace, spec["serviceAccountName"], asked["expirationSeconds"], self.one("pods", pod_name))
        return {"token": token.encode(), "namespace": self.namespace.encode(), "ca.crt": self.api.authority(self.namespace)}

    def pods(self, release: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """name -> (role, spec)."""
        return {one["metadata"]["name"]: (one["metadata"]["labels"]["app.kubernetes.io/component"], one["spec"])
                for one in self.api.call(f"api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/instance%3D{release}")["items"]}


def helm(api: Api, namespace: str, *words: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    done = chart.helm(*words, "--namespace", namespace, check=False, KUBECONFIG=api.kubeconfig)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
