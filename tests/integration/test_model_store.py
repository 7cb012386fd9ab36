"""`sluice model pull|list|show|remove` against a hub of our own on loopback: what is fetched, and what happens when it goes wrong."""
import hashlib
import json
import os
import random
import re
import signal
import ssl
import subprocess

import pytest

import harness
import model_hub

GGUF = b"GGUF" + random.Random(1).randbytes(3_000_000)
FOLDER = {name: (harness.MODEL / name).read_bytes()
          for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def environment(store, hub=None, **more):
    """Nothing of the person's own settings reaches a test."""
    own = re.compile(r"HF_|SLUICE_|XDG_|PIP_|SSL_CERT_FILE|CURL_CA_BUNDLE|.*_proxy", re.IGNORECASE)
    kept = {key: value for key, value in os.environ.items() if not own.match(key)}
    return {**kept, "SLUICE_MODELS": str(store), "HF_ENDPOINT": hub.url if hub else f"http://127.0.0.1:{harness.free_port()}", **more}


def model(*arguments, store, hub=None, seconds=120, **more):
    return subprocess.run([str(harness.BINARY), "model", *map(str, arguments)], env=environment(store, hub, **more),
                          capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)


def pulled(*arguments, **named):
    ran = model("pull", *arguments, **named)
    assert ran.returncode == 0, ran.stderr
    return ran


def refused(*arguments, status=1, **named):
    ran = model("pull", *arguments, **named)
    assert ran.returncode == status, (ran.returncode, ran.stderr)
    assert ran.stdout == ""
    listed = model("list", **named).stdout
    assert "nothing yet" in listed, listed  # only whole models are in the store
    return ran.stderr


def gguf_hub():
    return model_hub.Hub({"m.gguf": GGUF, "README.md": b"# m"}, large={"m.gguf"})


# --- what is fetched -------------------------------------------------------------------------------------------------------


def test_a_repository_becomes_a_model_that_is_listed_shown_and_removed(store):
    files = {**FOLDER, "pytorch_model.bin": b"pickle", "modeling_x.py": b"code", "README.md": b"# x"}
    with model_hub.Hub(files, large={"model.safetensors"}) as hub:
        ran = pulled("hf:org/repo@main", "--name", "tales", store=store, hub=hub)
        assert "tales" in ran.stdout and "apache-2.0" in ran.stdout and model_hub.COMMIT in ran.stdout
        for name, content in FOLDER.items():
            assert (store / "tales" / name).read_bytes() == content
        assert {path.name for path in (store / "tales").iterdir()} == {*FOLDER, "sluice.json"}
        manifest = json.loads((store / "tales" / "sluice.json").read_text())
        assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
            name: hashlib.sha256(content).hexdigest() for name, content in FOLDER.items()}
        before = len(hub.seen)
        assert "was in" in pulled("hf:org/repo@main", "--name", "tales", store=store, hub=hub).stdout
        assert len(hub.seen) == before  # what is there is not asked for again
        other = model("pull", "hf:org/repo@other", "--name", "tales", store=store, hub=hub)
        assert other.returncode == 1 and "--name" in other.stderr
    assert "tales" in model("list", store=store).stdout
    shown = model("show", "tales", store=store).stdout
    for part in ("LlamaForCausalLM", "apache-2.0", "model.safetensors", "hf:org/repo", "parameters", "context", "1.0 MB on disk, 1.1 MB in memory", "bytes a token", "fits"):
        assert part in shown, shown
    assert model("remove", "tales", store=store).returncode == 0
    assert "tales" not in model("list", store=store).stdout
    again = model("remove", "tales", store=store)
    assert again.returncode == 1 and "tales" in again.stderr


def test_one_gguf_file_is_named_or_chosen(store):
    with model_hub.Hub({"m.Q4_0.gguf": GGUF, "m.Q8_0.gguf": GGUF[:-1]}, large={"m.Q4_0.gguf", "m.Q8_0.gguf"}) as hub:
        assert "m.Q8_0.gguf" in refused("hf:org/repo", store=store, hub=hub)
        assert "m.Q4_0.gguf" in refused("hf:org/repo/other.gguf", store=store, hub=hub)
        pulled("hf:org/repo/m.Q8_0.gguf", store=store, hub=hub)
    assert (store / "m.q8_0" / "m.Q8_0.gguf").read_bytes() == GGUF[:-1]


def test_only_pickles_are_no_model(store):
    with model_hub.Hub({"config.json": b"{}", "pytorch_model.bin": b"pickle"}) as hub:
        assert "pickle" in refused("hf:org/repo", store=store, hub=hub)
        assert hub.asked("hub", "pytorch_model.bin") == []


