"""Lines of boards that are still while all is well and what they tell of is off (`quiet`): each says something where it has something to tell. With test_live.py (the others) and
test_caches_board.py (caches that are on) that is every line of every board."""
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess

import pytest

import harness
import test_caches_board
from harness import LocalCluster, wait_until
from monitoring import boards
from test_live import Prometheus, asked, says_something
from test_metrics import Exposition, label_breaches

pytestmark = pytest.mark.process
PATIENCE_S = 240
CONTEXT_TOKENS = 4096
QUIET = {line.expr: f"{board.uid}: {panel.title}" for board in boards.boards() for panel in board.panels for line in panel.lines
         if line.quiet and not test_caches_board.is_told_there(board, line)}
OF_ANSWERS = {expr for expr, title in QUIET.items() if title.startswith("sluice-caches: ")}  # kept answers, and examples for a small model
OF_TROUBLE = set(QUIET) - OF_ANSWERS


def wait_told(prometheus, lines, load):
    """`load(round)` goes on until every line says something."""
    left, rounds = set(lines), 0

    def are_told():
        nonlocal rounds
        rounds += 1
        load(rounds)
        left.difference_update([expr for expr in left if says_something(prometheus.query(asked(expr)))])
        return not left

    try:
        wait_until(are_told, "every line says something", PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"{error}: {[(QUIET[expr], asked(expr)) for expr in left]}") from None


def test_answers_by_similarity_and_by_the_smaller_of_two_models(tmp_path):
    """Questions that differ in a word, more answers than there is room for, and a purge."""
    shutil.copytree(harness.MODEL, tmp_path / "large")
    flags = ["enabled=true", "entries_max=8", "semantic.similarity=true", "semantic.lookup_timeout_ms=60000", "in_context.enabled=true", "in_context.small=small", "in_context.large=large"]
    (tmp_path / "prometheus").mkdir()
    with harness.serve("--model", f"large={tmp_path / 'large'}", *(word for flag in flags for word in ("--set", f"caching.{flag}")), model=f"small={harness.MODEL}", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        with Prometheus(tmp_path / "prometheus", [f"127.0.0.1:{server.port}"]) as prometheus:
            wait_until(prometheus.is_up, f"Prometheus is up: {prometheus.output()}", 60)

            def ask(model, question):
                answer = harness.post(server.port, "/v1/chat/completions", model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=200, stop=["a"])
                assert answer.status == 200, answer.body

            def load(index):
                for verb in ("list", "delete", "copy", "move"):
                    for words in ("How do I", "How can I"):  # the second is answered by similarity
                        ask("small", f"{words} {verb} the {index} hidden files in a folder?")
                ask("auto", f"Tell me about animal {index}")
                purged = subprocess.run([harness.BINARY, "cache", "purge", "--near", "How do I list the hidden files in a folder?", "--url", server.url], capture_output=True, text=True, timeout=60)
                assert purged.returncode == 0, purged.stderr

            assert len(OF_ANSWERS) >= 10
            wait_told(prometheus, OF_ANSWERS, load)
            assert label_breaches("serve", Exposition(server.port)) == []


def test_refusals_streams_that_are_cut_and_workers_that_are_lost(tmp_path):
    """Prompts of tenants that come again with the answers, long ones beside each other, targets that nobody can keep, clients that leave; then both decode workers are killed."""
    model = harness.make_slow_model(tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT_TOKENS}))  # so that streams go on for as long as workers are killed
    settings = ["gateway.tenant_header=x-tenant", "scheduler.fetch_tokens_min=16", "scheduler.heartbeat_ms=20", "gateway.placements_max=2", "gateway.replace_wait_max_ms=60000",
                "scheduler.suspect_ms=60000", "scheduler.lease_ms=60000"]
    (tmp_path / "prometheus").mkdir()
    with LocalCluster(1, 2, model=model, settings=settings) as cluster:
        cluster.wait_ready()
        targets = [f"127.0.0.1:{cluster.port}"] + [f"127.0.0.1:{cluster.admin_port(pid)}" for role, pid in cluster.pids() if role != "gateway"]
        source = random.Random(20261130)
        with Prometheus(tmp_path / "prometheus", targets) as prometheus:
            wait_until(prometheus.is_up, f"Prometheus is up: {prometheus.output()}", 60)

            def complete(prompt, **more):
                body = {"model": "slow", "prompt": prompt, "max_tokens": 40, "ignore_eos": True, "return_token_ids": True, **more}
                return harness.request(cluster.port, "POST", "/v1/completions", body, {"x-tenant": "somebody"}, seconds=120)

            def stream():
                opened = harness.Stream(cluster.port, "/v1/completions", {"model": "slow", "prompt": "There was", "max_tokens": CONTEXT_TOKENS - 100, "ignore_eos": True}, seconds=300)
                assert opened.status == 200
                next(opened.chunks())
                return opened

            def converse(prompt):
                for _ in range(3):
                    answer = complete(prompt)
                    assert answer.status == 200, answer.body
                    prompt = prompt + answer.json()["choices"][0]["token_ids"] + [5, 6, 7]

            def load(_):
                prompts = [[source.randrange(3, 30000) for _ in range(100)] for _ in range(4)]
                with concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads:
                    list(threads.map(converse, prompts))
                prompt = prompts[0]
                assert complete(prompt, max_tokens="many").status == 400
                complete(prompt, slo={"ttft_ms": 1, "tpot_ms": 1})  # refused when it is known what steps cost
                stream().close()

            of_workers = {expr for expr in OF_TROUBLE if "retries" in expr}
            assert len(OF_TROUBLE - of_workers) >= 10 and len(of_workers) == 2
            wait_told(prometheus, OF_TROUBLE - of_workers, load)

            def counted(name):
                return sum(value for (found, _), value in harness.metrics(cluster.port).items() if found == name)

            def running(pid):
                return sum(value for (found, _), value in harness.metrics(cluster.admin_port(pid)).items() if found == "sluice_worker_requests_running")

            streams = [stream() for _ in range(8)]
            # The one that has more of them: who has the blocks of these equal prompts may have all.
            decodes = cluster.pids_of("decode")
            wait_until(lambda: sum(map(running, decodes)) >= len(streams), "all streams decode", PATIENCE_S)
            second, first = sorted(decodes, key=running)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: counted("sluice_gateway_retries_total") > 0, "streams of the first are placed again", PATIENCE_S)
            os.kill(second, signal.SIGKILL)
            wait_until(lambda: counted("sluice_gateway_retries_exhausted_total") > 0, "those are not placed a third time", PATIENCE_S)
            for opened in streams:
                opened.close()
            wait_told(prometheus, of_workers, lambda _: None)
            assert label_breaches("gateway", Exposition(cluster.port)) == []
