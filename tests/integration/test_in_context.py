"""Two models behind one name, in real processes: which of them answers, with which examples, whose they are, and what is refused at the start."""
import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess

import pytest

import harness
from harness import BINARY, Stream, request, serve, wait_until

QUESTION = {"model": "auto", "temperature": 0, "max_tokens": 60, "stop": ["e"]}


def settings(**more):
    values = {"enabled": "true", "in_context.enabled": "true", "in_context.small": "small", "in_context.large": "large",
              "in_context.helpfulness_min": "0.05", "in_context.similarity_min": "0.1", "in_context.examples_each": "1",
              "in_context.prompt_bytes_max": "400", **more}
    return [word for name, value in values.items() for word in ("--set", f"caching.{name}={value}")]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The same weights in a folder of their own."""
    folder = tmp_path_factory.mktemp("models") / "large"
    shutil.copytree(harness.MODEL, folder)
    return folder


def both(large, *flags):
    return serve("--model", f"large={large}", *flags, model=f"small={harness.MODEL}", prefill=0, decode=0, mixed=1)


def ask(port, text, headers=None, **more):
    body = {**QUESTION, "messages": [{"role": "user", "content": text}], **more}
    answer = request(port, "POST", "/v1/chat/completions", body, headers or {})
    assert answer.status == 200, answer.body
    return answer


def counted(port, name, **labels):
    return sum(value for (one, row), value in harness.metrics(port).items()
               if one == f"sluice_gateway_in_context_{name}" and set(labels.items()) <= set(row))


def sluice(port, *words, key=None):
    ran = subprocess.run([BINARY, "cache", *words, "--url", f"http://127.0.0.1:{port}", *(["--api-key", key] if key else [])],
                         capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran
    return ran.stdout


def test_answers_of_the_large_model_become_examples_and_both_are_compared(large):
    with both(large, *settings(**{"in_context.compare_share": "1", "in_context.helpfulness_min": "1"})) as server:
        server.wait_ready()
        port = server.port
        first = ask(port, "Tell me about a bird")
        assert first.headers["x-routed-model"] == "large" and first.headers["x-routed-examples"] == "0"
        assert first.json()["model"] == "auto"
        wait_until(lambda: counted(port, "comparisons_total", outcome="judged") == 1, "the small model was asked, too", 60)
        wait_until(lambda: counted(port, "kept_total", outcome="kept") == 1, "the answer is an example", 60)
        listed = sluice(port, "examples", "--text")
        assert "Tell me about a bird" in listed and "1 of 1" in listed
        assert "1 examples" in sluice(port, "stats")
        # An equal request is answered from the cache, and no model says it was its own.
        again = ask(port, "Tell me about a bird")
        assert again.headers["x-cache"] == "HIT" and "x-routed-model" not in again.headers

        # The same weights under another name say the same, so the small one gets the requests.
        def are_judged():
            ended = sum(counted(port, "comparisons_total", outcome=outcome) for outcome in ("judged", "failed"))
            return ended >= counted(port, "comparisons_total", outcome="begun")

        def is_offloaded(count):
            answer = ask(port, f"Tell me about animal {count}")
            wait_until(are_judged, "what was begun is judged", 60)
            return answer.headers["x-routed-model"] == "small"

        assert any(is_offloaded(count) for count in range(60)), harness.metrics(port)
        wait_until(lambda: '"routed":"small"' in server.output(), "a line of the access log", 60)
        stream = Stream(port, "/v1/chat/completions", {**QUESTION, "messages": [{"role": "user", "content": "Tell me about a fish"}]})
        text = "".join(choice["delta"].get("content") or "" for chunk in stream.chunks() if isinstance(chunk, dict) for choice in chunk["choices"])
        stream.close()
        assert text == ask(port, "Tell me about a fish", {"Cache-Control": "no-cache"}, model="large").json()["choices"][0]["message"]["content"]
        assert "removed" in sluice(port, "purge", "--all")
        assert "0 of 0" in sluice(port, "examples")


def test_the_small_model_gets_examples_of_its_own_tenant_only(large, tmp_path):
    file = tmp_path / "keys.json"

    def key(*flags):
        return subprocess.run([BINARY, "keys", "add", "--file", file, *flags], capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    teacher = {"Authorization": "Bearer " + key("--tenant", "acme", "--models", "large")}
    pupil = {"Authorization": "Bearer " + key("--tenant", "acme")}
    stranger = {"Authorization": "Bearer " + key("--tenant", "other")}
    admin = key("--scopes", "admin")
    with both(large, *settings(**{"in_context.route": "small"}), "--set", f"gateway.keys_file={file}") as server:
        server.wait_ready()
        port = server.port
        # Who may use one model only gets that one.
        first = ask(port, "Tell me about a bird", teacher)
        assert (first.headers["x-routed-model"], first.headers["x-routed-reason"]) == ("large", "only")
        wait_until(lambda: "1 of 1" in sluice(port, "examples", key=admin), "the answer is an example", 60)
        shown = ask(port, "Tell me about a birds nest", pupil)
        assert (shown.headers["x-routed-model"], shown.headers["x-routed-examples"]) == ("small", "1")
        other = ask(port, "Tell me about a birds nest", stranger)
        assert (other.headers["x-routed-model"], other.headers["x-routed-examples"]) == ("small", "0")
        # What is in front of the question is what the example takes.
        assert shown.json()["usage"]["prompt_tokens"] > other.json()["usage"]["prompt_tokens"] + 50
        listed = json.loads(sluice(port, "examples", "--json", key=admin))
        assert [one["uses"] for one in listed["examples"]] == [1]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_examples_outlive_the_process_whole_and_go_when_they_are_purged(large, tmp_path, signal_number):
    file = tmp_path / "answers.db"
    flags = (*settings(store_file=file, **{"in_context.compare_share": "0", "in_context.compare_idle_share": "0", "in_context.compare_unsure_share": "0"}), "--set", "gateway.tenant_header=x-tenant")
    taught = [f"Tell me about animal {number}" for number in range(6)]

    def written():
        with contextlib.closing(sqlite3.connect(file)) as rows:
            return rows.execute("SELECT count(*) FROM examples").fetchone()[0]

    def listed(port):
        return json.loads(sluice(port, "examples", "--json", "--text"))["examples"]

    with both(large, *flags, *settings(**{"in_context.route": "large"})) as server:
        server.wait_ready()
        choices = [ask(server.port, text, {"x-tenant": "acme"}).json()["choices"][0] for text in taught]
        whole = sum(choice["finish_reason"] == "stop" for choice in choices)
        wait_until(lambda: counted(server.port, "kept_total") == whole, "every whole answer was looked at", 60)
        known = {one["question"]: one["answer"] for one in listed(server.port)}
        wait_until(lambda: written() == len(known), "all are written", 60)
        server.stop(signal_number)
    assert len(known) >= 3 and set(known) <= set(taught)
    with both(large, *flags, *settings(**{"in_context.route": "small"})) as server:
        server.wait_ready()
        assert {one["question"]: one["answer"] for one in listed(server.port)} == known
        shown = ask(server.port, "Tell me about animal 99", {"x-tenant": "acme"})
        assert (shown.headers["x-routed-model"], shown.headers["x-routed-examples"]) == ("small", "1")
        other = ask(server.port, "Tell me about animal 99", {"x-tenant": "other"})
        assert (other.headers["x-routed-model"], other.headers["x-routed-examples"]) == ("small", "0")
        sluice(server.port, "purge", "--entry", "x-1")
        wait_until(lambda: written() == len(known) - 1, "what is purged is gone from the disk", 60)
        server.stop(signal_number)
    # What was damaged since is not taken, and costs nothing else.
    with contextlib.closing(sqlite3.connect(file)) as rows, rows:
        rows.execute("UPDATE examples SET answer = substr(answer, 2) WHERE rowid = (SELECT min(rowid) FROM examples)")
    with both(large, *flags, *settings(**{"in_context.route": "large"})) as server:
        server.wait_ready()
        left = {one["question"]: one["answer"] for one in listed(server.port)}
        assert len(left) == len(known) - 2 and left.items() <= known.items()


def test_what_the_router_has_learnt_outlives_the_process(large, tmp_path):
    file = tmp_path / "answers.db"

    def life(share):
        shares = {f"in_context.{name}": share for name in ("compare_share", "compare_idle_share", "compare_unsure_share")}
        return both(large, *settings(store_file=file, **{"in_context.helpfulness_min": "1"}, **shares))

    def is_offloaded(port, name):
        return ask(port, f"Tell me about {name}").headers["x-routed-model"] == "small"

    with life("1") as server:
        server.wait_ready()
        # The same weights under another name say the same, so the small one gets the requests.
        wait_until(lambda: is_offloaded(server.port, f"animal {counted(server.port, 'comparisons_total')}"), "the small model gets requests", 180)
        server.stop()
    # Without comparisons nothing is learnt any more: what sends a request to the small model is what was known before.
    with life("0") as server:
        server.wait_ready()
        assert any(is_offloaded(server.port, f"fish {number}") for number in range(20)), server.output()
        server.stop()
    with contextlib.closing(sqlite3.connect(file)) as rows, rows:
        assert rows.execute("UPDATE example_learning SET bytes = substr(bytes, 1, length(bytes) - 1)").rowcount == 1
    with life("0") as server:
        server.wait_ready()
        assert not any(is_offloaded(server.port, f"cat {number}") for number in range(20))
        wait_until(lambda: "it begins anew" in server.output(), "it says so", 60)


@pytest.mark.parametrize(("more", "message"), [
    ({"enabled": "false"}, "caching.enabled: true"),
    ({"in_context.small": "tiny"}, "'tiny', which is not served here"),
    ({"in_context.large": "small"}, "they must be two models"),
    ({"in_context.name": "large"}, "a served model's own"),
])
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(large, more, message):
    ran = subprocess.run([BINARY, "serve", "--model", f"small={harness.MODEL}", "--model", f"large={large}", "--port", str(harness.free_port()), *settings(**more)],
                         capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert message in ran.stderr + ran.stdout
