"""The cache in front of the model, in real processes: what is served again and to whom, equal requests at one time, purges, restarts and kills."""
import concurrent.futures
import contextlib
import errno
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess

import pytest

import harness
from harness import BINARY, LocalCluster, Stream, request, serve, wait_until
from test_kv_disk_faults import FaultyDisk

ON = ("--set", "caching.enabled=true")
ASKED = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 200, "stop": ["."]}
CHAT = {"messages": [{"role": "user", "content": "Tell me about a bird"}], "temperature": 0, "max_tokens": 200, "stop": ["a"]}


def ask(port, body=None, path="/v1/completions", **headers):
    answer = request(port, "POST", path, body or ASKED, {name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status == 200, answer.body
    return answer


def streamed(port, body, path="/v1/completions"):
    """(text, usage, id) of a stream."""
    stream = Stream(port, path, {**body, "stream_options": {"include_usage": True}})
    chunks = [chunk for chunk in stream.chunks() if isinstance(chunk, dict)]
    stream.close()
    text = "".join((choice.get("text") or choice.get("delta", {}).get("content") or "") for chunk in chunks for choice in chunk["choices"])
    return text, chunks[-1]["usage"], chunks[0]["id"]


def text_of(chunk):
    return chunk["choices"][0]["text"] if chunk.get("choices") else ""


def counted(port, name, **labels):
    """The sum of a metric's series that have these labels."""
    return sum(value for (one, row), value in harness.metrics(port).items() if one == name and set(labels.items()) <= set(row))


def runs(port):
    """Prompts that a worker has computed."""
    return counted(port, "sluice_gateway_cache_requests_total", outcome="miss")


def plain(usage):
    return {name: value for name, value in usage.items() if name != "response_cache"}


def sluice(*words, check=True):
    ran = subprocess.run([BINARY, "cache", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert not check or ran.returncode == 0, ran
    return ran


@pytest.fixture(scope="module")
def server():
    with serve(*ON, "--set", "gateway.tenant_header=x-tenant", "--set", "caching.from_anywhere=false", prefill=0, decode=0, mixed=1) as one:
        yield one.wait_ready()


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", ASKED), ("/v1/chat/completions", CHAT)])
def test_an_answer_is_served_again_in_both_forms_with_its_bytes_and_its_usage(server, path, body):
    tenant = {"x_tenant": "forms" + path.replace("/", ".")}
    first = ask(server.port, body, path, **tenant)
    assert first.headers["x-cache"] == "MISS", first.headers
    before = runs(server.port)
    again = ask(server.port, body, path, **tenant)
    assert (again.headers["x-cache"], again.headers["x-cache-kind"]) == ("HIT", "exact")
    assert int(again.headers["age"]) >= 0 and again.headers["x-cache-entry"].startswith("e-")
    one, two = first.json(), again.json()
    assert one["choices"] == two["choices"] and one["choices"][0]["finish_reason"] == "stop"
    assert one["id"] != two["id"]
    assert plain(two["usage"]) == one["usage"]
    saved = two["usage"]["response_cache"]
    assert saved["hit"] and saved["saved_completion_tokens"] == one["usage"]["completion_tokens"]
    assert runs(server.port) == before


def test_a_stream_and_a_whole_answer_serve_each_other(server):
    whole = {**ASKED, "prompt": "The cat sat"}
    text = ask(server.port, whole).json()
    assert streamed(server.port, whole)[0] == text["choices"][0]["text"]
    stream = {**ASKED, "prompt": "The dog ran"}
    said, usage, name = streamed(server.port, stream)
    again = ask(server.port, stream)
    assert again.headers["x-cache"] == "HIT"
    assert again.json()["choices"][0]["text"] == said
    assert plain(again.json()["usage"]) == usage and again.json()["id"] != name


def test_no_tenant_hears_anothers_answer(server):
    body = {**ASKED, "prompt": "A secret of one"}
    assert ask(server.port, body, x_tenant="one").headers["x-cache"] == "MISS"
    assert ask(server.port, body, x_tenant="two").headers["x-cache"] == "MISS"
    assert ask(server.port, body, x_tenant="one").headers["x-cache"] == "HIT"


@pytest.mark.parametrize("blur", ["false", "true"])
def test_what_three_keys_were_answered_alike_a_fourth_one_gets_where_that_is_on(tmp_path, blur):
    file = tmp_path / "keys.json"

    def key(tenant, *flags):
        ran = subprocess.run([BINARY, "keys", "add", "--file", file, "--tenant", tenant, *flags], capture_output=True, text=True, timeout=60, check=True)
        return ran.stdout.strip()

    keys = {tenant: key(tenant) for tenant in "abcdef"}
    second_of_a, admin = key("a"), key("operators", "--scopes", "admin")
    flags = ("--set", f"gateway.keys_file={file}", "--set", "caching.common.enabled=true", "--set", f"caching.common.blur={blur}", "--set", "caching.common.tenants=[a, b, c, d, e]")
    with serve(*ON, *flags, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        port = server.port

        def asked(one, body=None, **headers):
            return ask(port, body, authorization=f"Bearer {one}", **headers)

        def sum_of(name):
            answer = request(port, "GET", "/metrics", None, {"Authorization": f"Bearer {admin}"})
            assert answer.status == 200, answer.body
            return sum(float(line.rsplit(" ", 1)[1]) for line in answer.body.decode().splitlines() if re.match(name + r"[{ ]", line))

        def runs():  # of the model
            return sum_of("sluice_scheduler_decisions_total")

        def served():
            return sum_of("sluice_gateway_cache_common_served_total")

        first = asked(keys["a"])
        said = first.json()
        for one in (second_of_a, keys["b"]):  # two keys of one tenant are one tenant
            assert asked(one).json()["choices"] == said["choices"]
        asked(keys["c"])
        assert (runs(), served()) == (3, 0)  # each tenant had one of its own
        fourth = asked(keys["d"])
        assert (runs(), served()) == (3, 1)
        assert fourth.json()["choices"] == said["choices"] and fourth.json()["id"] != said["id"]
        assert {**plain(fourth.json()["usage"]), "prompt_tokens_details": None} == {**said["usage"], "prompt_tokens_details": None}
        if blur == "true":
            assert fourth.headers["x-cache"] == "MISS" and "x-cache-kind" not in fourth.headers and "response_cache" not in fourth.json()["usage"]
            assert set(fourth.headers) == set(first.headers)  # nothing else tells it from one of the model
            assert asked(keys["d"]).headers["x-cache"] == "HIT"  # as with one of the model
        else:
            assert (fourth.headers["x-cache"], fourth.headers["x-cache-kind"]) == ("HIT", "common")
        stream = Stream(port, "/v1/completions", ASKED, headers={"Authorization": f"Bearer {keys['e']}"})
        assert "".join(text_of(chunk) for chunk in stream.chunks() if isinstance(chunk, dict)) == said["choices"][0]["text"]
        stream.close()
        assert (runs(), served()) == (3, 2)
        # Who does not take part, who wants to be alone, and whose request differs in anything is answered by the model.
        for one, body, headers in ((keys["f"], None, {}), (keys["e"], {**ASKED, "prompt": "Once upon a day"}, {}), (keys["e"], {**ASKED, "cache_salt": "mine"}, {})):
            assert asked(one, body, **headers).headers["x-cache"] == "MISS" and served() == 2
        sluice("purge", "--tenant", "a", "--url", server.url, "--api-key", admin)
        assert "for all tenants: 0 answers" in sluice("stats", "--url", server.url, "--api-key", admin).stdout
        assert asked(second_of_a).headers["x-cache"] == "MISS" and served() == 2


def test_a_tenant_that_has_written_its_share_of_the_minute_pushes_nothing_out(tmp_path):
    file = tmp_path / "answers.db"
    with serve(*ON, "--set", "gateway.tenant_header=x-tenant", "--set", "caching.tenant_writes_per_minute=1", "--set", f"caching.store_file={file}",
               prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()

        def stored(outcome):
            return counted(server.port, "sluice_gateway_cache_stored_total", outcome=outcome)

        ask(server.port, x_tenant="calm")
        for number in range(5):  # within five minutes, else these requests are given up anyhow
            ask(server.port, {**ASKED, "prompt": f"Number {number} is"}, x_tenant="hostile")
        assert stored("kept") + stored("quota") == 6 and stored("quota") >= 1
        assert ask(server.port, x_tenant="calm").headers["x-cache"] == "HIT"
        kept = stored("kept")
        server.stop()
    assert sqlite3.connect(file).execute("SELECT count(*) FROM answers").fetchone()[0] == kept


def test_what_is_not_kept_says_why(server):
    for more, reason in (({"temperature": 0.5}, "temperature"), ({"n": 2}, "several-choices"), ({"logprobs": 1}, "logprobs"),
                         ({"prompt": "mail me at jo@example.org"}, "personal")):
        answer = ask(server.port, {**ASKED, **more})
        assert (answer.headers["x-cache"], answer.headers["x-cache-reason"]) == ("BYPASS", reason)
    assert ask(server.port, cache_control="no-store").headers["x-cache-reason"] == "no-store"


def test_cache_control_of_the_request_holds(server):
    body = {**ASKED, "prompt": "A bird flew"}
    assert request(server.port, "POST", "/v1/completions", body, {"Cache-Control": "only-if-cached"}).status == 504
    ask(server.port, body)
    assert ask(server.port, body, cache_control="only-if-cached").headers["x-cache"] == "HIT"
    assert ask(server.port, body, cache_control="no-cache").headers["x-cache"] == "MISS"
    assert request(server.port, "POST", "/v1/completions", body, {"Cache-Control": "max-age=x"}).status == 400


def test_equal_requests_at_one_time_are_one_run_at_the_engine(server):
    count = 24
    body = {**ASKED, "prompt": "Lily and Ben went to the park and", "max_tokens": 400, "stop": ["@never@"], "ignore_eos": True}
    before = runs(server.port)
    tokens = counted(server.port, "sluice_worker_generation_tokens_total")
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: ask(server.port, body), range(count)))
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
    kinds = [answer.headers["x-cache"] for answer in answers]
    # Such an answer ends at its bound of tokens and is not kept: who came after its end ran anew.
    assert kinds.count("MISS") == runs(server.port) - before
    # Whoever went away in a test before may have had a few tokens more; nobody had another 400.
    assert kinds.count("MISS") <= (counted(server.port, "sluice_worker_generation_tokens_total") - tokens) / 400 < kinds.count("MISS") + 1
    assert kinds.count("COALESCED") == count - kinds.count("MISS") > 0
    assert len({answer.json()["id"] for answer in answers}) == count


def test_who_leaves_stops_nobody(server):
    body = {**ASKED, "prompt": "Tom saw a big dog and", "max_tokens": 450, "stop": ["@never@"], "ignore_eos": True}
    leader = Stream(server.port, "/v1/completions", body)
    next(leader.chunks())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        follower = pool.submit(streamed, server.port, body)
        wait_until(lambda: counted(server.port, "sluice_gateway_cache_waiters") == 1 or follower.done(), "the other has joined")
        leader.close()
        text, usage, _ = follower.result()
    assert usage["completion_tokens"] == 450 and text


def test_operators_see_and_purge(server):
    body = {**ASKED, "prompt": "Mom made a cake and"}
    ask(server.port, body, x_tenant="team", x_cache_tags="recipes, cakes")
    ask(server.port, {**body, "prompt": "Mom made a pie and"}, x_tenant="team")
    listed = json.loads(sluice("ls", "--url", server.url, "--tenant", "team", "--json").stdout)
    assert listed["total"] == 2 and "text" not in listed["entries"][0]
    assert "team" in sluice("ls", "--url", server.url).stdout and "team" in sluice("stats", "--url", server.url).stdout
    exported = [json.loads(line) for line in sluice("export", "--url", server.url, "--tenant", "team").stdout.splitlines()]
    assert len(exported) == 2 and all(one["text"] for one in exported)
    assert "would remove 1 " in sluice("purge", "--url", server.url, "--tag", "cakes", "--dry-run").stdout
    assert "removed 1 " in sluice("purge", "--url", server.url, "--tag", "cakes").stdout
    assert ask(server.port, body, x_tenant="team").headers["x-cache"] == "MISS"
    entry = ask(server.port, body, x_tenant="team").headers["x-cache-entry"]
    assert "removed 1 " in sluice("purge", "--url", server.url, "--entry", entry).stdout
    assert "removed 1 " in sluice("purge", "--url", server.url, "--tenant", "team").stdout
    assert sluice("purge", "--url", server.url, check=False).returncode == 2
    assert request(server.port, "GET", "/cache", headers={"X-Forwarded-For": "192.0.2.1"}).status == 403
    wait_until(lambda: "audit: cache purge by client" in server.output(), "purges are told in the log")


def test_hits_are_in_the_log_and_in_the_timeline(server):
    body = {**ASKED, "prompt": "Sue had a red ball and"}
    ask(server.port, body)
    answer = ask(server.port, body)
    told = request(server.port, "GET", f"/explain/{answer.headers['x-request-id']}").json()
    assert told["cache"] == "HIT"
    wait_until(lambda: '"cache":"HIT"' in server.output(), "the access log says so")


def test_off_there_is_nothing_of_it():
    with serve(prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        for _ in range(2):
            assert "x-cache" not in ask(server.port).headers
        assert request(server.port, "GET", "/cache").status == 404
        assert not [name for name, _ in harness.metrics(server.port) if "cache_requests" in name]


def test_a_killed_worker_does_not_end_those_who_wait():
    body = {**ASKED, "prompt": "One day a little girl named Lily found", "max_tokens": 450, "stop": ["@never@"], "ignore_eos": True}
    with LocalCluster(prefill=0, decode=0, mixed=2, settings=["caching.enabled=true", "gateway.retry_floor_per_s=0", "gateway.retry_percent=0", "gateway.retry_saved_max=1"]) as cluster:
        cluster.wait_ready()
        expected = ask(cluster.port, body, cache_control="no-store").json()["choices"][0]["text"]
        streams = [Stream(cluster.port, "/v1/completions", body).chunks() for _ in range(3)]
        texts = [text_of(next(stream)) for stream in streams]
        victim, other = cluster.pids_of("mixed")
        for pid in (victim, other):
            os.kill(pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        texts = [text + "".join(map(text_of, stream)) for text, stream in zip(texts, streams)]
        # Whether the run was on the worker that died is chance, and whether its budget of retries saved it: whoever got an answer, got the whole one.
        assert [text for text in texts if text == expected], texts
        assert all(expected.startswith(text) for text in texts)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_answers_outlive_the_process(tmp_path, signal_number):
    file = tmp_path / "answers.db"
    flags = (*ON, "--set", f"caching.store_file={file}")
    bodies = [{**ASKED, "prompt": f"Number {number} is"} for number in range(5)]
    with serve(*flags, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        texts = [ask(server.port, body).json()["choices"][0]["text"] for body in bodies]
        wait_until(lambda: counted(server.port, "sluice_gateway_cache_store_changes_total", outcome="written") == 5, "all are written")
        server.stop(signal_number)
    assert file.stat().st_mode & 0o077 == 0
    with serve(*flags, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        for body, text in zip(bodies, texts):
            answer = ask(server.port, body)
            assert answer.headers["x-cache"] == "HIT"
            assert answer.json()["choices"][0]["text"] == text
        # What is purged is gone for good.
        sluice("purge", "--url", server.url, "--all")
        server.stop()
    rows = sqlite3.connect(file).execute("SELECT count(*) FROM answers").fetchone()[0]
    assert rows == 0


def test_a_store_that_cannot_be_used_costs_misses_and_nothing_else(tmp_path):
    broken = pathlib.Path(tmp_path / "broken.db")
    broken.write_bytes(b"no database" * 1000)
    with serve(*ON, "--set", f"caching.store_file={broken}", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        ask(server.port)
        assert ask(server.port).headers["x-cache"] == "HIT"
        assert counted(server.port, "sluice_gateway_cache_store_up") == 0
        assert "answers are kept in memory only" in server.output()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_costs_what_is_new_after_a_restart_and_nothing_else(tmp_path, error):
    file, disk = tmp_path / "answers.db", FaultyDisk(tmp_path)
    flags = (*ON, "--set", f"caching.store_file={file}")
    bodies = [{**ASKED, "prompt": f"Number {number} is"} for number in range(6)]

    def changes(server, outcome):
        return counted(server.port, "sluice_gateway_cache_store_changes_total", outcome=outcome)

    def is_up(server):
        return counted(server.port, "sluice_gateway_cache_store_up") == 1

    with serve(*flags, environment=disk.environment, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        texts = [ask(server.port, body).json()["choices"][0]["text"] for body in bodies[:3]]
        wait_until(lambda: changes(server, "written") == 3, "three are written")
        disk.does(f"write {error}")
        texts += [ask(server.port, body).json()["choices"][0]["text"] for body in bodies[3:5]]
        wait_until(lambda: changes(server, "lost") == 2 and not is_up(server), "two are not, and it is told")
        for body, text in zip(bodies, texts):  # memory has them all
            answer = ask(server.port, body)
            assert (answer.headers["x-cache"], answer.json()["choices"][0]["text"]) == ("HIT", text)
        assert "removed 1 " in sluice("purge", "--url", server.url, "--entry", ask(server.port, bodies[0]).headers["x-cache-entry"]).stdout
        disk.does("fine")
        texts.append(ask(server.port, bodies[5]).json()["choices"][0]["text"])
        wait_until(lambda: is_up(server), "it takes changes again")
        server.stop(signal.SIGKILL)
    with contextlib.closing(sqlite3.connect(file)) as rows:
        assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with serve(*flags, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        for number, (body, text) in enumerate(zip(bodies, texts)):
            answer = ask(server.port, body)
            # What was purged while the disk was full is gone; what it could not take is computed again, and the same.
            assert (answer.headers["x-cache"], answer.json()["choices"][0]["text"]) == ("HIT" if number in (1, 2, 5) else "MISS", text), number


def test_a_similar_question_is_answered_where_that_is_on():
    with serve(*ON, "--set", "caching.semantic.similarity=true", "--set", "caching.semantic.lookup_timeout_ms=60000", "--set", "caching.semantic.shadow_share=1",
               prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()

        def chat(text):
            return ask(server.port, {**CHAT, "messages": [{"role": "user", "content": text}]}, "/v1/chat/completions")

        first = chat("How do I list hidden files in a folder?")
        assert first.headers["x-cache"] == "MISS"
        assert first.json()["choices"][0]["finish_reason"] == "stop"
        similar = chat("How can I list hidden files in a folder?")
        assert (similar.headers["x-cache"], similar.headers["x-cache-kind"]) == ("HIT", "semantic")
        assert similar.headers["x-cache-entry"].startswith("s-") and float(similar.headers["x-cache-similarity"]) > 0.5
        assert similar.json()["choices"] == first.json()["choices"]  # with the word that stopped it
        assert similar.json()["usage"]["completion_tokens"] == first.json()["usage"]["completion_tokens"]
        assert counted(server.port, "sluice_gateway_cache_saved_seconds_total") > 0
        assert chat("How do I delete hidden files in a folder?").headers["x-cache"] == "MISS"
        # Whoever scrapes hears of the categories, and nobody has to ask for them otherwise.
        wait_until(lambda: counted(server.port, "sluice_gateway_cache_category_open") > 0 < counted(server.port, "sluice_gateway_cache_category_seconds"), "categories are told of", 60)
        assert json.loads(sluice("stats", "--url", server.url, "--json").stdout)["similar"]["entries"] >= 1


def test_an_encoder_of_the_cluster_compares_questions():
    encoder = harness.ROOT / "tests" / "golden" / "data" / "bert_mean"
    with serve(*ON, "--encoder", f"small={encoder}", "--set", "caching.semantic.similarity=true", "--set", "caching.semantic.encoder=small",
               "--set", "caching.semantic.lookup_timeout_ms=60000", "--set", "caching.semantic.shadow_share=0", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()

        def chat(text):
            return ask(server.port, {**CHAT, "messages": [{"role": "user", "content": text}]}, "/v1/chat/completions")

        first = chat("How do I list hidden files in a folder?")
        assert first.headers["x-cache"] == "MISS"
        similar = chat("How can I list hidden files in a folder?")
        assert (similar.headers["x-cache"], similar.headers["x-cache-kind"]) == ("HIT", "semantic"), similar.headers
        assert similar.json()["choices"] == first.json()["choices"]
        assert chat("How can I list hidden files in a folder?").headers["x-cache"] == "HIT"
        assert counted(server.port, "sluice_gateway_cache_vectors_total", outcome="made") == 2
        assert counted(server.port, "sluice_gateway_cache_vectors_total", outcome="kept") == 1
        assert chat("How do I delete hidden files in a folder?").headers["x-cache"] == "MISS"


def test_an_encoder_that_is_not_served_is_told_at_start():
    ran = subprocess.run([BINARY, "serve", "--model", harness.MODEL, "--port", "0", *ON, "--set", "caching.semantic.similarity=true",
                          "--set", "caching.semantic.encoder=nobody"], capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0 and "caching.semantic.encoder names 'nobody'" in ran.stderr + ran.stdout
