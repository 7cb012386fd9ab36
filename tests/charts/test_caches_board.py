"""The board of caches, and the levels of KV on that of KV: with the caches on, which are off by default, so that test_live.py sees nothing of them."""
import pytest

import harness
from harness import wait_until
from monitoring import boards
from test_live import Prometheus, asked, says_something
from test_metrics import Exposition, label_breaches

pytestmark = pytest.mark.process
POOL_BYTES = 800_000  # of the demo model: a context of 512 tokens and little else, so that prefixes go to the levels below and come back
# Of two models behind one name, of similar questions, and of what makes room or is removed: test_quiet_lines.py.
NOT_HERE = ("in_context", "wrong_bound", "category_open", "evicted", "purged", "similarity", 'kind="semantic"')


def is_told_there(board, line):
    """Whether the test below waits until it says something."""
    return board.uid in ("sluice-caches", "sluice-kv") and any(word in line.expr for word in ("cache", "tier", "prefix")) and not any(word in line.expr for word in NOT_HERE)


def test_every_line_about_caches_says_something_where_they_are_on(tmp_path):
    flags = ["caching.enabled=true", "caching.allow_cut=true", f"caching.store_file={tmp_path / 'answers.sqlite'}", f"engine.kv_pool_bytes={POOL_BYTES}", "engine.kv_host_bytes=8000000",
             f"engine.kv_disk.path={tmp_path / 'kv'}", "engine.kv_disk.bytes=8000000"]
    (tmp_path / "prometheus").mkdir()
    with harness.serve(*(word for flag in flags for word in ("--set", flag)), prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        with Prometheus(tmp_path / "prometheus", [f"127.0.0.1:{server.port}"]) as prometheus:
            wait_until(prometheus.is_up, f"Prometheus is up: {prometheus.output()}", 60)
            lines = {line.expr: panel.title for board in boards.boards() for panel in board.panels for line in panel.lines if is_told_there(board, line)}
            assert len(lines) > 15
            rounds = 0

            def silent():
                nonlocal rounds
                rounds += 1
                for index in range(6):  # the same in every round, with an end of its own: prefixes that went to a level come back from it
                    prompt = f"Number {index}. " + "Once upon a time there was a little girl who had a big red ball. " * 12
                    for more in (f"Round {rounds}.", f"Round {rounds}.", f"Round {rounds} again."):  # the second is an answer from the cache
                        answer = harness.post(server.port, "/v1/completions", prompt=prompt + more, max_tokens=4, temperature=0)
                        assert answer.status == 200, answer.body
                assert harness.post(server.port, "/v1/completions", prompt="One", max_tokens=4, n=2).status == 200  # passes the cache by
                return {expr: title for expr, title in lines.items() if not says_something(prometheus.query(asked(expr)))}

            left = {}

            def is_all_told():
                left.clear()
                left.update(silent())
                return not left

            try:
                wait_until(is_all_told, "every line says something", 120)
            except AssertionError as error:
                raise AssertionError(f"{error}: {left}") from None
            assert label_breaches("serve", Exposition(server.port)) == []
