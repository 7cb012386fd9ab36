"""The pods of a release, run on this machine: the same commands with the same arguments, variables and configuration files, each at a loopback
address of its own. What the kubelet would mount is put into a folder, and paths below mount points lead there; nothing else is changed."""
from __future__ import annotations

import http.client
import os
import pathlib
import re
import secrets
import shutil
import subprocess
from typing import Any

import chart
import harness
from harness import wait_until

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # where a pod has its service account; the binary looks there by default
TLS = ("tls.crt", "tls.key", "ca.crt")


def certificates(folder: pathlib.Path, *more: str) -> dict[str, dict[str, bytes]]:
    """What `sluice certs make` puts into `folder`, as the chart's Secrets of it: NAME-ROLE -> files."""
    made = subprocess.run([str(harness.BINARY), "certs", "make", "--out", str(folder), *more], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return {f"demo-sluice-{path.name}": {name: (path / name).read_bytes() for name in TLS} for path in folder.iterdir() if (path / "ca.crt").exists()}


class Rendered:
    """What pods mount, of a chart that was only rendered: Secrets are the test's. `account`: files of the service account of who has one."""

    def __init__(self, objects: list[dict[str, Any]], secret_files: dict[str, dict[str, bytes]], account: dict[str, bytes] | None = None) -> None:
        self.config_maps = chart.of_kind(objects, "ConfigMap")
        self.secrets = secret_files
        self.account = account

    def config_map(self, name: str) -> dict[str, str]:
        return self.config_maps[name]["data"]

    def secret(self, name: str) -> dict[str, bytes]:
        return self.secrets[name]

    def account_of(self, spec: dict[str, Any], pod_name: str) -> dict[str, bytes]:
        assert spec["automountServiceAccountToken"] and self.account is not None
        return self.account


def mount(place: pathlib.Path, files: dict[str, bytes], mode: int) -> None:
    """As the kubelet writes volumes of Secrets and the like: into a new folder, to which a link leads from one moment to the next."""
    place.mkdir(mode=0o750, exist_ok=True)
    fresh = place / f"..{secrets.token_hex(4)}"
    fresh.mkdir(mode=0o750)
    for name, text in files.items():
        (fresh / name).write_bytes(text)
        (fresh / name).chmod(mode)
    data = place / "..data"
    former = data.resolve() if data.is_symlink() else None
    (place / "..data_tmp").symlink_to(fresh.name)
    os.rename(place / "..data_tmp", data)
    for name in files:
        if not (place / name).is_symlink():
            (place / name).symlink_to(f"..data/{name}")
    if former is not None:
        shutil.rmtree(former)


class Pod:
    """One pod of a role: its folder of mounts, its address, its processes."""

    def __init__(self, cluster: Cluster, role: str, index: int, spec: dict[str, Any], name: str) -> None:
        self.cluster, self.role, self.spec, self.name = cluster, role, spec, name
        self.address = cluster.address_of(role, index)
        self.folder = cluster.folder / f"{role}-{index}"
        self.folder.mkdir()
        self.has_account = bool(spec.get("automountServiceAccountToken"))
        for volume in spec["volumes"]:
            self.put(volume)
        if self.has_account:
            mount(self.folder / "account", cluster.source.account_of(spec, name), 0o600)
        self.process = None

    def put(self, volume: dict[str, Any]) -> None:
        """Again: what it holds has changed."""
        place = self.folder / volume["name"]
        if "configMap" in volume:
            mount(place, {name: self.moved(text).encode() for name, text in self.cluster.source.config_map(volume["configMap"]["name"]).items()}, 0o644)
        elif "secret" in volume:
            held = self.cluster.source.secret(volume["secret"]["secretName"])
            items = volume["secret"].get("items") or [{"key": name, "path": name} for name in held]
            mount(place, {item["path"]: held[item["key"]] for item in items}, volume["secret"]["defaultMode"])
        elif "projected" in volume:
            assert self.has_account, volume  # what the API server adds for the service account
        elif "persistentVolumeClaim" in volume:
            place.symlink_to(self.cluster.claims[volume["persistentVolumeClaim"]["claimName"]])
        else:
            assert "emptyDir" in volume, volume
            place.mkdir()

    def file(self, path: str) -> pathlib.Path:
        """A file of a volume, as it lies now."""
        return (self.folder / path).resolve()

    def moved(self, text: str) -> str:
        """Paths below mount points lead to the pod's folder; addresses of the pods' network to loopback."""
        mounts = {one["mountPath"]: self.folder / one["name"] for container in chart.containers(self.spec) for one in container["volumeMounts"]}
        for path, place in sorted(mounts.items(), reverse=True):
            text = re.sub(rf"(?<![\w/.-]){re.escape(path)}(?=[/\s]|$)", str(place), text, flags=re.MULTILINE)
        text = text.replace("$(POD_IP)", self.address)
        for name, address in self.cluster.names.items():
            text = text.replace(f"{name}:", f"{address}:")
        return text

    def words(self, container: dict[str, Any]) -> list[str]:
        words = [self.moved(word) for word in [*container["command"], *container.get("args", [])]]
        account = ["--set", f"scheduler.kubernetes_account_dir={self.folder / 'account'}"] if self.has_account else []  # in a pod it is where the binary looks
        return [str(harness.BINARY) if words[0] == "sluice" else words[0], *words[1:], *account]

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        return {one["name"]: self.moved(one["value"]) for one in container.get("env", []) if "value" in one} | {"POD_IP": self.address} | self.cluster.environment

    def run_init(self) -> subprocess.CompletedProcess[str] | None:
        """The init containers, one after the other; the first that fails."""
        for one in self.spec.get("initContainers", []):
            done = subprocess.run(self.words(one), env={**os.environ, **self.environment(one)}, capture_output=True, text=True, timeout=120,
                                  cwd=self.moved(one["workingDir"]) if "workingDir" in one else None)
            if done.returncode != 0:
                return done
        return None

    def start(self) -> Pod:
        container = self.spec["containers"][0]
        self.process = harness.Process(self.words(container), self.environment(container))
        return self

    def probe(self, name: str) -> bool:
        """Whether the kubelet would take it for started, ready or alive."""
        container = self.spec["containers"][0]
        asked = container[name]["httpGet"]
        try:
            return 200 <= self.get(asked["port"], asked["path"])[0] < 400
        except OSError:
            return False

    def get(self, port_name: str, path: str) -> tuple[int, str]:
        port = next(port["containerPort"] for port in self.spec["containers"][0]["ports"] if port["name"] == port_name)
        connection = http.client.HTTPConnection(self.address, port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the series with these labels."""
        total = 0.0
        for line in self.get("http" if self.role == "gateway" else "admin", "/metrics")[1].splitlines():
            if re.match(rf"{name}(\{{|\s)", line) and all(f'{label}="{value}"' in line for label, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def leads(self) -> bool:
        return self.metric("sluice_scheduler_leads") == 1

    def check_alive(self) -> bool:
        assert self.process.is_alive(), f"{self.role} ended with {self.process.child.returncode}:\n{self.process.output()}"
        return True

    def wait_ready(self) -> None:
        wait_until(lambda: self.check_alive() and self.probe("startupProbe") and self.probe("readinessProbe"), f"{self.role} is ready", 120)


class Cluster:
    """All pods of a chart, by role. `source`: what they mount; none: a key, and with certificates some that are made here. `specs`: name -> (role,
    spec) of pods that an API server has; else those that the chart renders."""

    def __init__(self, values: dict[str, Any], folder: pathlib.Path, claims: dict[str, pathlib.Path] | None = None, source: Any = None,
                 specs: dict[str, tuple[str, dict[str, Any]]] | None = None, environment: dict[str, str] | None = None, account: dict[str, bytes] | None = None) -> None:
        self.folder = folder
        self.claims = dict(claims or {})
        self.environment = environment or {}  # that the kubelet gives to all
        self.net = f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 1}"
        self.rendered = chart.objects(values)
        if source is None:
            held = {values["cluster"]["existingSecret"]: {"cluster-key": secrets.token_hex(16).encode()}}
            if values["cluster"].get("certificates", {}).get("enabled"):
                held |= certificates(folder / "certificates")
            source = Rendered(self.rendered, held, account)
        self.source = source
        if specs is None:
            specs = {}
            for role, spec in chart.pods(self.rendered).items():
                if role != "test":
                    owner = chart.deployment(self.rendered, role)
                    names = [f"{owner['metadata']['name']}-{index}" for index in range(owner["spec"].get("replicas", 1))]
                    specs |= {name: (role, self.with_claims(owner, name, spec)) for name in names}
        self.roles = sorted({role for role, _ in specs.values()})
        service = next(name for name in chart.of_kind(self.rendered, "Service") if name.endswith("-scheduler"))
        # Names in the cluster's DNS: of each scheduler where there are several, else of their Service.
        self.names = {f"{service}-{index}.{service}s": self.address_of("scheduler", index) for index in range(3)} | {service: self.address_of("scheduler", 0)}
        self.pods: dict[str, list[Pod]] = {role: [] for role in self.roles}
        for name, (role, spec) in sorted(specs.items()):
            self.pods[role].append(Pod(self, role, len(self.pods[role]), spec, name))

    def with_claims(self, owner: dict[str, Any], name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """As the controller of StatefulSets does: claims of its templates, which outlive the pod, as further volumes."""
        claims = {one["metadata"]["name"]: f"{one['metadata']['name']}-{name}" for one in owner["spec"].get("volumeClaimTemplates", [])}
        for claim in claims.values():
            self.claims[claim] = self.folder / f"claim-{claim}"
            self.claims[claim].mkdir()
        return {**spec, "volumes": [*spec["volumes"], *({"name": volume, "persistentVolumeClaim": {"claimName": claim}} for volume, claim in claims.items())]}

    def replace(self, pod: Pod) -> Pod:
        """Another one of its name in its place, once it has ended: with new folders, but for claims."""
        index = self.pods[pod.role].index(pod)
        shutil.rmtree(pod.folder)
        self.pods[pod.role][index] = Pod(self, pod.role, index, pod.spec, pod.name)
        return self.pods[pod.role][index]

    def address_of(self, role: str, index: int) -> str:
        return f"{self.net}.{10 * (1 + self.roles.index(role)) + index}"

    @property
    def all(self) -> list[Pod]:
        return [pod for pods in self.pods.values() for pod in pods]

    @property
    def port(self) -> int:
        return self.pods["gateway"][0].spec["containers"][0]["ports"][0]["containerPort"]

    @property
    def ports(self) -> dict[str, int]:
        """Of schedulers and workers: control and admin."""
        return {one["name"]: one["containerPort"] for one in self.pods["scheduler"][0].spec["containers"][0]["ports"]}

    def start(self) -> Cluster:
        for pod in self.all:
            failed = pod.run_init()
            assert failed is None, (failed.args, failed.stdout, failed.stderr)
            pod.start()
        return self

    def wait_ready(self) -> Cluster:
        for pod in self.all:
            pod.wait_ready()
        return self

    def metric(self, role: str, name: str, **labels: str) -> float:
        return sum(pod.metric(name, **labels) for pod in self.pods[role])

    def leader_and_other(self) -> tuple[Pod, Pod]:
        """Of two schedulers, who leads first."""
        first, second = self.pods["scheduler"]
        wait_until(lambda: first.leads() != second.leads(), "one scheduler leads", 60)
        return (first, second) if first.leads() else (second, first)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.all:
            if pod.process is not None:
                print(f"--- {pod.role} {pod.address}\n{pod.process.output()[-4000:]}")  # shown when the test fails
                pod.process.__exit__()
