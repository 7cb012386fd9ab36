"""Installs a client, starts the server that it needs, runs it and says how it went."""
from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

import harness
import scripted_model
import scripts
import tools_model
from table import ENCODER, SUITE_KEY, Client

INSTALL_SECONDS = 1800
SERVER_SECONDS = 300


@dataclasses.dataclass
class Result:
    name: str
    ok: bool
    versions: str
    says: str


class Runner:
    def __init__(self, root: pathlib.Path, work: pathlib.Path, url: str | None, model: str, show: bool) -> None:
        self.root, self.work, self.url, self.model, self.show = root, work, url, model, show
        self.here = root / "tests" / "clients"
        self.open = contextlib.ExitStack()
        self.servers: dict[str, harness.Server] = {}

    def __enter__(self) -> Runner:
        self.temporary = pathlib.Path(self.open.enter_context(tempfile.TemporaryDirectory(prefix="sluice-clients-")))
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    # --- servers ---------------------------------------------------------------------------------------------------------------

    def server(self, kind: str) -> str:
        """The address (without /v1) of a server of that kind: "scripted", or "scripted:NAME", which says that script to requests without tools; "examples"; "suites"; "keyed", which wants
        the key of llama.cpp's suite."""
        if self.url:
            return self.url
        if kind not in self.servers:
            self.command(harness.BINARY, "model", "pull", ENCODER)  # the first time it is a download, which nobody's patience with a start is for
            shutil.rmtree(self.temporary / kind.replace(":", "-"), ignore_errors=True)  # of a server that did not start
            flags = ["--encoder", ENCODER]
            if kind == "examples":
                model = scripted_model.make(self.temporary / kind / "scripted", scripts.EXAMPLES, context=8192)
                flags += [*scripted_model.SERVE_FLAGS, "--set", f"gateway.aliases=[\"*={self.model}\"]"]
            elif kind.startswith("scripted"):
                first = {"": scripts.ALL[kind.split(":")[1]]} if ":" in kind else {}
                said = {name: [answer.replace(scripts.HOMES, str(self.temporary / "home")) for answer in answers] for name, answers in {**scripts.ALL, **first}.items()}
                flags += scripted_model.SERVE_FLAGS
                model = scripted_model.make(self.temporary / kind.replace(":", "-") / "scripted", said, context=131072, by_words=scripts.BY_WORDS)
            else:
                model = tools_model.make(self.temporary / kind)
                flags += ["--set", f"gateway.aliases=[\"*={harness.MODEL_ID}\", \"text-embedding-3-small={ENCODER}\", \"text-embedding-ada-002={ENCODER}\"]"]
            if kind == "keyed":
                keys = self.temporary / "keys.json"
                subprocess.run([harness.BINARY, "keys", "add", "--file", keys, "--stdin"], input=SUITE_KEY + "\n", text=True, check=True, stdout=subprocess.DEVNULL)
                flags += ["--set", f"gateway.keys_file={keys}"]
            server = self.open.enter_context(harness.serve(*flags, model=model))
            self.servers[kind] = server.wait_ready(SERVER_SECONDS)
        return self.servers[kind].url

    # --- installing ------------------------------------------------------------------------------------------------------------

    def ensure(self, folder: pathlib.Path, what: list[str], install) -> None:
        """Installs into `folder` unless exactly `what` is there."""
        stamp, wanted = folder / "installed.txt", "\n".join(what)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"installing {', '.join(what)}", flush=True)
        install(folder)
        stamp.write_text(wanted)

    def command(self, *words: object, folder: pathlib.Path | None = None, environment: dict[str, str] | None = None) -> None:
        done = subprocess.run([str(word) for word in words], cwd=folder, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(str(word) for word in words)} ended with {done.returncode}:\n{done.stdout[-3000:]}")

    def python(self, client: Client, checkout: pathlib.Path | None) -> pathlib.Path:
        """The bin/ of a virtual environment with the client's packages."""
        folder = self.work / "python" / (client.packages_of or client.name)
        packages = [package.format(checkout=checkout, here=self.here) for package in client.python]

        def install(target: pathlib.Path) -> None:
            self.command(sys.executable, "-m", "venv", target)
            self.command(target / "bin" / "pip", "install", "--disable-pip-version-check", *packages, *(["--no-deps"] if client.no_dependencies else []))

        self.ensure(folder, packages, install)
        return folder / "bin"

    def node(self, client: Client) -> pathlib.Path:
        """The folder whose node_modules has the client's packages and a Node that is new enough for them."""
        folder = self.work / "node" / (client.packages_of or client.name)

        def install(target: pathlib.Path) -> None:
            (target / "package.json").write_text('{"name": "client", "private": true, "type": "module"}\n')
            self.command("npm", "install", "--no-audit", "--no-fund", "--force", *client.node, folder=target)

        self.ensure(folder, list(client.node), install)
        return folder

    def versions(self, client: Client) -> str:
        shown = [*client.python, *client.node][:client.shown]
        return ", ".join(package.replace("==", " ").replace("@latest", "").rsplit("@", 1)[0] + " " + package.rsplit("@", 1)[1] if "@" in package[1:] else package.replace("==", " ")
                         for package in shown)

    # --- running ---------------------------------------------------------------------------------------------------------------

    def run(self, client: Client, checkout: pathlib.Path | None) -> Result:
        began = time.monotonic()
        print(f"--- {client.name}", flush=True)
        try:
            says, ok = self.attempt(client, checkout)
        except Exception as error:  # one client that cannot be installed or hangs shall not hide the others
            says, ok = f"{type(error).__name__}: {error}", False
        print(f"{'ok' if ok else 'FAILED'}: {client.name} in {time.monotonic() - began:.0f} s: {says}", flush=True)
        return Result(client.name, ok, self.versions(client) if not checkout else revision(checkout), says.strip().splitlines()[-1] if says.strip() else "")

    def attempt(self, client: Client, checkout: pathlib.Path | None) -> tuple[str, bool]:
        url = self.server(client.server)
        paths = [os.environ["PATH"]]
        if client.python:
            paths.insert(0, str(self.python(client, checkout)))
        if client.node:
            paths.insert(0, str(self.node(client) / "node_modules" / ".bin"))
        home = self.temporary / "home" / client.name
        home.mkdir(parents=True, exist_ok=True)
        names = {"url": url, "v1": url + "/v1", "port": url.rsplit(":", 1)[1], "model": self.model if self.url or client.server.startswith("scripted") else harness.MODEL_ID, "demo": str(harness.MODEL), "here": str(self.here), "home": str(home),
                 "checkout": str(checkout), "encoder": ENCODER}
        environment = {"PATH": os.pathsep.join(paths), "SLUICE_URL": url, "SLUICE_MODEL": names["model"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home),
                       **{name: value.format(**names) for name, value in client.environment.items()}}
        if client.suite:
            return self.run_suite(client, checkout, names, environment)
        folder = client.prepare(home, names) if client.prepare else home
        command = [word.format(**names) for word in client.run]
        if command[0].endswith(".mjs"):  # modules are looked for beside the script
            script = self.node(client) / pathlib.Path(command[0]).name
            shutil.copy(command[0], script)
            command = ["node", str(script), *command[1:]]
        done = self.execute(command, folder, environment, client.seconds)
        if done.returncode != 0:
            return f"ended with {done.returncode}\n{done.stdout[-6000:]}", False
        if client.check:
            return client.check(folder, done.stdout), True
        return done.stdout, True

    def execute(self, command: list[str], folder: pathlib.Path, environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess:
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            child = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment, "PWD": str(folder)}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                status = child.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, 9)
                child.wait()
                status = -9
            log.seek(0)
            output = log.read() + (f"\nnot done within {seconds} s" if status == -9 else "")
        if self.show:
            print(output)
        return subprocess.CompletedProcess(command, status, output)

    # --- suites ----------------------------------------------------------------------------------------------------------------

    def run_suite(self, client: Client, checkout: pathlib.Path, names: dict[str, str], environment: dict[str, str]) -> tuple[str, bool]:
        suite = client.suite
        report = self.temporary / f"{client.name}.xml"
        folder = checkout / suite.folder
        if suite.is_node:
            folder = self.copy_of(client, checkout)
            environment["PATH"] = os.pathsep.join([str(folder / "node_modules" / ".bin"), environment["PATH"]])
            report = report.with_suffix(".json")
        command = [word.format(**names, report=report) for word in suite.command]
        done = self.execute(command, folder, environment, client.seconds)
        if not report.exists():
            return f"no report was written (exit status {done.returncode})\n{done.stdout[-4000:]}", False
        passed, failed = read_jest(report, folder) if suite.is_node else read_junit(report)
        reasons = expected_failures(self.here / "expected" / f"{client.name}.txt")
        used = {pattern for pattern in reasons for name in failed if fnmatch.fnmatchcase(name, pattern)}
        surprises = [name for name in failed if not any(fnmatch.fnmatchcase(name, pattern) for pattern in reasons)]
        stale = [pattern for pattern in reasons if pattern not in used]
        lines = [f"failed: {name}\n    {failed[name]}" for name in surprises] + [f"passes, though it is said not to: {pattern}" for pattern in stale]
        lines.append(f"{len(passed)} of {len(passed) + len(failed)} pass, {len(failed) - len(surprises)} fail for reasons that have a line")
        return "\n".join(lines), not surprises and not stale and bool(passed)

    def copy_of(self, client: Client, checkout: pathlib.Path) -> pathlib.Path:
        """The checkout with its packages, in a folder of our own."""
        target = self.work / "source" / client.name
        wanted = f"{checkout} {revision(checkout)}"
        stamp = target / ".installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkout, target, ignore=shutil.ignore_patterns(".git", "node_modules"))
            print(f"installing the packages of {checkout}", flush=True)
            self.command("npm", "install", "--no-audit", "--no-fund", "--force", "--ignore-scripts", "--no-package-lock", folder=target)
            stamp.write_text(wanted)
        return target


