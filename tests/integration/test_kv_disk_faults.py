"""A disk below the KV pool that fails, is full, unreadable or does not answer: misses, counted, and nobody else notices."""
import contextlib
import errno
import subprocess
import threading

import pytest

import harness
from test_kv_tiers import ONE_WORKER, SMALL_POOL, ask, check_coded, disk, moved, sample, wait_saved

LIBRARY = harness.BINARY.parent / "tests" / "integration" / "libfaulty_disk.so"
CONVERSATION = 20  # full blocks of one


class FaultyDisk:
    """faulty_disk.cpp in front of the disk of a server."""

    def __init__(self, folder):
        self.control = folder / "disk-does"
        self.environment = {"LD_PRELOAD": str(LIBRARY), "SLUICE_TEST_DISK": str(self.control)}
        self.does("fine")

    def does(self, what):
        # Whole at once: it is read at every call.
        draft = self.control.with_suffix(".new")
        draft.write_text(what)
        draft.replace(self.control)

    def hangs(self):
        return self.control.with_name(self.control.name + ".waits").exists()

    @contextlib.contextmanager
    def serve(self, folder, *flags):
        """By pread and pwrite, which is where it stands."""
        with harness.serve(*(flags or SMALL_POOL), *disk(folder), "--set", "engine.kv_disk.io=page_cache", environment=self.environment, **ONE_WORKER) as server:
            server.wait_ready()
            yield server
            assert server.is_alive(), server.output()
            assert harness.request(server.port, "GET", "/health").status == 200
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
            assert server.stop() == 0


@pytest.fixture
def faulty(tmp_path):
    assert LIBRARY.exists(), "make build"
    return FaultyDisk(tmp_path)


def outcomes(server, direction, outcome):
    return sample(server.port, f"sluice_kv_tier_{direction}_total", tier="disk", outcome=outcome)


@pytest.mark.process
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_is_computed(tmp_path, faulty, error):
    folder = tmp_path / "kv"
    with faulty.serve(folder) as server:
        first = [ask(server.port, number) for number in range(3)]
        wait_saved(server.port, 3 * CONVERSATION)
        faulty.does(f"read {error}")
        assert ask(server.port, 0) == (first[0][0], 0)  # the pool has the last one
        assert [ask(server.port, number)[0] for number in range(3)] == [text for text, _ in first]
        assert outcomes(server, "loads", "failed") >= 1
        harness.wait_until(lambda: "cannot read" in server.output(), "the log says why")
        faulty.does("fine")
    # What could not be read then was not damaged by it.
    with faulty.serve(folder) as server:
        assert [ask(server.port, number) for number in range(3)] == [(text, 304) for text, _ in first]


@pytest.mark.process
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_nothing_is_left_out_until_it_does(tmp_path, faulty, error):
    folder = tmp_path / "kv"
    with faulty.serve(folder) as server:
        faulty.does(f"write {error}")
        first = [ask(server.port, number) for number in range(3)]
        harness.wait_until(lambda: outcomes(server, "saves", "failed") >= 3, "three saves have failed", 120)
        assert sample(server.port, "sluice_kv_tier_blocks", tier="disk", state="cached") == 0
        assert ask(server.port, 0) == (first[0][0], 0)
        harness.wait_until(lambda: "cannot write" in server.output(), "the log says why")
        faulty.does("fine")
        assert [ask(server.port, number)[0] for number in range(3)] == [text for text, _ in first]
        assert ask(server.port, 7)[1] == 0
        wait_saved(server.port, CONVERSATION)
    with faulty.serve(folder) as server:
        assert ask(server.port, 7)[1] == 304