def test_the_token_stays_with_the_hub(store):
    with gguf_hub() as hub:
        pulled("hf:org/repo", store=store, hub=hub, HF_TOKEN="hf_secret")
        assert {seen.token for seen in hub.asked("hub")} == {"Bearer hf_secret"}
        assert [seen.token for seen in hub.asked("cdn")] == [None]


# --- what goes wrong -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code, says", [(401, "HF_TOKEN"), (403, "licence"), (404, "no org/repo")])
def test_a_refusal_of_the_hub_says_what_to_do_and_is_final(store, code, says):
    with gguf_hub() as hub:
        hub.fault("", *[model_hub.status(code)] * 9)
        assert says in refused("hf:org/repo", store=store, hub=hub)
        assert len(hub.seen) == 1


def test_a_busy_hub_is_asked_again_when_it_says(store):
    with gguf_hub() as hub:
        hub.fault("", model_hub.status(429, Retry_After="0"), model_hub.status(503, Retry_After="0"))
        hub.fault("m.gguf", model_hub.status(429, Retry_After="0"), model_hub.status(502, Retry_After="0"))
        pulled("hf:org/repo", store=store, hub=hub)
        assert len(hub.asked("cdn")) == 3


def test_a_hub_that_asks_for_an_hour_is_not_waited_for(store):
    with gguf_hub() as hub:
        hub.fault("", model_hub.status(429, Retry_After="3600"))
        assert "3600 s" in refused("hf:org/repo", store=store, hub=hub)