def revision(checkout: pathlib.Path) -> str:
    """What identifies a checkout: its commit, or the version that a source package says."""
    done = subprocess.run(["git", "-C", str(checkout), "describe", "--tags", "--always"], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip()
    for folder in (checkout, *checkout.parents):
        if (folder / "PKG-INFO").exists():
            fields = dict(line.split(": ", 1) for line in (folder / "PKG-INFO").read_text().split("\n\n")[0].splitlines() if ": " in line)
            return f"{fields.get('Name')} {fields.get('Version')}"
    return "unknown"


def expected_failures(path: pathlib.Path) -> dict[str, str]:
    """Pattern -> reason. Lines are `PATTERN # reason`."""
    reasons = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition(" # ")
            assert reason.strip(), f"{path}: no reason for {pattern}"
            reasons[pattern.strip()] = reason.strip()
    return reasons


def read_junit(path: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Names that passed, and those that failed with the last line of what they say; skipped ones are neither."""
    passed, failed = [], {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rsplit('tests.', 1)[-1]}::{case.get('name')}"
        problem = case.find("failure") if case.find("failure") is not None else case.find("error")
        if problem is not None:
            said = [line for line in (problem.get("message") or problem.text or "").splitlines() if line.strip()]
            failed[name] = said[0][:300] if said else "?"
        elif case.find("skipped") is None:
            passed.append(name)
    return passed, failed


def read_jest(path: pathlib.Path, folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    passed, failed = [], {}
    for file in json.loads(path.read_text())["testResults"]:
        name = os.path.relpath(file["name"], folder)
        if not file["assertionResults"] and file["status"] == "failed":
            failed[f"{name}::"] = file["message"][:300]
        for case in file["assertionResults"]:
            title = f"{name}::{case['title']}"
            if case["status"] == "passed":
                passed.append(title)
            elif case["status"] == "failed":
                failed[title] = " ".join("".join(case["failureMessages"]).split())[:300]
    return passed, failed
