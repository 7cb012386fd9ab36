"""KV below the pool: conversations that return find it in host memory, and on disk also after the process was killed."""
import os
import pathlib
import signal
import stat

import pytest

import harness

ONE_WORKER = {"prefill": 0, "decode": 0, "mixed": 1}
SMALL_POOL = ("--set", "engine.kv_pool_bytes=600000")  # 29 blocks of 16 tokens


def prompt(number):
    """320 tokens; no two numbers have a common beginning."""
    return [3 + (number * 97 + place * place * 31) % 500 for place in range(320)]


def ask(port, number):
    answer = harness.post(port, "/v1/completions", prompt=prompt(number), max_tokens=8, temperature=0, ignore_eos=True)
    assert answer.status == 200, answer.body
    body = answer.json()
    return body["choices"][0]["text"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def sample(port, name, **labels):
    return sum(value for (key, have), value in harness.metrics(port).items() if key == name and set(labels.items()) <= have)


def wait_saved(port, blocks):
    """An answer may come before its KV is below."""
    harness.wait_until(lambda: sample(port, "sluice_kv_tier_blocks", state="cached") >= blocks, f"{blocks} blocks are below the pool")


def disk(folder):
    return ("--set", f"engine.kv_disk.path={folder}", "--set", "engine.kv_disk.bytes=8000000")


def test_a_returning_conversation_comes_from_host_memory():
    with harness.serve(*SMALL_POOL, "--set", "engine.kv_host_bytes=8000000", **ONE_WORKER) as server:
        server.wait_ready()
        first = [ask(server.port, number) for number in range(4)]
        assert [cached for _, cached in first] == [0] * 4
        wait_saved(server.port, 4 * 20)
        again = [ask(server.port, number) for number in range(4)]
        assert [text for text, _ in again] == [text for text, _ in first]
        assert [cached for _, cached in again] == [304] * 4  # all but the block of the last token
        assert sample(server.port, "sluice_kv_tier_loads_total", tier="host", outcome="complete") >= 3
        assert sample(server.port, "sluice_kv_tier_bytes_total", tier="host", direction="in") > 0
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("way", ["auto", "page_cache"])
def test_kv_on_a_disk_outlives_its_process(tmp_path, how, way):
    folder = tmp_path / "kv"
    with harness.serve(*SMALL_POOL, *disk(folder), "--set", f"engine.kv_disk.io={way}", **ONE_WORKER) as server:
        server.wait_ready()
        direct = sample(server.port, "sluice_kv_tier_direct_io") == 1
        if way == "page_cache":
            assert not direct
        elif not direct:
            assert "engine.kv_disk: through the page cache: " in server.output()  # and why
        first = [ask(server.port, number) for number in range(3)]
        if how == signal.SIGKILL:
            wait_saved(server.port, 3 * 20)
        server.stop(how)  # whoever is told to end saves what is on its way
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) in (0o700, 0o600), path
    with harness.serve(*SMALL_POOL, *disk(folder), **ONE_WORKER) as server:
        server.wait_ready()
        again = [ask(server.port, number) for number in range(3)]
        assert [text for text, _ in again] == [text for text, _ in first]
        assert [cached for _, cached in again] == [304] * 3
    # Nobody can be asked for what was damaged, and nobody notices.
    for blocks in folder.glob("*/blocks"):
        content = bytearray(blocks.read_bytes())
        for place in range(1000, len(content), 5000):
            content[place] ^= 1
        blocks.write_bytes(content)
    with harness.serve(*SMALL_POOL, *disk(folder), **ONE_WORKER) as server:
        server.wait_ready()
        assert [ask(server.port, number) for number in range(3)] == [(text, 0) for text, _ in first]
        assert sample(server.port, "sluice_kv_tier_loads_total", tier="disk", outcome="failed") == 3
        harness.wait_until(lambda: "is not what was saved" in server.output(), "the log says why")


CODED = {"host": ("--set", "engine.kv_host_bytes=8000000", "--set", "engine.kv_host_codec=exact"), "disk": ("--set", "engine.kv_disk.codec=exact")}


def moved(port, tier, direction):
    """Bytes of KV, and as they lie there."""
    return tuple(sample(port, f"sluice_kv_tier_{what}_total", tier=tier, direction=direction) for what in ("bytes", "stored_bytes"))