@pytest.mark.process
def test_a_disk_that_does_not_answer_stops_only_who_waits_for_it(tmp_path, faulty):
    with faulty.serve(tmp_path / "kv", "--set", "engine.kv_pool_bytes=1300000") as server:  # 62 blocks
        first = [ask(server.port, number) for number in range(5)]
        wait_saved(server.port, 5 * CONVERSATION)
        faulty.does("hang")
        told = []
        waiting = threading.Thread(target=lambda: told.append(ask(server.port, 0)))
        waiting.start()
        harness.wait_until(faulty.hangs, "a read hangs", 120)
        others = [ask(server.port, number) for number in (8, 9)]  # while it does
        assert [cached for _, cached in others] == [0, 0]
        assert waiting.is_alive() and not told
        faulty.does("fine")
        waiting.join()
        assert [text for text, _ in told] == [first[0][0]]
        assert [ask(server.port, number)[0] for number in (8, 9)] == [text for text, _ in others]


@pytest.mark.process
def test_files_that_cannot_be_read_at_start_are_begun_anew(tmp_path, faulty):
    folder = tmp_path / "kv"
    with faulty.serve(folder) as server:
        text, _ = ask(server.port, 1)
        wait_saved(server.port, CONVERSATION)
    faulty.does(f"read {errno.EIO}")
    with faulty.serve(folder) as server:
        assert ask(server.port, 1) == (text, 0)


@pytest.mark.process
def test_a_new_process_knows_how_slow_its_disk_is(tmp_path, faulty):
    """It has neither loaded nor computed anything: what would take seconds comes from both ends."""
    folder = tmp_path / "kv"
    with faulty.serve(folder) as server:
        first = [ask(server.port, number) for number in range(2)]
        wait_saved(server.port, 2 * CONVERSATION)
    faulty.does("rate 100000")  # four seconds for a conversation, some milliseconds to compute it
    with faulty.serve(folder) as server:
        assert ask(server.port, 0)[0] == first[0][0]
        assert outcomes(server, "loads", "both_ends") == 1
        assert outcomes(server, "loads", "complete") == 0
    faulty.does("fine")
    with faulty.serve(folder) as server:
        assert ask(server.port, 1) == (first[1][0], 304)


@pytest.mark.process
def test_kv_is_coded_where_the_disk_is_slow(tmp_path, faulty):
    folder = tmp_path / "kv"
    flags = (*SMALL_POOL, "--set", "engine.kv_disk.codec=auto")
    with faulty.serve(folder, *flags) as server:
        first = [ask(server.port, 0)]
        wait_saved(server.port, CONVERSATION)
        of_blocks, stored = moved(server.port, "disk", "out")
        assert of_blocks == stored > 0  # as long as nothing is known of the disk
    faulty.does("rate 2000000")
    with faulty.serve(folder, *flags) as server:
        first.append(ask(server.port, 1))
        wait_saved(server.port, 2 * CONVERSATION)
        check_coded(server.port, "disk", "out")
    faulty.does("fine")
    with faulty.serve(folder, *flags) as server:
        assert [ask(server.port, number) for number in range(2)] == [(text, 304) for text, _ in first]


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of its own with room for three conversations of ten."""
    folder = tmp_path / "kv"
    folder.mkdir()
    mount = ["sh", "-c", 'mount -t tmpfs -o size=1500k none "$0" && exec "$@"', folder]
    ways = [["unshare", "--mount", *mount], ["unshare", "--user", "--map-root-user", "--mount", *mount]]
    inside = next((way for way in ways if subprocess.run([*way, "true"], check=False, capture_output=True).returncode == 0), None)
    if inside is None:
        pytest.skip("SKIPPED: this machine lets nobody mount a file system of his own")
    port = harness.free_port()
    command = [*inside, harness.BINARY, "serve", "--model", harness.MODEL, "--port", str(port), "--prefill", "0", "--decode", "0", "--mixed", "1", *SMALL_POOL, *disk(folder)]
    with harness.Server(command, port) as server:
        server.wait_ready()
        first = [ask(port, number) for number in range(10)]
        harness.wait_until(lambda: outcomes(server, "saves", "failed") >= 1, "a save has failed", 120)
        harness.wait_until(lambda: "No space left on device" in server.output(), "the log says why")
        assert sample(port, "sluice_kv_tier_blocks", tier="disk", state="cached") >= CONVERSATION
        again = [ask(port, number) for number in range(10)]
        assert [text for text, _ in again] == [text for text, _ in first]
        assert server.stop() == 0
