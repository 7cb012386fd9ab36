"""Workers that become others of another role while they run: asked by hand, and by the autopilot. Nobody who waits for an answer notices."""
import itertools
import json
import os
import re
import subprocess
import threading

import pytest

import harness
from harness import LocalCluster, wait_until
from test_drain import OpenStreams, scheduler_of, worker_id_of

pytestmark = pytest.mark.process
# Seconds that this machine does not take: a prompt of 150 tokens takes three quarters of one, and a worker that decodes for four is at its target, so what is best does not hang on how busy
# the machine is. Who computes prompts beside others' tokens holds those back for longer than their target.
TIMES = {"engine": "made up", "threads": 1, "prefill": [{"tokens": 100, "median_s": 0.51}, {"tokens": 1000, "median_s": 5.01}],
         "decode": [{"batch": batch, "context_tokens": 100, "median_s": 0.02 + 0.01 * batch, "bytes_per_s": 1e12} for batch in (1, 8)]}
PROMPTS = "Once upon a time there was a little girl who had a big red ball. " * 8, 4
ANSWERS = "Once", 60


def sluice(cluster, *words, key=None):
    return subprocess.run([harness.BINARY, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SLUICE_CLUSTER_KEY": key or cluster.key})


def turn(cluster, worker_id, role, key=None):
    return sluice(cluster, "turn", worker_id, "--to", role, "--scheduler", scheduler_of(cluster), key=key)


def scheduler_admin(cluster):
    return cluster.admin_port(cluster.pids_of("scheduler")[0])


def ready(cluster):
    """Workers that take requests, by role, as the scheduler knows them."""
    found = {}
    for (name, labels), value in harness.metrics(scheduler_admin(cluster)).items():
        row = dict(labels)
        if name == "sluice_scheduler_workers" and row["state"] in ("ready", "suspect") and value > 0:
            found[row["role"]] = found.get(row["role"], 0) + int(value)
    return found


def test_a_worker_turns_while_streams_run_and_no_text_changes(slow_model):
    with LocalCluster(prefill=1, decode=2, model=slow_model, settings=["worker.may_turn=true"]) as cluster:
        cluster.wait_ready()
        wait_until(lambda: ready(cluster) == {"prefill": 1, "decode": 2}, "all workers have registered")
        expected = OpenStreams(cluster).texts()
        turning = cluster.pids_of("decode")[0]
        worker = worker_id_of(cluster, turning)

        def roles_told():
            """By which an autoscaler reads what it does."""
            return {dict(labels)["role"] for name, labels in harness.metrics(cluster.admin_port(turning)) if name.startswith("sluice_worker_requests_")}
        assert roles_told() == {"decode"}
        loaded = cluster.logs().count("loading 100 %")
        assert loaded >= 3
        for role, roles in (("prefill", {"prefill": 2, "decode": 1}), ("mixed", {"prefill": 1, "decode": 1, "mixed": 1}), ("decode", {"prefill": 1, "decode": 2})):
            streams = OpenStreams(cluster)
            streams.read(5)  # more than the first token: each is with a worker that decodes
            asked = turn(cluster, worker, role)
            assert asked.returncode == 0, asked.stderr
            assert re.match(rf"worker {worker}, \w+, (gets nothing new|is of role {role})", asked.stdout), asked.stdout
            assert streams.texts() == expected
            wait_until(lambda roles=roles: ready(cluster) == roles, f"the scheduler knows it as {role}", 120)
            wait_until(lambda role=role: roles_told() == {role}, f"its own metrics say {role}, and nothing else", 120)
            assert OpenStreams(cluster).texts() == expected
            again = turn(cluster, worker, role)
            assert again.returncode == 0 and f"is of role {role}" in again.stdout
        assert cluster.logs().count("turns from") == 3
        assert cluster.logs().count("loading 100 %") == loaded  # no weights
        unknown = turn(cluster, "00000000000000ff", "decode")
        assert unknown.returncode == 1 and "there is no worker" in unknown.stderr
        stranger = turn(cluster, worker, "decode", key="0" * 32)
        assert stranger.returncode == 1 and "another cluster key" in stranger.stderr, stranger.stderr


def test_a_worker_that_may_not_turn_says_so():
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        refused = turn(cluster, worker_id_of(cluster, cluster.pids_of("decode")[0]), "prefill")
        assert refused.returncode == 1 and "worker.may_turn" in refused.stderr, refused.stderr
        wait_until(lambda: ready(cluster) == {"prefill": 1, "decode": 1}, "both are what they were")


class Load:
    """Requests of one kind, two at a time, until it is told to be others; all have to be answered, and alike."""

    def __init__(self, port, kind):
        self.port, self.kind, self.answers, self.ended, self.salts = port, kind, [], threading.Event(), itertools.count()
        self.threads = [threading.Thread(target=self.run) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.ended.is_set():
            kind = self.kind
            prompt, tokens = kind
            # Nobody finds another one's KV: prompts are as long as they look.
            answer = harness.post(self.port, "/v1/completions", model=harness.MODEL_ID, prompt=prompt, max_tokens=tokens, temperature=0, ignore_eos=True, cache_salt=str(next(self.salts)))
            self.answers.append((kind, answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.body))

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def autopilot(cluster, folder, *flags):
    (folder / "engine.json").write_text(json.dumps(TIMES))
    return harness.Process([harness.BINARY, "autopilot", "--live", f"http://127.0.0.1:{cluster.port},http://127.0.0.1:{scheduler_admin(cluster)}", "--scheduler", scheduler_of(cluster),
                            "--model", harness.MODEL, "--gpu", "this", "--engine-times", folder / "engine.json", "--this-kv-tokens", "4096", "--slo", "ttft=4,tpot=60ms,attainment=0.9",
                            "--live-window", "1", "--hold", "0", "--seeds", "1", *flags], {"SLUICE_CLUSTER_KEY": cluster.key})


def test_the_autopilot_follows_a_workload_that_shifts_and_comes_back(tmp_path):
    with LocalCluster(prefill=2, decode=2, settings=["worker.may_turn=true"]) as cluster:
        cluster.wait_ready()
        wait_until(lambda: ready(cluster) == {"prefill": 2, "decode": 2}, "all workers have registered")
        load = Load(cluster.port, PROMPTS)
        admin = harness.free_port()
        try:
            # Without --act it says what it would do.
            with autopilot(cluster, tmp_path, "--looks", "4") as told:
                assert told.wait(300) == 0
                assert "would turn workers to 3 prefill, 1 decode" in told.output(), told.output()
            assert ready(cluster) == {"prefill": 2, "decode": 2}
            with autopilot(cluster, tmp_path, "--act", "--admin-port", str(admin)) as pilot:
                try:
                    for kind, is_there in ((PROMPTS, lambda roles: roles == {"prefill": 3, "decode": 1}), (ANSWERS, lambda roles: roles.get("prefill", 0) < 3 and sum(roles.values()) == 4),
                                           (PROMPTS, lambda roles: roles == {"prefill": 3, "decode": 1})):
                        load.kind = kind
                        arrived = pilot.output().count("all workers have their roles")
                        wait_until(lambda: pilot.output().count("all workers have their roles") > arrived or not pilot.is_alive(), "the autopilot has turned workers", 300)
                        assert pilot.is_alive(), pilot.output()
                        wait_until(lambda is_there=is_there: is_there(ready(cluster)), "roles are those of the workload", 120)
                    rows = {(name, *sorted(dict(labels).values())): value for (name, labels), value in harness.metrics(admin).items() if name.startswith("sluice_autopilot")}
                    assert rows["sluice_autopilot_turns_total", "done", "prefill", harness.MODEL_ID] >= 2
                    assert rows["sluice_autopilot_plans_total", harness.MODEL_ID] >= 3
                    assert rows["sluice_autopilot_workers_wanted", "prefill", harness.MODEL_ID] >= 1
                    assert pilot.stop() == 0
                finally:
                    print(pilot.output())  # shown when the test fails
        finally:
            load.stop()
            print(cluster.output(), cluster.logs(), sep="\n")
        assert {kind for kind, _, _ in load.answers} == {PROMPTS, ANSWERS}
        assert [answer for answer in load.answers if answer[1] != 200] == []
        for wanted in (PROMPTS, ANSWERS):
            assert len({text for kind, _, text in load.answers if kind == wanted}) == 1


def test_an_autopilot_that_sees_nothing_changes_nothing(tmp_path):
    with LocalCluster(prefill=1, decode=1, settings=["worker.may_turn=true"]) as cluster:
        cluster.wait_ready()
        with autopilot(cluster, tmp_path, "--act", "--looks", "2") as pilot:
            assert pilot.wait(120) == 0, pilot.output()
            assert "nothing was answered, roles stay: 1 prefill, 1 decode" in pilot.output()
        assert ready(cluster) == {"prefill": 1, "decode": 1}  # the autopilot has seen them there


def test_the_autopilot_notices_rate_lengths_and_what_is_found_again(tmp_path):
    """Each of the three that a plan goes by, changed on its own, is a reason to plan anew."""
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        asked, pause, fresh, tokens = [0], [0.2], [False], [8]
        ended = threading.Event()

        def run():
            while not ended.is_set():
                asked[0] += 1
                words = f"{asked[0]:06d} " if fresh[0] else ""
                answer = harness.post(cluster.port, "/v1/completions", model=harness.MODEL_ID, prompt=words + PROMPTS[0], max_tokens=tokens[0], temperature=0, ignore_eos=True)
                assert answer.status == 200, answer.body
                ended.wait(pause[0])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with autopilot(cluster, tmp_path) as pilot:
                try:
                    wait_until(lambda: "nothing was planned yet" in pilot.output() or not pilot.is_alive(), "a first plan", 120)
                    for change, reason in ((lambda: fresh.__setitem__(0, True), r"\d+ % of the prompts' tokens found, not [1-9]"), (lambda: tokens.__setitem__(0, 40), r"answers of \d+ tokens, not"),
                                           (lambda: pause.__setitem__(0, 2.0), r"requests a second, not")):
                        before = len(pilot.output())
                        change()
                        wait_until(lambda: re.search(reason, pilot.output()[before:]) or not pilot.is_alive(), f"a plan because of: {reason}", 240)
                        assert pilot.is_alive(), pilot.output()
                    assert pilot.stop() == 0
                finally:
                    print(pilot.output())
        finally:
            ended.set()
            thread.join()
