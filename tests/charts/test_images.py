"""Images and units: what can be said of them without an engine or an init system."""
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import chart
import harness

DOCKERFILES = sorted((chart.ROOT / "docker").glob("*.Dockerfile"))
UNITS = chart.ROOT / "configs" / "systemd"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    done = subprocess.run([str(chart.TOOLS / "venv" / "bin" / "hadolint"), "--failure-threshold", "style", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_last_stage_runs_as_a_number_that_is_not_root(path):
    last = re.split(r"^FROM ", path.read_text(), flags=re.MULTILINE)[-1]
    assert re.search(r"^USER 65532:65532$", last, re.MULTILINE)
    assert last.startswith("scratch\n") and "\nRUN" not in last  # nothing that it does not copy: no shell, no package manager
    assert ":latest" not in path.read_text()


def installed_for_the_image(name):
    return set(re.search(r"--no-install-recommends \\\n(.*?)&&", (chart.ROOT / "docker" / f"{name}.Dockerfile").read_text(), re.DOTALL)[1].replace("\\", " ").split())


def test_the_image_for_gpus_has_what_the_other_has_and_the_library_that_is_loaded():
    assert installed_for_the_image("cuda") == installed_for_the_image("cpu")
    build, files, last = re.split(r"^FROM ", (chart.ROOT / "docker" / "cuda.Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert "cmake --preset cuda " in build and "scripts/bootstrap --cuda" in build
    library, = re.findall(r"^COPY --from=build (/\S+/libcublasLt\S+) \1$", files, re.MULTILINE)
    assert library in build and re.search(rf"^RUN collect-root /image .*{re.escape(library)}", files, re.MULTILINE)  # it is put there, and on
    folder, name = library.rsplit("/", 1)
    looked_for = (chart.ROOT / "device" / "cuda" / "cuda_library.cpp").read_text()
    assert f'"{folder}/"' in looked_for and f'"{name}"' in looked_for
    assert re.search(r"^nvidia-cublas==", (chart.ROOT / "scripts" / "requirements-cuda.txt").read_text(), re.MULTILINE)
    assert re.search(r"NVIDIA_DRIVER_CAPABILITIES=compute,utility$", last, re.MULTILINE)


def make_image(*words, seconds=60):
    return subprocess.run([str(chart.ROOT / "scripts" / "make-image"), *map(str, words)], capture_output=True, text=True, timeout=seconds)


@pytest.mark.parametrize("words, told", [
    (("cpu",), "say --tag"), (("cuda", "--tag", "x", "--engine", "buildah"), "buildah"), (("cpu", "--try", "/tmp/x", "--take", "/usr/local/bin/sluice=/no/such"), "/no/such is not there"),
    (("cpu", "--base", "alpine:3", "--try", "/tmp/x"), "alpine:3")])
def test_an_image_that_cannot_be_made_is_said(words, told):
    if "buildah" in words and shutil.which("buildah"):
        pytest.skip("buildah is here")
    refused = make_image(*words)
    assert refused.returncode == 1 and told in refused.stderr and "Traceback" not in refused.stderr, refused.stderr


def test_a_bare_debian_has_the_sources_of_this_machine_with_updates_and_security_fixes(tmp_path):
    """As Debian's own images: the compiler for Rust is new enough among the security fixes alone."""
    script = importlib.machinery.SourceFileLoader("make_image", str(chart.ROOT / "scripts" / "make-image"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_image", script))
    sys.modules["make_image"] = module  # where its dataclasses look for themselves
    script.exec_module(module)
    assert module.archives("bookworm", tmp_path) == {}
    assert module.all_archives("bookworm", "http://own.example/debian/", {"bookworm-updates": "http://two.example/debian"}) == {
        "bookworm": "http://own.example/debian/", "bookworm-updates": "http://two.example/debian", "bookworm-security": "http://own.example/debian-security"}
    (tmp_path / "sources.list").write_text("# deb http://old.example/debian bookworm main\ndeb [arch=amd64] http://one.example/debian bookworm main\n"
                                           "deb-src http://sources.example/debian bookworm main\n")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: http://two.example/debian\nSuites: bookworm-updates\nComponents: main\n\n"
        "Types: deb\n# a comment\nURIs: http://three.example/security\nSuites: bookworm-security\nComponents: main\n")
    (tmp_path / "sources.list.d" / "other.list").write_text("deb https://packages.example/apt stable main\n")
    assert module.archives("bookworm", tmp_path) == {"bookworm": "http://one.example/debian", "bookworm-updates": "http://two.example/debian",
                                                     "bookworm-security": "http://three.example/security"}


@pytest.mark.nightly
def test_the_steps_after_the_build_do_and_what_they_make_serves(tmp_path):
    """In a bare Debian, with the binary of this build: with nothing but what the image has, as its user, on a root that nobody can write to."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    done = make_image("cpu", "--try", tmp_path, "--take", f"/usr/local/bin/sluice={harness.BINARY}", seconds=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^it answers: .*\w", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "root" / "usr" / "share" / "doc" / "sluice" / "LICENSE").read_bytes() == (chart.ROOT / "LICENSE").read_bytes()
    root = tmp_path / "root"
    programs = {path.name for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "bin", "sbin") for path in (root / folder).glob("*")}
    assert programs == {"sluice", "sha256sum"}  # what the chart's containers run, and no shell
    weights = tmp_path / "sums"
    weights.write_text(f"{hashlib.sha256((root / 'etc' / 'passwd').read_bytes()).hexdigest()}  /etc/passwd\n")
    shutil.copy(weights, root / "tmp" / "sums")
    checked = subprocess.run(["chroot", "--userspec=65532:65532", "--groups=", str(root), "sha256sum", "--check", "--strict", "--quiet", "/tmp/sums"], capture_output=True,
                             text=True, env={"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/sbin:/bin"})
    assert checked.returncode == 0, checked.stderr
    assert len(list((root / "usr" / "share" / "doc").glob("*/copyright"))) >= 20 <= len(list((root / "var" / "lib" / "dpkg" / "status.d").iterdir()))
    assert {path.name for path in (root / "usr" / "lib").rglob("libuct_*.so.0")} >= {"libuct_ib.so.0", "libuct_cma.so.0"}  # loaded, not linked
    assert list(root.rglob("libmlx5*.so"))


def test_the_image_has_every_library_that_the_binary_is_linked_with():
    """On the release that the image is based on: the packages of its last stage own all libraries, themselves or by what they depend on."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', open("/etc/os-release").read(), re.MULTILINE))
    text = (chart.ROOT / "docker" / "cpu.Dockerfile").read_text()
    if f"BASE={release['ID']}:{release['VERSION_ID']}-slim" not in text:
        pytest.skip(f"the image is not based on {release['PRETTY_NAME']}")
    listed = installed_for_the_image("cpu")
    needed = re.findall(r"=> (/\S+)", subprocess.run(["ldd", str(harness.BINARY)], capture_output=True, text=True, check=True).stdout)
    assert len(needed) > 10
    # As dpkg knows them: also from before the merge of /usr.
    paths = {path for library in needed for path in (os.path.realpath(library), os.path.realpath(library).removeprefix("/usr"))}
    found = subprocess.run(["dpkg", "-S", *sorted(paths)], capture_output=True, text=True).stdout
    owner_of = {line.split(": ", 1)[1]: line.split(":")[0] for line in found.splitlines() if ": /" in line}
    owners = set()
    for library in needed:
        real = os.path.realpath(library)
        assert real in owner_of or real.removeprefix("/usr") in owner_of, f"{library} belongs to no package"
        owners.add(owner_of.get(real) or owner_of[real.removeprefix("/usr")])
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Depends}, ${Pre-Depends}\n"], capture_output=True, text=True, check=True).stdout
    depends = dict(line.split("\t", 1) for line in installed.splitlines() if "\t" in line)
    closure = set()
    pending = [*listed, "libc6", "libgcc-s1", "libstdc++6"]
    while pending:
        package = pending.pop()
        if package in closure:
            continue
        closure.add(package)
        pending += [re.split(r"[ :(]", one.split("|")[0].strip())[0] for one in depends.get(package, "").split(",") if one.strip()]
    assert owners <= closure, f"the image lacks {sorted(owners - closure)}"
    direct = subprocess.run(["readelf", "-d", str(harness.BINARY)], capture_output=True, text=True, check=True).stdout.count("(NEEDED)")
    assert direct >= 10


def test_the_bill_of_materials_has_what_the_binary_is_made_of():
    """SPDX: every library by its package as dpkg has it, every crate with the registry's checksum, and the same document again."""
    made = [subprocess.run([str(chart.ROOT / "scripts" / "make-sbom"), "--binary", str(harness.BINARY)], capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert made[0].returncode == 0 and made[0].stdout == made[1].stdout, made[0].stderr
    document = json.loads(made[0].stdout)
    assert document["spdxVersion"] == "SPDX-2.3" and document["documentNamespace"].startswith("https://")
    parts = {one["SPDXID"]: one for one in document["packages"]}
    assert len(parts) == len(document["packages"]) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in parts)
    related = {(one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"]) for one in document["relationships"]}
    own, = (other for one, kind, other in related if (one, kind) == ("SPDXRef-DOCUMENT", "DESCRIBES"))
    assert {name for one, _, other in related for name in (one, other)} == {"SPDXRef-DOCUMENT", *parts}  # all are there, and none hangs in the air
    assert parts[own]["checksums"] == [{"algorithm": "SHA256", "checksumValue": hashlib.sha256(harness.BINARY.read_bytes()).hexdigest()}]

    linked = {parts[other]["name"]: parts[other]["versionInfo"] for one, kind, other in related if (one, kind) == (own, "DYNAMIC_LINK")}
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${db:Status-Status}\n"], capture_output=True, text=True, check=True).stdout
    installed = {(name, version) for name, version, status in (line.split("\t") for line in listed.splitlines()) if status == "installed"}
    assert set(linked.items()) <= installed and "libc6" in linked
    needed = subprocess.run(["readelf", "-d", str(harness.BINARY)], capture_output=True, text=True, check=True).stdout.count("(NEEDED)")
    assert len(linked) >= needed / 2  # a package may have several libraries
    lock = tomllib.loads((chart.ROOT / "text" / "shim" / "Cargo.lock").read_text())["package"]
    locked = {(one["name"], one["version"]): one.get("checksum") for one in lock}
    crates = {one["name"]: one for one in parts.values() if "pkg:cargo" in one["externalRefs"][0]["referenceLocator"]}
    assert {"tokenizers", "minijinja", "llguidance", "onig_sys", "serde"} <= set(crates)
    for one in crates.values():
        assert locked[one["name"], one["versionInfo"]] == one["checksums"][0]["checksumValue"] and one["licenseDeclared"] != "NOASSERTION", one
    assert any(one["name"].startswith("libboost") and (name, "BUILD_DEPENDENCY_OF", own) in related for name, one in parts.items())  # headers alone
    nobody = subprocess.run([str(chart.ROOT / "scripts" / "make-sbom"), "--binary", "/no/such"], capture_output=True, text=True, timeout=60)
    assert nobody.returncode == 1 and "build it first" in nobody.stderr


def test_units_are_ones_that_systemd_understands(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    for path in UNITS.glob("sluice*"):
        text = path.read_text().replace("/usr/local/bin/sluice", str(harness.BINARY)).replace("User=sluice", "User=root")
        (tmp_path / path.name.replace("@.", "@decode.")).write_text(text)
        if "@" in path.name:
            (tmp_path / path.name.replace("@.", "@prefill.")).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "sluice" in line]
    assert ours == []


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_units_give_time_to_finish_and_start_what_the_binary_knows(path):
    text = path.read_text()
    command = re.search(r"^ExecStart=/usr/local/bin/sluice (\S+) (.*)$", text, re.MULTILINE)
    role = command[1].replace("%i", "decode")
    usage = subprocess.run([str(harness.BINARY), role, "--help"], capture_output=True, text=True, timeout=60).stdout
    for flag in re.findall(r"--[a-z-]+", command[2]):
        assert re.search(rf"{flag}\b", usage), flag
    printed = subprocess.run([str(harness.BINARY), "config", "print", "--config", str(chart.ROOT / "configs" / "cluster.yaml")], capture_output=True, text=True, check=True,
                             timeout=60).stdout
    drains = [int(value) for value in re.findall(r"drain_timeout_ms: (\d+)", printed)]
    assert len(drains) == 2
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert stop > max(drains) / 1000 or role == "scheduler"
