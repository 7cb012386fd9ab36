"""Answers that gateways share on a real Valkey or Redis server: found by each other, purged for all, and what a server that is dead, frozen or started anew costs."""
import concurrent.futures
import contextlib
import itertools
import secrets
import signal
import threading

import pytest

from harness import request, serve, wait_until
from key_value import KeyValueServer
from test_caching import ASKED, CHAT, ask, counted, sluice

KEY = secrets.token_hex(16)


def gateway(store, *more):
    """A gateway with a model of its own, in the same cluster as the others of this file."""
    settings = ["caching.enabled=true", f"caching.shared.address={store.address}", "caching.shared.patience_ms=10000", "caching.shared.lease_ms=8000", "gateway.tenant_header=x-tenant",
                f"cluster.key={KEY}", *more]
    return serve(*(word for one in settings for word in ("--set", one)), prefill=0, decode=0, mixed=1)


def told(server):
    """What GET /cache says of the shared server, and with it the metrics as they are now."""
    return request(server.port, "GET", "/cache").json()["shared"]


def wait_current(server, current=True):
    wait_until(lambda: told(server)["current"] == current, f"all purges are known: {current}")


@contextlib.contextmanager
def two_gateways(store, *more):
    with gateway(store, *more) as one, gateway(store, *more) as two:
        for server in (one, two):
            server.wait_ready()
            wait_current(server)
        yield one, two


def body(number):
    return {**ASKED, "prompt": f"Number {number} is"}


def kept(server, number, **headers):
    """The model's answer, once the others can find it."""
    before = told(server)["written"]
    answer = ask(server.port, body(number), **headers)
    assert answer.headers["x-cache"] == "MISS"
    wait_until(lambda: told(server)["written"] > before, "it is on the server")
    return answer.json()["choices"][0]["text"]


def is_none(server, asked, path="/v1/completions"):
    """Nothing is kept for it."""
    return request(server.port, "POST", path, asked, {"Cache-Control": "only-if-cached"}).status == 504


@pytest.fixture
def store():
    with KeyValueServer() as server:
        yield server


def test_a_gateway_serves_what_another_one_was_answered(store):
    with two_gateways(store) as (one, two):
        text = kept(one, 1)
        before = counted(two.port, "sluice_worker_generation_tokens_total")
        answer = ask(two.port, body(1))
        assert (answer.headers["x-cache"], answer.headers["x-cache-kind"]) == ("HIT", "exact")
        assert answer.json()["choices"][0]["text"] == text and answer.json()["usage"]["response_cache"]["hit"]
        assert counted(two.port, "sluice_worker_generation_tokens_total") == before
        assert counted(two.port, "sluice_gateway_cache_shared_lookups_total", outcome="hit") == 1
        # From now on it is this gateway's, too.
        assert ask(two.port, body(1), cache_control="only-if-cached").headers["x-cache-entry"] == answer.headers["x-cache-entry"]
        assert counted(two.port, "sluice_gateway_cache_shared_lookups_total", outcome="hit") == 1
        # Never another tenant's; a new answer where one is asked for; 504 where there is none.
        assert ask(two.port, body(1), x_tenant="other").headers["x-cache"] == "MISS"
        assert ask(two.port, body(1), cache_control="no-cache").headers["x-cache"] == "MISS"
        assert is_none(two, body(99))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_answers_outlive_the_gateway(store, number):
    with gateway(store) as server:
        server.wait_ready()
        wait_current(server)
        texts = [kept(server, count, x_cache_tags="menu" if count else "handbook") for count in range(4)]
        assert "removed" in sluice("purge", "--url", server.url, "--tag", "handbook").stdout
        server.stop(number)
    with gateway(store) as server:
        server.wait_ready()
        wait_current(server)
        for count in range(1, 4):
            answer = ask(server.port, body(count))
            assert (answer.headers["x-cache"], answer.json()["choices"][0]["text"]) == ("HIT", texts[count])
        assert is_none(server, body(0))


def test_what_is_purged_at_one_gateway_is_gone_at_all(store):
    with two_gateways(store, "caching.semantic.similarity=true", "caching.semantic.lookup_timeout_ms=60000") as (one, two):
        kept(one, 1, x_cache_tags="handbook")
        kept(one, 2, x_cache_tags="menu")
        question = {**CHAT, "messages": [{"role": "user", "content": "How do I list hidden files in a folder?"}]}
        reworded = {**CHAT, "messages": [{"role": "user", "content": "How can I list hidden files in a folder?"}]}
        ask(two.port, question, "/v1/chat/completions", x_cache_tags="handbook")
        assert ask(two.port, reworded, "/v1/chat/completions").headers["x-cache"] == "HIT"
        assert ask(two.port, body(1)).headers["x-cache"] == "HIT"  # and is kept there
        assert "removed" in sluice("purge", "--url", one.url, "--tag", "handbook").stdout
        wait_until(lambda: is_none(two, body(1)), "the other gateway has heard")
        wait_until(lambda: is_none(two, reworded, "/v1/chat/completions"), "and its similar questions")
        assert ask(two.port, body(2)).headers["x-cache"] == "HIT"
        assert ask(one.port, body(1)).headers["x-cache"] == "MISS"
        entry = ask(one.port, body(2)).headers["x-cache-entry"]
        sluice("purge", "--url", one.url, "--entry", entry)
        wait_until(lambda: is_none(two, body(2)), "one answer goes by its name, too")
        sluice("purge", "--url", two.url, "--all")
        wait_until(lambda: store.documents() == 0, "the server's documents are swept")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_server_costs_misses_and_nothing_else(store, number):
    with two_gateways(store, "caching.shared.patience_ms=2", "caching.shared.answer_timeout_ms=60000") as (one, two):
        text = kept(one, 1)
        store.send_signal(number)
        if number == signal.SIGKILL:
            store.stop(number)
        wait_current(one, False)
        # Nobody knows here what was purged meanwhile: what is kept is not served, the model answers, and the same.
        for server in (one, two):
            answer = ask(server.port, body(1))
            assert answer.headers["x-cache"] == "MISS" and answer.json()["choices"][0]["text"] == text
        assert counted(one.port, "sluice_gateway_cache_shared_lookups_total", outcome="away") >= 1
        if number == signal.SIGKILL:
            purged = sluice("purge", "--url", one.url, "--all", check=False)
            assert purged.returncode != 0 and "other gateways may not hear of it" in purged.stdout + purged.stderr
            wait_until(lambda: "until it answers the model does" in one.output(), "it is told")
            store.start()
        else:
            store.send_signal(signal.SIGCONT)
        for server in (one, two):
            wait_current(server)
        again = kept(one, 2)
        assert ask(one.port, body(2)).headers["x-cache"] == "HIT"
        wait_until(lambda: ask(two.port, body(2)).headers["x-cache"] == "HIT", "gateways share again")
        assert ask(two.port, body(2)).json()["choices"][0]["text"] == again


