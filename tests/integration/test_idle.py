"""A server that nobody asks for anything sleeps: its threads are woken by events, and by timers as long as what they guard."""
import pathlib
import time

import pytest

import harness

SECONDS = 6
# Of one thread and of all, in a second. Reports of two workers to the scheduler and to the gateway are most of it (20 and 80 where this was
# written); a timer that runs every 20 ms alone is 50. A busy machine makes it less.
THREAD_MAX, ALL_MAX = 35, 130


def wake_ups(pid):
    """How often each thread gave up its core to wait, by its id."""
    counts = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            counts[task.name] = int((task / "status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        except OSError:
            continue  # it has ended
    return counts


@pytest.mark.process
def test_an_idle_server_sleeps():
    with harness.serve() as server:
        server.wait_ready()
        answer = harness.post(server.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once", max_tokens=8)
        assert answer.status == 200
        harness.wait_until(lambda: harness.blocks_in_use(server.port) == 0, "nothing runs")
        before, began = wake_ups(server.pid), time.monotonic()
        harness.wait_until(lambda: time.monotonic() - began > SECONDS, "the count has lasted long enough")
        after, seconds = wake_ups(server.pid), time.monotonic() - began
        rates = {task: (count - before.get(task, 0)) / seconds for task, count in after.items()}
        names = {task: pathlib.Path(f"/proc/{server.pid}/task/{task}/comm").read_text().strip() for task in rates}
        table = "\n".join(f"{rate:8.1f}/s  {task} {names[task]}" for task, rate in sorted(rates.items(), key=lambda item: -item[1]))
        assert max(rates.values()) <= THREAD_MAX, table
        assert sum(rates.values()) <= ALL_MAX, table
        assert sum(rates.values()) > 0, table  # it lives, and is counted
