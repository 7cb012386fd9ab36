"""KV in an S3-compatible store below the pool: against a server of others that checks signatures, and against those that fail in every way."""
import concurrent.futures
import itertools
import os
import random
import signal
import socket

import pytest

import harness
from s3_store import BUCKET, FaultyProxy, Moto, write_credentials
from test_kv_tiers import ONE_WORKER, SMALL_POOL, ask, moved, sample
from test_same_tokens import ask as ask_with_logprobs
from test_same_tokens import requests_of

KEY = "00112233445566778899aabbccddeeff"


def settings(endpoint, credentials, *more):
    wanted = [f"cluster.key={KEY}", f"engine.kv_s3.endpoint={endpoint}", f"engine.kv_s3.bucket={BUCKET}", "engine.kv_s3.bytes=8000000", "engine.kv_s3.buffer_bytes=4000000",
              f"engine.kv_s3.credentials_file={credentials}", "engine.kv_s3.prefix=test/", "log.level=debug",
              *(f"engine.kv_s3.{what}_timeout_ms=120000" for what in ("connect", "list", "load")), "engine.kv_s3.timeout_ms=60000", *more]
    return [word for setting in wanted for word in ("--set", setting)]


def serve(endpoint, credentials, *more, **environment):
    return harness.serve(*SMALL_POOL, *settings(endpoint, credentials, *more), environment=environment, **ONE_WORKER)


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    made = Moto(tmp_path_factory.mktemp("moto"))
    with made.process:
        yield made


@pytest.fixture
def store(moto):
    """With an empty bucket."""
    for key in moto.objects():
        moto.s3.delete_object(Bucket=BUCKET, Key=key)
    return moto


def wait_said(server, words):
    """A server may be ready before it has said so."""
    harness.wait_until(lambda: words in server.output(), f"the log says: {words}")


def requests_to(port, operation, outcome):
    return sample(port, "sluice_kv_s3_requests_total", operation=operation, outcome=outcome)


