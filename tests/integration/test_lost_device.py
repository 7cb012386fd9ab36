"""A worker whose GPU is lost cannot mend itself: its process ends with an error, for a supervisor to start another."""
import re

import pytest

import harness
from harness import LocalCluster, post, wait_until

pytestmark = pytest.mark.process
LOST_AFTER_STEPS = 60
LOST_AFTER = f"test.device_lost_after_steps={LOST_AFTER_STEPS}"
CASE = harness.golden_cases()[1]


def test_a_worker_process_ends_and_its_request_goes_on_elsewhere():
    count = len(CASE["output_ids"])
    # A few steps more than one decode worker lives to see: the other one must outlive the request even if it has to compute again
    # what the first one did not get out any more.
    assert LOST_AFTER_STEPS + 1 < count < LOST_AFTER_STEPS + 10
    with LocalCluster(prefill=1, decode=2, settings=[LOST_AFTER]) as cluster:
        cluster.wait_ready()
        answer = post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=CASE["prompt"], max_tokens=count, temperature=0)
        assert answer.status == 200, cluster.logs()
        assert CASE["prompt"] + answer.json()["choices"][0]["text"] == CASE["output_text"]
        ended = wait_until(lambda: re.search(r"decode (\d+) has ended \(status 1\)", cluster.output()), "a decode worker ends with an error")
        assert f"decode-{ended[1]} has lost its device; this process ends and has to be started again" in cluster.logs()
        assert len([pid for pid in cluster.pids_of("decode") if harness.pid_exists(pid)]) == 1, cluster.output() + cluster.logs()


@pytest.mark.parametrize("roles", [{"prefill": 1, "decode": 1}, {"prefill": 0, "decode": 0, "mixed": 1}], ids=["prefill and decode", "mixed"])
def test_serve_ends_when_a_worker_of_it_is_lost(roles):
    with harness.serve("--set", LOST_AFTER, **roles) as server:
        server.wait_ready()
        answer = post(server.port, "/v1/completions", model=harness.MODEL_ID, prompt=CASE["prompt"], max_tokens=400, temperature=0, ignore_eos=True)
        assert answer.status == 503, answer.body  # it may be repeated: there is nobody else here
        assert int(answer.headers["retry-after"]) > 0
        assert server.wait(30) == 1, server.output()
        assert "has lost its device; this process ends and has to be started again" in server.output()
