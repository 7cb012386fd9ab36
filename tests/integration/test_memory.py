"""What a model needs before it is loaded: told in the banner and by `model show`, refused where it does not fit, and little more while it is packed."""
import json
import os
import pathlib
import re
import struct
import subprocess

import pytest

import gguf_file
import harness

ONE_WORKER = {"prefill": 0, "decode": 0, "mixed": 1}


def sluice(*arguments):
    return subprocess.run([str(harness.BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def peak_kb(pid):
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE).group(1))


def with_another_tensor(folder, target):
    """The demo model with one tensor more that no part of the graph reads."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    content = (folder / "model.safetensors").read_bytes()
    size, = struct.unpack_from("<Q", content)
    head = json.loads(content[8:8 + size])
    data = content[8 + size:]
    head["vision_tower.weight"] = {"dtype": "F32", "shape": [4], "data_offsets": [len(data), len(data) + 16]}
    encoded = json.dumps(head).encode()
    (target / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data + bytes(16))
    return target


def test_the_banner_and_model_show_say_what_a_model_is_and_needs(tmp_path):
    model = with_another_tensor(harness.MODEL, tmp_path / "tales")
    parts = ("LlamaForCausalLM", "0.3 million", "MB on disk", "MB in memory (f32)", "1,280 bytes a token (f32)", "512 tokens", "1 tensor (vision_tower.weight)")
    with harness.serve(model=model, **ONE_WORKER) as server:
        server.wait_ready()
        [line] = harness.wait_until(lambda: [line for line in server.output().splitlines() if line.strip().startswith("tales: ")], "the banner")
    shown = sluice("model", "show", model)
    assert shown.returncode == 0, shown.stderr
    for part in parts:
        assert part in line, (part, line)
        assert part in shown.stdout, (part, shown.stdout)
    assert "a context of all 512 tokens" in shown.stdout
    assert "not used      nothing" in sluice("model", "show", harness.MODEL).stdout


def test_a_small_pool_shortens_the_longest_context_and_the_banner_says_so():
    with harness.serve("--set", "engine.kv_pool_bytes=400000", **ONE_WORKER) as server:
        server.wait_ready()
        harness.wait_until(lambda: "longest context 304 of 512 tokens (engine.kv_pool_bytes)" in server.output(), "the banner")


@pytest.mark.parametrize("layout, kv", [(ONE_WORKER, "KV 100.0 MB"), ({"prefill": 1, "decode": 1}, "KV 2 x 100.0 MB")])
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, layout, kv):
    limit = 100_000_000 * (layout.get("mixed", 0) + layout["prefill"] + layout["decode"])
    with harness.serve("--set", f"engine.host_memory_bytes={limit}", "--set", "engine.kv_pool_bytes=100000000",
                       "--set", f"engine.packed_dir={tmp_path / 'packed'}", **layout) as server:
        assert server.wait() == 1
        said = server.output()
    for part in ("does not fit", "stories260k: weights 1.1 MB (f32)", kv, f"engine.host_memory_bytes has {limit / 1e6:.1f} MB", "Lower engine.kv_pool_bytes"):
        assert part in said, (part, said)
    assert not (tmp_path / "packed").exists()
    assert "loading" not in said


def test_an_open_pool_takes_what_there_is(tmp_path):
    with harness.serve("--set", "engine.host_memory_bytes=150000000", **ONE_WORKER) as server:
        server.wait_ready()
        pool = int(harness.wait_until(lambda: re.search(r"KV (\d+) blocks of 16 tokens", server.output()), "the banner").group(1)) * 16 * 1280
        assert 1_000_000 < pool < 75_000_000  # three quarters of what is left beside 67 MB of a process, weights and steps
        answer = harness.post(server.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once upon a time", max_tokens=8, temperature=0)
        assert answer.status == 200, answer.body


def test_an_encoder_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path):
    encoder = harness.ROOT / "tests" / "golden" / "data" / "bert_mean"
    with harness.serve("--encoder", f"small={encoder}", "--set", "engine.host_memory_bytes=10000", "--set", f"engine.packed_dir={tmp_path / 'packed'}",
                       **ONE_WORKER) as server:
        assert server.wait() == 1
        said = server.output()
    assert "the encoder small does not fit into memory" in said and "engine.host_memory_bytes" in said, said
    assert not (tmp_path / "packed").exists()


def test_a_worker_of_its_own_is_refused_too(tmp_path):
    ran = sluice("mixed", "--model", harness.MODEL, "--set", "engine.host_memory_bytes=1000000", "--set", f"engine.packed_dir={tmp_path / 'packed'}",
                 "--set", "cluster.key=" + "0" * 32)
    assert ran.returncode == 1
    assert "does not fit into memory" in ran.stderr, ran.stderr
    assert not (tmp_path / "packed").exists()


def test_packing_a_gguf_file_takes_little_memory_beyond_its_packed_file(tmp_path):
    """Neither the file that is read (188 MB) nor a second copy of what is written (353 MB) is held: either would be beyond the limit."""
    packed_bytes = gguf_file.write_large(tmp_path / "large.gguf", harness.MODEL, layers=6, width=1024, intermediate=8192)
    assert packed_bytes > 300e6
    with harness.serve("--set", f"engine.packed_dir={tmp_path / 'packed'}", "--set", "engine.kv_pool_bytes=16000000", model=tmp_path / "large.gguf",
                       **ONE_WORKER) as server:
        server.wait_ready()
        [packed] = (tmp_path / "packed").glob("*.weights")
        assert packed.stat().st_size > 0.95 * packed_bytes
        answer = harness.post(server.port, "/v1/completions", model="large", prompt=[1, 2, 3], max_tokens=1, temperature=0)
        assert answer.status == 200, answer.body
        beyond = peak_kb(server.pid) * 1024 - packed.stat().st_size  # of all that was ever there at once, the packed file's pages included
        assert beyond < 200e6, beyond
    os.remove(tmp_path / "large.gguf")
    os.remove(packed)