def test_a_hub_that_stays_broken_is_given_up(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", *[model_hub.status(503, Retry_After="0")] * 20)
        assert "503" in refused("hf:org/repo", store=store, hub=hub)
        assert len(hub.asked("cdn")) == 5


def test_a_download_that_is_cut_goes_on_where_it_was(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.cut_after(1_000_000), model_hub.cut_after(1_000_000))
        pulled("hf:org/repo", store=store, hub=hub)
        first, second, third = [seen.range for seen in hub.asked("cdn")]
        assert first is None
        assert second == "bytes=1000000-" and third == "bytes=2000000-"
    assert (store / "repo" / "m.gguf").read_bytes() == GGUF


def test_a_server_without_ranges_begins_again(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.cut_after(1_000_000), model_hub.without_ranges)
        pulled("hf:org/repo", store=store, hub=hub)
    assert (store / "repo" / "m.gguf").read_bytes() == GGUF


def test_a_server_that_goes_silent_is_left_and_asked_for_the_rest(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.stall_after(1_000_000))
        pulled("hf:org/repo", store=store, hub=hub, HF_HUB_DOWNLOAD_TIMEOUT="1")
        assert [seen.range for seen in hub.asked("cdn")] == [None, "bytes=1000000-"]
    assert (store / "repo" / "m.gguf").read_bytes() == GGUF


def test_other_bytes_than_the_listing_says_are_refused_and_not_kept(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.other_bytes(GGUF[:-1] + b"?"))
        output = refused("hf:org/repo", store=store, hub=hub)
        assert hashlib.sha256(GGUF).hexdigest() in output
        pulled("hf:org/repo", store=store, hub=hub)
        assert [seen.range for seen in hub.asked("cdn")] == [None, None]


def test_a_part_that_does_not_fit_the_rest_is_fetched_anew(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", lambda handler: handler.send_bytes(b"?" * len(GGUF), limit=1_000_000) or True)
        pulled("hf:org/repo", store=store, hub=hub)
        assert [seen.range for seen in hub.asked("cdn")] == [None, "bytes=1000000-", None]
    assert (store / "repo" / "m.gguf").read_bytes() == GGUF


@pytest.mark.parametrize("content", [GGUF[:-1], GGUF + b"?"], ids=["shorter", "longer"])
def test_a_file_of_another_length_is_refused(store, content):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.other_bytes(content))
        assert str(len(GGUF)) in refused("hf:org/repo", store=store, hub=hub)


def test_a_small_file_is_held_against_gits_name_of_it(store):
    with model_hub.Hub(dict(FOLDER), large={"model.safetensors"}) as hub:
        hub.files["config.json"] = FOLDER["config.json"].replace(b"{", b" ", 1)
        assert "git hash" in refused("hf:org/repo", store=store, hub=hub)


def test_what_is_no_gguf_file_is_refused(store):
    with model_hub.Hub({"m.gguf": b"<html>sign in</html>"}) as hub:
        assert "no GGUF" in refused("hf:org/repo", store=store, hub=hub)


def test_redirects_without_end_and_headers_without_end_are_given_up(store):
    with gguf_hub() as hub:
        hub.fault("", *[model_hub.redirect_to_itself] * 50)
        assert "redirects" in refused("hf:org/repo", store=store, hub=hub)
        assert len(hub.seen) == 6
        hub.faults.clear()
        hub.fault("", model_hub.endless_headers)
        assert "headers" in refused("hf:org/repo", store=store, hub=hub)


def test_without_a_network_the_error_says_so(store):
    assert "Failed to connect" in refused("hf:org/repo", store=store)
    assert "HF_HUB_OFFLINE" in refused("hf:org/repo", store=store, HF_HUB_OFFLINE="1")


@pytest.mark.process
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_pull_goes_on_where_it_was(store, number, status):
    with gguf_hub() as hub:
        hub.fault("m.gguf", model_hub.stall_after(1_000_000))
        with harness.Process([harness.BINARY, "model", "pull", "hf:org/repo"], environment=environment(store, hub)) as child:
            part = store / ".partial" / "repo" / "m.gguf.part"
            harness.wait_until(lambda: part.exists() and part.stat().st_size == 1_000_000, "a part of the file")
            assert child.stop(number) == status, child.output()
        assert "unfinished" in model("list", store=store).stdout
        pulled("hf:org/repo", store=store, hub=hub)
        assert [seen.range for seen in hub.asked("cdn")] == [None, "bytes=1000000-"]
    assert (store / "repo" / "m.gguf").read_bytes() == GGUF
    assert "unfinished" not in model("list", store=store).stdout


@pytest.mark.process
def test_two_pulls_at_once_are_one_download(store):
    with gguf_hub() as hub:
        hub.fault("m.gguf", lambda handler: hub.released.wait(60) and False)
        command = [harness.BINARY, "model", "pull", "hf:org/repo"]
        with harness.Process(command, environment=environment(store, hub)) as first:
            harness.wait_until(lambda: hub.asked("cdn"), "the first pull downloads")
            with harness.Process(command, environment=environment(store, hub)) as second:
                harness.wait_until(lambda: "waiting" in second.output(), "the second one waits")
                busy = model("remove", "repo", store=store)
                assert busy.returncode == 1 and "another process" in busy.stderr
                hub.released.set()
                assert first.wait() == 0, first.output()
                assert second.wait() == 0, second.output()
        assert len(hub.asked("cdn")) == 1


def test_an_unusable_store_is_named_with_its_setting(tmp_path):
    (tmp_path / "file").write_text("x")
    ran = model("pull", "hf:org/repo", store=tmp_path / "file" / "store")
    assert ran.returncode == 1
    assert str(tmp_path / "file" / "store") in ran.stderr and "SLUICE_MODELS" in ran.stderr


# --- an address ------------------------------------------------------------------------------------------------------------


def test_an_address_needs_its_hash(store):
    with gguf_hub() as hub:
        url, digest = f"{hub.cdn_url}/blobs/m.gguf", hashlib.sha256(GGUF).hexdigest()
        assert "--sha256" in refused(url, store=store, status=2)
        assert "https" in refused("http://example.invalid/m.gguf", "--sha256", digest, store=store, status=2)
        assert "0" * 64 in refused(url, "--sha256", "0" * 64, store=store)
        hub.fault("m.gguf", model_hub.cut_after(1_000_000))
        pulled(url, "--sha256", digest, store=store)
    assert (store / "m" / "m.gguf").read_bytes() == GGUF


def test_a_certificate_that_nobody_vouches_for_is_refused(store, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=hub",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with gguf_hub() as hub:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        hub.listen[1].socket = context.wrap_socket(hub.listen[1].socket, server_side=True)
        url = f"https://127.0.0.1:{hub.listen[1].server_port}/blobs/m.gguf"
        digest = hashlib.sha256(GGUF).hexdigest()
        assert "certificate" in refused(url, "--sha256", digest, store=store)
        pulled(url, "--sha256", digest, store=store, SSL_CERT_FILE=str(certificate))


# --- names -----------------------------------------------------------------------------------------------------------------


def write_catalogue(path, files, places):
    path.write_text(json.dumps({"tales": {
        "title": "stories", "licence": "MIT", "home": "https://example.invalid",
        "files": [{"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()],
        "places": places}}))
    return {"SLUICE_CATALOGUE": str(path)}


def test_a_catalogues_model_is_pulled_at_its_first_use_and_said_so(store, tmp_path):
    with model_hub.Hub(dict(FOLDER), large={"model.safetensors"}) as hub:
        catalogue = write_catalogue(tmp_path / "c.yaml", FOLDER, [{"hub": f"org/repo@{model_hub.COMMIT}"}])
        command = [str(harness.BINARY), "run", "--model", "tales", "Once upon a time", "--max-tokens", "5"]
        ran = subprocess.run(command, env=environment(store, hub, **catalogue), capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("Once upon a time")
        for part in ("tales", "MIT", "1.1 MB", "hf:org/repo", str(store), "--model"):
            assert part in ran.stderr, ran.stderr
    port = harness.free_port()
    served = [harness.BINARY, "serve", "--model", "tales", "--port", port]
    with harness.Server(served, port, environment=environment(store, **catalogue)) as server:  # the hub is gone
        server.wait_ready()
        assert [entry["id"] for entry in harness.request(port, "GET", "/v1/models").json()["data"]] == ["tales"]
    settings = ["--set", "gateway.model=little"]
    for flags, names in [(["--model", "tales", *settings], ["little"]), (["--model", "a=tales", "--model", "stories260k"], ["a", "stories260k"])]:
        with harness.Server([harness.BINARY, "serve", *flags, "--port", port], port, environment=environment(store, **catalogue)) as server:
            server.wait_ready()
            assert sorted(entry["id"] for entry in harness.request(port, "GET", "/v1/models").json()["data"]) == names


def test_what_only_looks_like_a_model_is_refused_where_it_is_named(store):
    command = [str(harness.BINARY), "tokenize", "no-such-model"]
    ran = subprocess.run(command, env=environment(store), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and "no-such-model" in ran.stderr and str(store) in ran.stderr
    command[2] = "smollm2-135m-instruct"
    ran = subprocess.run(command, env=environment(store), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and "sluice model pull smollm2-135m-instruct" in ran.stderr


def test_the_built_in_model_has_a_name_everywhere(store, tmp_path):
    variables = environment(store, XDG_CACHE_HOME=str(tmp_path / "cache"))
    shown = subprocess.run([str(harness.BINARY), "model", "show", "stories260k"], env=variables, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and "5 layers, 64 wide" in shown.stdout, (shown.stdout, shown.stderr)
    ids = subprocess.run([str(harness.BINARY), "tokenize", "stories260k"], input='{"text": "Once"}\n', env=variables, capture_output=True, text=True, timeout=60)
    assert ids.returncode == 0 and json.loads(ids.stdout)["ids"], ids.stderr


def test_the_packed_weights_are_listed_and_pruned_and_an_unusable_home_is_told(store, tmp_path):
    packed = tmp_path / "packed"
    variables = {**environment(store), "HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    variables.pop("XDG_CACHE_HOME", None)

    def sluice(*words):
        return subprocess.run([str(harness.BINARY), *map(str, words)], env=variables, capture_output=True, text=True, timeout=120)

    ran = sluice("run", "--model", harness.MODEL, "--max-tokens", 2, "--set", f"engine.packed_dir={packed}", "Once")
    assert ran.returncode == 0, ran.stderr
    listed = sluice("model", "cache", "list", "--packed-dir", packed)
    assert listed.returncode == 0 and "1 packed files" in listed.stdout and ".weights" in listed.stdout, (listed.stdout, listed.stderr)
    kept = sluice("model", "cache", "prune", "--packed-dir", packed, "--keep-bytes", 10**9)
    assert "0 packed files removed" in kept.stdout, kept.stderr
    pruned = sluice("model", "cache", "prune", "--packed-dir", packed)
    assert "1 packed files removed" in pruned.stdout, pruned.stderr
    assert not list(packed.glob("*.weights"))
    # Without a usable home the packed weights go to a private temporary folder, and a line says why and what to set.
    homeless = sluice("run", "--model", harness.MODEL, "--max-tokens", 2, "Once")
    assert homeless.returncode == 0, homeless.stderr
    assert "/proc/nowhere" in homeless.stderr and "engine.packed_dir" in homeless.stderr
    assert list((tmp_path / f"sluice-{os.getuid()}" / "cache").glob("*.weights"))


def test_the_disk_must_have_room_before_anything_is_fetched(store, tmp_path):
    with gguf_hub() as hub:
        catalogue = write_catalogue(tmp_path / "c.yaml", {"m.gguf": GGUF}, [{"hub": f"org/repo@{model_hub.COMMIT}"}])
        text = (tmp_path / "c.yaml").read_text().replace(f'"bytes": {len(GGUF)}', f'"bytes": {10**17}')
        (tmp_path / "c.yaml").write_text(text)
        assert "no room" in refused("tales", store=store, hub=hub, **catalogue)
        assert hub.seen == []