def test_under_load_all_are_answered_and_rightly_whatever_becomes_of_the_server(store):
    """Alive, slow, frozen, awake, killed, started anew, with clients at both gateways all the time: what they get is what the model said, and never an error."""
    with two_gateways(store, "caching.shared.patience_ms=2", "caching.shared.lease_ms=2000", "caching.shared.answer_timeout_ms=1000") as both:
        said = [ask(both[0].port, body(number)).json()["choices"][0]["text"] for number in range(6)]
        answered: dict[str, int] = {"HIT": 0, "MISS": 0, "COALESCED": 0}
        over, lock = threading.Event(), threading.Lock()

        def client(which):
            for turn in itertools.count(which):
                if over.is_set():
                    return
                number = turn % len(said)
                # Every fifth wants a new answer, so that there is always something to be written.
                headers = {"cache_control": "no-cache"} if turn % 5 == 0 else {}
                answer = ask(both[turn % 2].port, body(number), **headers)
                assert answer.json()["choices"][0]["text"] == said[number]
                with lock:
                    answered[answer.headers["x-cache"]] += 1

        def all_answered():
            with lock:
                return sum(answered.values())

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, which) for which in range(4)]
            try:
                def more(what, count=40):
                    """So many more are answered from here on."""
                    until = all_answered() + count
                    wait_until(lambda: all_answered() >= until or any(one.done() for one in clients), what, 120)
                    assert not any(one.done() for one in clients), [one.exception() for one in clients if one.done()]

                def current(is_so):
                    for server in both:
                        wait_current(server, is_so)

                more("with a server that is well")
                wait_until(lambda: answered["HIT"] > 0, "what is kept is served")
                for _ in range(3):
                    assert store.ask("CLIENT", "PAUSE", "400", "ALL") == "+OK"
                    more("with a slow server", 10)
                store.send_signal(signal.SIGSTOP)
                current(False)
                more("with a frozen server")
                store.send_signal(signal.SIGCONT)
                current(True)
                more("with a server that is awake again")
                store.stop(signal.SIGKILL)
                current(False)
                more("with a dead server")
                store.start()
                current(True)
                hits = answered["HIT"]
                more("with a server that was started anew")
                wait_until(lambda: answered["HIT"] > hits, "what is kept is served again")
            finally:
                over.set()
            for one in clients:
                one.result(120)


def test_a_purge_that_nobody_heard_of_is_not_undone_by_a_restart_of_the_server():
    with KeyValueServer("--appendonly", "yes") as store, two_gateways(store, "caching.shared.patience_ms=2") as (one, two):
        kept(one, 1)
        wait_until(lambda: ask(two.port, body(1)).headers["x-cache"] == "HIT", "the other one has it")
        store.stop(signal.SIGKILL)
        assert sluice("purge", "--url", one.url, "--all", check=False).returncode != 0
        store.start()
        for server in (one, two):
            wait_until(lambda server=server: "was started anew or has lost what was purged" in server.output(), "it has noticed")
            wait_current(server)
            assert is_none(server, body(1))


def test_a_server_that_is_not_there_at_the_start_is_waited_for_by_nobody(store):
    store.stop()
    with gateway(store, "caching.shared.patience_ms=2") as server:
        server.wait_ready()
        for _ in range(2):
            assert ask(server.port, body(1)).headers["x-cache"] == "MISS"
        store.start()
        wait_current(server)
        kept(server, 2)
        assert ask(server.port, body(2)).headers["x-cache"] == "HIT"


def test_equal_requests_share_a_run_also_where_the_server_is_away(store):
    store.stop()
    with gateway(store, "caching.shared.lease_ms=60000") as server:
        server.wait_ready()
        long = {**ASKED, "prompt": "Lily and Ben went to the park and", "max_tokens": 400, "stop": ["@never@"], "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(server.port, long), range(8)))
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        assert [answer.headers["x-cache"] for answer in answers].count("COALESCED") > 0


def test_a_file_and_a_shared_server_contradict_each_other(tmp_path, store):
    with gateway(store, f"caching.store_file={tmp_path / 'answers.db'}") as server:
        wait_until(lambda: not server.is_alive(), "it ends")
        assert "cannot be had with caching.shared.address" in server.output()