def check_coded(port, tier, direction):
    of_blocks, stored = moved(port, tier, direction)
    assert 0.5 * of_blocks < stored < 0.95 * of_blocks


@pytest.mark.parametrize("way", ["auto", "page_cache"])
def test_coded_kv_is_the_same_kv(tmp_path, way):
    """In host memory and on a disk, also after the process was killed; and nothing for who has another coding."""
    with harness.serve(*SMALL_POOL, **ONE_WORKER) as server:
        server.wait_ready()
        plain = [ask(server.port, number)[0] for number in range(4)]
    with harness.serve(*SMALL_POOL, *CODED["host"], **ONE_WORKER) as server:
        server.wait_ready()
        assert [ask(server.port, number)[0] for number in range(4)] == plain
        wait_saved(server.port, 4 * 20)
        assert [ask(server.port, number) for number in range(4)] == [(text, 304) for text in plain]
        check_coded(server.port, "host", "out")
        check_coded(server.port, "host", "in")
    flags = (*SMALL_POOL, *disk(tmp_path / "kv"), "--set", f"engine.kv_disk.io={way}")
    with harness.serve(*flags, *CODED["disk"], **ONE_WORKER) as server:
        server.wait_ready()
        assert [ask(server.port, number)[0] for number in range(3)] == plain[:3]
        wait_saved(server.port, 3 * 20)
        if way == "page_cache":  # else what is moved is rounded up to what the disk moves, and these blocks are small
            check_coded(server.port, "disk", "out")
        server.stop(signal.SIGKILL)
    for coding, cached in ((CODED["disk"], 304), ((), 0), (CODED["disk"], 0)):
        with harness.serve(*flags, *coding, **ONE_WORKER) as server:
            server.wait_ready()
            assert [ask(server.port, number) for number in range(2)] == [(text, cached) for text in plain[:2]]
            wait_saved(server.port, 2 * 20)
            server.stop()


def test_a_reset_empties_the_tiers_too(tmp_path):
    folder = tmp_path / "kv"
    for _ in range(2):
        with harness.serve(*SMALL_POOL, *disk(folder), "--set", "engine.kv_host_bytes=8000000", "--set", "gateway.reset_prefix_cache=true",
                           **ONE_WORKER) as server:
            server.wait_ready()
            assert ask(server.port, 1)[1] == 0
            wait_saved(server.port, 2 * 20)
            assert harness.post(server.port, "/reset_prefix_cache").status == 200
            assert ask(server.port, 2)[1] == 0
            assert ask(server.port, 1)[1] == 0
            assert harness.post(server.port, "/reset_prefix_cache").status == 200
            server.stop()


def test_another_key_finds_nothing(tmp_path):
    folder = tmp_path / "kv"
    key = ("--set", "cluster.key=00112233445566778899aabbccddeeff")
    for flags, cached in ((key, 0), (key, 304), ((), 0), (key, 0)):
        with harness.serve(*SMALL_POOL, *disk(folder), *flags, **ONE_WORKER) as server:
            server.wait_ready()
            assert ask(server.port, 1)[1] == cached
            wait_saved(server.port, 20)
            server.stop()


def test_a_disk_that_cannot_be_used_is_said_at_start(tmp_path):
    (tmp_path / "kv").write_text("a file")
    with harness.serve(*disk(tmp_path / "kv"), **ONE_WORKER) as server:
        assert server.wait() == 2
        assert "engine.kv_disk.path" in server.output() and str(tmp_path / "kv") in server.output()
    with harness.serve("--set", "engine.kv_host_bytes=1000", **ONE_WORKER) as server:
        assert server.wait() == 2
        assert "engine.kv_host_bytes is 1000 bytes, less than one block" in server.output()


def test_two_processes_share_a_folder_without_sharing_files(tmp_path):
    folder = tmp_path / "kv"
    with harness.serve(*SMALL_POOL, *disk(folder), **ONE_WORKER) as one, harness.serve(*SMALL_POOL, *disk(folder), **ONE_WORKER) as two:
        one.wait_ready()
        two.wait_ready()
        assert ask(one.port, 1) == ask(two.port, 1)
    names = [path.name for path in pathlib.Path(folder).iterdir() if path.is_dir()]
    assert sorted(name[-2:] for name in names) == ["-0", "-1"], os.listdir(folder)