def wait_put(port, blocks):
    harness.wait_until(lambda: requests_to(port, "put", "complete") >= blocks, f"{blocks} blocks are in the store")


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_kv_in_a_store_outlives_its_process_and_what_is_damaged_is_computed(store, how):
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        first = [ask(server.port, number) for number in range(3)]
        assert [cached for _, cached in first] == [0] * 3
        if how == signal.SIGKILL:
            wait_put(server.port, 3 * 20)
        server.stop(how)  # whoever is told to end sends what it has
        assert store.secret not in server.output()
    keys = store.objects()
    assert len(keys) == 3 * 20
    assert all(key.startswith("test/v1/") for key in keys)
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        wait_said(server, "(60 blocks found)")
        assert ask(server.port, 0) == (first[0][0], 304)
        assert sample(server.port, "sluice_kv_tier_loads_total", tier="s3", outcome="complete") == 1
        assert requests_to(server.port, "get", "complete") == 19
        # From here on it knows what loading takes, and may find computing quicker.
        assert [ask(server.port, number)[0] for number in range(3)] == [text for text, _ in first]
        assert store.secret not in server.output()
    for key in keys:
        content = bytearray(store.content(key))
        content[len(content) // 2] ^= 1
        store.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        assert [ask(server.port, number) for number in range(3)] == [(text, 0) for text, _ in first]
        assert sample(server.port, "sluice_kv_tier_loads_total", tier="s3", outcome="failed") == 3
        assert requests_to(server.port, "get", "damaged") >= 3
        wait_said(server, "is not what was saved")
        wait_put(server.port, 3 * 20)  # and good ones take their place
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        assert ask(server.port, 2) == (first[2][0], 304)


@pytest.mark.process
def test_coded_kv_in_a_store_is_the_same_kv(store):
    """And lies under keys of its own: who does not code does not find it, and the other way round."""
    with serve(store.endpoint, store.credentials, "engine.kv_s3.codec=raw") as server:
        server.wait_ready()
        text, _ = ask(server.port, 0)
        assert server.stop() == 0  # sends what it has
    plain = store.objects()
    assert len(plain) == 20
    coded = "engine.kv_s3.codec=exact"
    with serve(store.endpoint, store.credentials) as server:  # which is what it does by itself
        server.wait_ready()
        assert ask(server.port, 0) == (text, 0)
        assert server.stop() == 0
    keys = set(store.objects()) - set(plain)
    assert len(keys) == 20
    assert all("-exact1/" in key for key in keys)
    size = len(store.content(plain[0]))
    assert all(0.5 * size < len(store.content(key)) < 0.95 * size for key in keys)
    with serve(store.endpoint, store.credentials, coded) as server:
        server.wait_ready()
        wait_said(server, "(20 blocks found)")
        assert ask(server.port, 0) == (text, 304)
        of_blocks, stored = moved(server.port, "s3", "in")
        assert 0.5 * of_blocks < stored < 0.95 * of_blocks


@pytest.mark.process
def test_two_processes_have_a_store_in_common_and_another_key_finds_nothing(store):
    with serve(store.endpoint, store.credentials) as one:
        one.wait_ready()
        text, cached = ask(one.port, 1)
        assert cached == 0
        wait_put(one.port, 20)
        with serve(store.endpoint, store.credentials) as two:
            two.wait_ready()
            assert ask(two.port, 1) == (text, 304)
        with serve(store.endpoint, store.credentials, "cluster.key=ffeeddccbbaa99887766554433221100") as stranger:
            stranger.wait_ready()
            assert ask(stranger.port, 1) == (text, 0)


@pytest.mark.process
def test_nobody_reads_prompts_in_the_bucket_and_what_another_version_wrote_is_not_used(store):
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        text, _ = ask(server.port, 1)
        wait_put(server.port, 20)
    keys = store.objects()
    contents = [store.content(key) for key in keys]
    # KV of this model in the clear has the same exponents again and again; sealed bytes have none of it.
    assert all(max(content[64:].count(byte) for byte in range(256)) < len(content) // 64 for content in contents)
    for key, content in zip(keys, contents, strict=True):
        store.s3.put_object(Bucket=BUCKET, Key=key, Body=content[:8] + b"\x02" + content[9:])
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        assert ask(server.port, 1) == (text, 0)
        wait_said(server, "was written by another version")
    for key, content in zip(keys, contents, strict=True):
        store.s3.delete_object(Bucket=BUCKET, Key=key)
        store.s3.put_object(Bucket=BUCKET, Key=key.replace("/v1/", "/v2/"), Body=content)
    with serve(store.endpoint, store.credentials) as server:
        server.wait_ready()
        wait_said(server, "(0 blocks found)")


@pytest.mark.process
def test_objects_are_bounded_and_a_reset_removes_them(store):
    object_bytes = 20480 + 80
    with serve(store.endpoint, store.credentials, "engine.kv_s3.codec=raw", f"engine.kv_s3.bytes={50 * object_bytes}", "gateway.reset_prefix_cache=true") as server:
        server.wait_ready()
        for number in range(6):
            ask(server.port, number)
            wait_put(server.port, 20 * (number + 1))
        harness.wait_until(lambda: len(store.objects()) <= 50, "no more than 50 blocks are kept")
        assert harness.post(server.port, "/reset_prefix_cache").status == 200
        harness.wait_until(lambda: store.objects() == [], "nothing is left")
        assert ask(server.port, 5)[1] == 0


@pytest.mark.process
def test_a_store_that_is_killed_is_a_miss(tmp_path):
    store = Moto(tmp_path)
    with store.process:
        with serve(store.endpoint, store.credentials, "engine.kv_s3.pause_ms=50") as server:
            server.wait_ready()
            first = [ask(server.port, number)[0] for number in range(3)]
            wait_put(server.port, 3 * 20)
            with serve(store.endpoint, store.credentials) as other, concurrent.futures.ThreadPoolExecutor(3) as pool:
                other.wait_ready()
                again = [pool.submit(ask, other.port, number) for number in range(3)]
                store.process.stop(signal.SIGKILL)  # while they ask
                assert [answer.result()[0] for answer in again] == first
                harness.wait_until(lambda: harness.blocks_in_use(other.port) == 0, "no block is in use")
            # The last one may still be in the pool.
            assert [ask(server.port, number)[0] for number in range(3)] == first
            harness.wait_until(lambda: sample(server.port, "sluice_kv_tier_loads_total", tier="s3", outcome="failed") >= 2, "it is counted")
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
        with serve(store.endpoint, store.credentials) as server:
            server.wait_ready()
            wait_said(server, "not all that the store has is known")
            assert ask(server.port, 0) == (first[0], 0)


@pytest.mark.process
@pytest.mark.parametrize("fault, outcome", [("silent", "late"), ("close", "failed"), ("403", "refused"), ("500", "failed"), ("truncated", "damaged"),
                                            ("corrupt", "damaged"), ("garbage", "damaged")])
def test_whatever_comes_from_a_store_the_answers_are_the_same(store, fault, outcome):
    quick = ("engine.kv_s3.pause_ms=1", *(["engine.kv_s3.timeout_ms=5000"] if fault == "silent" else []))
    with FaultyProxy(store.port) as proxy:
        with serve(proxy.endpoint, store.credentials) as server:
            server.wait_ready()
            first = [ask(server.port, number)[0] for number in range(3)]
            wait_put(server.port, 3 * 20)
        with serve(proxy.endpoint, store.credentials, *quick) as server:
            server.wait_ready()
            wait_said(server, "(60 blocks found)")
            proxy.fail("GET", fault)
            assert [ask(server.port, number) for number in range(3)] == [(text, 0) for text in first]
            assert proxy.met > 0
            assert requests_to(server.port, "get", outcome) > 0
            assert sample(server.port, "sluice_kv_tier_loads_total", tier="s3", outcome="failed") == 3
            proxy.fail(None, None)
            proxy.release()
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
            # It is well again: what was computed meanwhile went there anew.
            wait_put(server.port, 3 * 20)
            assert ask(server.port, 0) == (first[0], 304)


@pytest.mark.process
@pytest.mark.parametrize("fault", ["silent", "close", "403", "500"])
def test_a_store_that_takes_nothing_keeps_nobody(store, fault):
    with FaultyProxy(store.port) as proxy:
        proxy.fail("PUT", fault)
        quick = ("engine.kv_s3.timeout_ms=400", "engine.kv_s3.pause_ms=1", "engine.kv_s3.retries=0")
        with serve(proxy.endpoint, store.credentials, *quick) as server:
            server.wait_ready()
            first = [ask(server.port, number)[0] for number in range(3)]
            assert [ask(server.port, number)[0] for number in range(3)] == first
            harness.wait_until(lambda: sample(server.port, "sluice_kv_s3_requests_total", operation="put") > 0, "it is counted")
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
            assert requests_to(server.port, "put", "complete") == 0
            proxy.release()
            assert server.stop() == 0


@pytest.mark.process
def test_who_is_refused_computes_and_credentials_may_be_replaced(store, tmp_path):
    credentials = write_credentials(tmp_path / "wrong", store.id, "not-this-secret")
    with serve(store.endpoint, credentials, "engine.kv_s3.pause_ms=1") as server:
        server.wait_ready()
        wait_said(server, "HTTP 403")
        text, cached = ask(server.port, 0)
        assert cached == 0
        harness.wait_until(lambda: requests_to(server.port, "put", "refused") > 0, "it is counted")
        write_credentials(credentials, store.id, store.secret)
        numbers = itertools.count(1)

        def is_taken():
            ask(server.port, next(numbers))  # something new has to be put
            return requests_to(server.port, "put", "complete") > 0

        harness.wait_until(is_taken, "the new ones are taken")
        assert "not-this-secret" not in server.output() and store.secret not in server.output()
        assert ask(server.port, 0)[0] == text


def test_settings_that_cannot_be_are_said_at_start(store, tmp_path):
    clean = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": ""}

    def refusal(endpoint, credentials, *more):
        with serve(endpoint, credentials, *more, **clean) as server:
            assert server.wait() == 2
            assert "not-this-secret" not in server.output()
            return server.output()

    bad = tmp_path / "bad"
    bad.touch(0o600)
    bad.write_text("not-this-secret")
    shown = write_credentials(tmp_path / "shown", "a", "not-this-secret")
    shown.chmod(0o644)
    assert "has no aws_access_key_id and aws_secret_access_key" in refusal(store.endpoint, bad)
    assert "cannot be read" in refusal(store.endpoint, tmp_path / "missing")
    assert "can be read or changed by others" in refusal(store.endpoint, shown)
    assert "engine.kv_s3 needs credentials" in refusal(store.endpoint, "")
    assert "engine.kv_s3.buffer_bytes is 100000 bytes" in refusal(store.endpoint, store.credentials, "engine.kv_s3.buffer_bytes=100000")
    assert "engine.kv_s3: endpoint is no address of a store" in refusal("http://127.0.0.1:1/path", store.credentials)
    assert "engine.kv_s3: bucket" in refusal(store.endpoint, store.credentials, "engine.kv_s3.bucket=")
    assert "engine.kv_s3 needs a key that stays" in refusal(store.endpoint, store.credentials, "cluster.key=")
    environment = {"AWS_ACCESS_KEY_ID": store.id, "AWS_SECRET_ACCESS_KEY": store.secret, "HOME": os.environ.get("HOME", "/")}
    with serve(store.endpoint, "", **environment) as server:
        server.wait_ready()
        wait_said(server, "(0 blocks found)")
        assert "HTTP 403" not in server.output()
        ask(server.port, 0)
        wait_put(server.port, 20)


@pytest.mark.process
def test_a_store_that_never_answers_delays_a_start_and_nothing_else(tmp_path):
    credentials = write_credentials(tmp_path / "credentials", "a", "b")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serve(endpoint, credentials, "engine.kv_s3.timeout_ms=200", "engine.kv_s3.pause_ms=50") as server:
            server.wait_ready()
            wait_said(server, "not all that the store has is known")
            first = [ask(server.port, number)[0] for number in range(3)]
            assert [ask(server.port, number)[0] for number in range(3)] == first
            harness.wait_until(lambda: requests_to(server.port, "put", "late") > 0, "it is counted")
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")


@pytest.mark.process
def test_tokens_and_logprobs_are_the_same_with_nothing_but_a_store_below_and_across_restarts(store):
    requests = requests_of(512, 512)
    with harness.serve("--threads", "1", **ONE_WORKER) as server:
        server.wait_ready()
        expected = [ask_with_logprobs(server.port, fields) for fields in requests]
    # So small a pool that streams give way to each other: what they have goes to the store and comes from there.
    flags = ["--set", f"engine.kv_pool_bytes={80 * 20480}", *settings(store.endpoint, store.credentials, "engine.kv_s3.bytes=20000000")]
    for life in range(2):
        with harness.serve(*flags, **ONE_WORKER) as server:
            server.wait_ready()
            for round_number in range(2):
                order = list(range(len(requests)))
                random.Random(f"{life} {round_number}").shuffle(order)
                with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
                    answers = dict(zip(order, pool.map(lambda index: ask_with_logprobs(server.port, requests[index]), order), strict=True))
                assert [index for index in order if answers[index] != expected[index]] == [], f"life {life}, round {round_number}"
            assert sample(server.port, "sluice_kv_tier_bytes_total", tier="s3", direction="in") > 0
            harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "no block is in use")
