"""`sluice plan --gpu this`, and its placement file served here: by one process, and by a process for each role."""
import json
import re
import signal
import subprocess

import pytest

import harness

pytestmark = pytest.mark.process
FIT = "rate: 5\nburstiness: 1\nprompt_tokens: [10, 40, 120]\noutput_tokens: [8, 30, 60]\n"
POOL = """  - role: {role}
    count: {count}
    device: {device}
    threads: 1
    limits: {{batch_sequences_max: {sequences}, batch_tokens_max: {tokens}, kv_tokens: {kv_tokens}}}
"""


def sluice(*arguments):
    return subprocess.run([str(harness.BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=300)


def plan_file(folder, pools, extra=""):
    path = folder / "plan.yaml"
    shape = "{layers: 5, hidden: 64, heads_kv: 4, head_dim: 8, vocabulary: 512}"
    path.write_text(f"version: 1\nmodel: LlamaForCausalLM\nmodel_shape: {shape}\npools:\n" + "".join(pools) + extra)
    return path


def pool(role="mixed", count=1, device="this", sequences=8, tokens=64, kv_tokens=2048):
    return POOL.format(role=role, count=count, device=device, sequences=sequences, tokens=tokens, kv_tokens=kv_tokens)


def says_the_golden_text(port):
    case = harness.golden_cases()[2]
    answer = harness.post(port, "/v1/completions", model=harness.MODEL_ID, prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0)
    return answer.status == 200 and case["prompt"] + answer.json()["choices"][0]["text"] == case["output_text"]


def answers_a_chat(port):
    answer = harness.post(port, "/v1/chat/completions", model=harness.MODEL_ID, messages=[{"role": "user", "content": "Hi there"}], max_tokens=4, temperature=0)
    return answer.status == 200 and answer.json()["usage"]["completion_tokens"] > 0


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan for this machine, from steps that were measured on it."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "fit.yaml").write_text(FIT)
    measured = sluice("bench", "engine", "--model", harness.MODEL, "--prefill", "32,128", "--batch", "1,4", "--context", "64",
                      "--samples", "3", "--out", folder / "engine.json")
    assert measured.returncode == 0, measured.stderr
    made = sluice("plan", "--model", harness.MODEL, "--gpu", "this", "--engine-times", folder / "engine.json", "--this-kv-tokens", "4096",
                  "--workload", folder / "fit.yaml", "--slo", "ttft=20,tpot=10,attainment=0.9", "--gpus", "2", "--no-what-ifs",
                  "--out", folder / "plan.yaml")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "plan.yaml"


@pytest.fixture(scope="module")
def engine_times(planned):
    return planned.parent / "engine.json"


def workers_of(plan):
    """(role, count) of each pool of a file that `sluice plan` wrote."""
    return [(role, int(count)) for role, count in re.findall(r"role: (\w+)\n    count: (\d+)\n", plan.read_text())]


def test_what_plan_writes_for_this_machine_is_served_by_one_process(planned):
    port = harness.free_port()
    beside = planned.parent / "beside.yaml"  # sections that are no pool's stand beside a plan
    beside.write_text("log: {level: info}\nadmin: {keys_file: ''}\ntracing: {otlp_endpoint: ''}\n")
    command = [harness.BINARY, "serve", "--model", harness.MODEL, "--port", str(port), "--plan", planned, "--config", beside]
    with harness.Server(command, port) as server:
        server.wait_ready()
        assert says_the_golden_text(port)
        assert answers_a_chat(port)
        for role, count in workers_of(planned):
            assert len(re.findall(rf"^  {role}-\d+ ", server.output(), re.MULTILINE)) == count, server.output()
        assert server.stop(signal.SIGTERM) == 0


def test_what_plan_writes_for_this_machine_is_served_by_local_cluster(planned):
    port = harness.free_port()
    command = [harness.ROOT / "scripts" / "local-cluster", "--binary", harness.BINARY, "--model", harness.MODEL, "--port", str(port), "--plan", planned]
    with harness.Server(command, port) as cluster:
        harness.wait_until(lambda: not cluster.is_alive() or f"ready http://127.0.0.1:{port}" in cluster.output(), "the cluster is up", harness.START_SECONDS)
        assert cluster.is_alive(), cluster.output()
        assert says_the_golden_text(port)
        assert answers_a_chat(port)
        for role, count in workers_of(planned):
            assert len(re.findall(rf"^{role} \d+$", cluster.output(), re.MULTILINE)) == count
        assert cluster.stop(signal.SIGTERM) == 0


def test_a_simulation_plays_the_same_file(planned, tmp_path):
    played = sluice("simulate", "--plan", planned, "--trace", planned.parent / "fit.yaml", "--requests-max", "50", "--out", tmp_path / "out.json")
    assert played.returncode == 0, played.stderr
    assert json.loads((tmp_path / "out.json").read_text())["report"]["requests"] == 50


def test_a_simulation_is_warmed_up_as_a_cluster_is(planned, tmp_path):
    def played(*more: str) -> dict:
        ran = sluice("simulate", "--plan", planned, "--trace", planned.parent / "fit.yaml", "--requests-max", "50", "--records", "--out", tmp_path / "out.json", *more)
        assert ran.returncode == 0, ran.stderr
        return json.loads((tmp_path / "out.json").read_text())

    cold, warm = played(), played("--warmup", "4")
    assert warm["cluster"]["placements"] == cold["cluster"]["placements"] + 4
    assert warm["report"]["requests"] == cold["report"]["requests"] == 50
    asked = [[(one["due_s"], one["prompt_tokens"], one["output_tokens"]) for one in run["records"]] for run in (warm, cold)]
    assert [lengths for _, *lengths in asked[0]] == [lengths for _, *lengths in asked[1]]
    assert [due for due, *_ in asked[0]] == pytest.approx([due for due, *_ in asked[1]])
    assert all(0 < one["ttft_ms"] < 10_000 for one in warm["records"])


LEVELS = "    kv_levels: {{bytes_per_token: {bytes_per_token}, host: {{bytes: 8388608, bytes_per_s: 1.0e+9}}}}\n"


def test_levels_below_the_pools_are_simulated_and_served(planned, tmp_path):
    """Two turns of some conversations over a pool that has room for none of them, with and without host memory."""
    times = re.search(r"    times:\n(?:      .*\n)+", planned.read_text()).group(0)
    rows = []
    for turn in range(2):
        for conversation in range(12):
            blocks = [100 * conversation + block for block in range(40 + 4 * turn)]
            rows.append({"timestamp": 4000 * (12 * turn + conversation), "input_length": 16 * len(blocks), "output_length": 4, "hash_ids": blocks, "block_tokens": 16})
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def played(extra):
        plan = plan_file(tmp_path, [pool(kv_tokens=1024) + extra + times])
        ran = sluice("simulate", "--plan", plan, "--trace", trace, "--out", tmp_path / "out.json", "--records")
        assert ran.returncode == 0, ran.stderr
        return json.loads((tmp_path / "out.json").read_text())

    without = played("")
    assert "kv_levels" not in without
    with_host = played(LEVELS.format(bytes_per_token=320))
    found = with_host["kv_levels"]["levels"]["host"]["tokens_loaded"] + with_host["kv_levels"]["pool_hit_tokens"]
    assert with_host["kv_levels"]["levels"]["host"]["tokens_saved"] >= 12 * 640
    assert found + with_host["kv_levels"]["tokens_computed_though_there"] >= 12 * 640

    plan = plan_file(tmp_path, [pool(kv_tokens=1024) + LEVELS.format(bytes_per_token=1)])
    ran = sluice("plan", "pools", plan, "--model", harness.MODEL)
    assert ran.returncode == 0, ran.stderr
    assert "--set engine.kv_host_bytes=8388608" in ran.stdout
    assert "counts 1 bytes a token in levels below the KV pool" in ran.stderr  # that is another model's
    ran = sluice("plan", "pools", plan, "--model", harness.MODEL, "--set", "engine.kv_host_bytes=4096")
    assert "engine.kv_host_bytes 4096, the plan has 8388608" in ran.stderr


def test_pools_limits_and_classes_are_those_of_the_file(tmp_path):
    plan = plan_file(tmp_path, [pool("prefill", 1, tokens=128), pool("decode", 2, kv_tokens=1024) + LEVELS.format(bytes_per_token=640)],
                     "slo_classes:\n  default: {ttft_ms: 5000, tpot_ms: 900}\n  batch: {ttft_ms: 60000, priority: -1}\n")
    port = harness.free_port()
    with harness.Server([harness.BINARY, "serve", "--model", harness.MODEL, "--port", str(port), "--plan", plan], port) as server:
        server.wait_ready()
        banner = server.output()
        lines = {name: line for name, line in re.findall(r"^  ((?:prefill|decode)-\d+) (.*)$", banner, re.MULTILINE)}
        assert sorted(lines) == ["decode-0", "decode-1", "prefill-0"], banner
        assert re.search(r"\b2048 tokens|\b128 blocks", lines["prefill-0"]), lines
        assert re.search(r"\b1024 tokens|\b64 blocks", lines["decode-1"]), lines
        assert re.search(r"below it host \d MiB", lines["decode-1"]) and "below it" not in lines["prefill-0"], lines
        assert says_the_golden_text(port)
        for slo_class, status in (("batch", 200), ("default", 200), ("nobody", 400)):
            answer = harness.request(port, "POST", "/v1/completions", {"model": harness.MODEL_ID, "prompt": "Once", "max_tokens": 2},
                                     {"x-slo-class": slo_class})
            assert answer.status == status, answer.body


def test_a_setting_counts_over_the_plan_and_is_told(tmp_path):
    plan = plan_file(tmp_path, [pool()])
    ran = sluice("plan", "pools", plan, "--model", harness.MODEL, "--set", "worker.batch_tokens_max=32")
    assert ran.returncode == 0, ran.stderr
    assert "the settings make worker.batch_tokens_max 32, the plan has 64" in ran.stderr
    common, worker = ran.stdout.splitlines()
    assert common == "common"
    assert worker.startswith("mixed 1 --set worker.batch_sequences_max=8 --set worker.batch_tokens_max=64 --set engine.kv_pool_bytes=")


@pytest.mark.parametrize("pools, extra, says", [
    ([pool(device="h200")], "", r"needs 1 GPUs \(1 h200\)"),
    ([pool().replace("threads: 1", "tensor: 2")], "", "--whole-workers"),
    ([pool("prefill")], "", "a pool of role mixed"),
    ([pool(count=2, kv_tokens=1e12)], "", "does not fit into memory"),
    ([pool().replace("role", "roll")], "", "\"roll\" is not known"),
    ([pool()], "nonsense: 1\n", "\"nonsense\" is not known"),
    ([pool(tokens=100_000)], "", "worker.batch_tokens_max"),
])
def test_what_cannot_be_here_is_refused_by_both(tmp_path, pools, extra, says):
    plan = plan_file(tmp_path, pools, extra)
    served = sluice("serve", "--model", harness.MODEL, "--port", harness.free_port(), "--plan", plan)
    assert served.returncode > 0 and re.search(says, served.stderr), served.stderr
    cluster = subprocess.run([harness.ROOT / "scripts" / "local-cluster", "--binary", harness.BINARY, "--model", harness.MODEL,
                              "--port", str(harness.free_port()), "--plan", plan], capture_output=True, text=True, timeout=60)
    assert cluster.returncode > 0 and re.search(says, cluster.stderr), cluster.stderr
    assert cluster.stdout == ""


def test_a_plan_for_another_model_or_version_is_refused(tmp_path):
    plan = plan_file(tmp_path, [pool()])
    good = plan.read_text()
    for old, new, says in (("layers: 5", "layers: 6", "another LlamaForCausalLM"), ("model: Llama", "model: Qwen2", "is for a Qwen2ForCausalLM"),
                           ("version: 1", "version: 2", "version 2 is not known here")):
        plan.write_text(good.replace(old, new, 1))
        ran = sluice("plan", "pools", plan, "--model", harness.MODEL)
        assert ran.returncode > 0 and says in ran.stderr, ran.stderr
    ran = sluice("serve", "--model", harness.MODEL, "--plan", plan, "--mixed", "1")
    assert ran.returncode > 0 and "--plan excludes --mixed" in ran.stderr or "--mixed" in ran.stderr


def test_what_plan_would_do_to_a_running_cluster_is_told_and_not_done(planned, engine_times, tmp_path):
    def plan_live(port, *flags):
        return sluice("plan", "--live", f"http://127.0.0.1:{port}", "--model", harness.MODEL, "--gpu", "this", "--engine-times", engine_times,
                      "--this-kv-tokens", "4096", "--slo", "ttft=20,tpot=10,attainment=0.9", *flags)

    def pools(port):
        state = sluice("top", "--url", f"http://127.0.0.1:{port}", "--once", "--interval", "0.2", "--json")
        return {row["role"]: row["ready"] + row["suspect"] for row in json.loads(state.stdout)["pools"]}

    with harness.serve(prefill=1, decode=1) as server:
        server.wait_ready()
        harness.wait_until(lambda: pools(server.port) == {"prefill": 1, "decode": 1}, "metrics tell of both workers")
        idle = plan_live(server.port, "--live-window", "0.2")
        assert idle.returncode != 0 and "nothing was answered" in idle.stderr and "--workload" in idle.stderr, idle.stderr
        # What metrics do not tell an idle cluster's planner, a file does.
        told = plan_live(server.port, "--live-window", "0.2", "--workload", planned.parent / "fit.yaml", "--json", tmp_path / "live.json")
        assert told.returncode == 0, told.stderr
        assert "1 prefill, 1 decode (now)" in told.stdout and "nothing was changed" in told.stdout, told.stdout
        seen = json.loads((tmp_path / "live.json").read_text())
        assert seen["present"] == {"prefill": 1, "decode": 1, "mixed": 0}
        assert {(row["layout"]["prefill"], row["layout"]["mixed"]) for row in seen["layouts"]} == {(1, 0), (0, 2)}
        assert all(row["goodput_per_s"] > 0 for row in seen["layouts"]) and seen["flips"] == [] and "room enough" in seen["why"]

        watching = subprocess.Popen([str(harness.BINARY), "plan", "--live", f"http://127.0.0.1:{server.port}", "--live-window", "3", "--model", str(harness.MODEL), "--gpu", "this",
                                     "--engine-times", str(engine_times), "--this-kv-tokens", "4096", "--slo", "ttft=20,tpot=10", "--json", str(tmp_path / "busy.json")],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while watching.poll() is None:
            answer = harness.post(server.port, "/v1/completions", model=harness.MODEL_ID, prompt="Once upon a time", max_tokens=6, temperature=0, ignore_eos=True)
            assert answer.status == 200
        output, errors = watching.communicate(timeout=60)
        assert watching.returncode == 0, output + errors
        seen = json.loads((tmp_path / "busy.json").read_text())
        answered = seen["answered_per_s"] * seen["seconds"]
        assert answered >= 1
        # Either look may fall between the end of an answer and its row, so one of them counts in one figure alone.
        assert seen["output_tokens_mean"] == pytest.approx(6, rel=0.01 + 2 / answered)
        assert "as the gateway's histograms have them" in seen["lengths"]
        # Nothing was done: the same workers, in the same roles.
        assert pools(server.port) == {"prefill": 1, "decode": 1}
        refused = plan_live(server.port, "--out", tmp_path / "p.yaml")
        assert refused.returncode == 2 and "--out" in refused.stderr
        assert server.stop(signal.SIGTERM) == 0
    gone = plan_live(server.port, "--live-window", "0.2")
    assert gone.returncode != 0 and "--live http://127.0.0.1" in gone.stderr
