"""Subcommands that need no server."""
import json
import os
import re
import shutil
import subprocess

import pytest

import harness


def sluice(*arguments, stdin=""):
    return subprocess.run([str(harness.BINARY), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60)


def test_help_names_every_subcommand():
    ran = sluice("--help")
    assert ran.returncode == 0
    for command in ("serve", "gateway", "scheduler", "prefill", "decode", "run", "bench", "tokenize", "render", "model", "config", "doctor"):
        assert re.search(rf"^\s+{command}\b", ran.stdout, re.MULTILINE), command


def subcommands(*above):
    """Words of every command that there is, at every depth."""
    shown = sluice(*above, "--help")
    assert shown.returncode == 0, (above, shown.stderr)
    yield above, shown.stdout
    listed = re.search(r"^Subcommands:\n((?:  .*\n?)*)", shown.stdout, re.MULTILINE)
    for name in re.findall(r"^  (\w[\w-]*)", listed[1], re.MULTILINE) if listed else []:
        yield from subcommands(*above, name)


def flags_of(help_text):
    return set(re.findall(r"^  (?:-\w, *)?(--[a-z0-9][a-z0-9-]*)", help_text, re.MULTILINE))


def test_every_command_and_flag_is_explained_by_help_and_by_the_manual_page_and_is_completed():
    page = sluice("man")
    assert page.returncode == 0
    if shutil.which("groff"):
        rendered = subprocess.run(["groff", "-man", "-Tascii", "-wmac", "-wsyntax", "-wescape", "-wfont"], input=page.stdout, capture_output=True, text=True, timeout=60)
        assert rendered.returncode == 0 and rendered.stderr == "", rendered.stderr
        assert "sluice model pull" in re.sub(".\b", "", rendered.stdout)  # bold is struck twice
    sections = dict(re.findall(r'^\.SS "(.*)"\n((?:(?!\.S[SH] ).*\n)*)', page.stdout, re.MULTILINE))
    script = sluice("completion", "bash").stdout
    of_fish = re.findall(r"^complete -c sluice -n '__sluice_is_at ([^']+)'(?: -f -a (\S+)|((?: -[ls] \S+)+))", sluice("completion", "fish").stdout, re.MULTILINE)
    by_fish = {(at, name) for at, name, _ in of_fish if name} | {(at, "--" + name) for at, _, names in of_fish for name in re.findall(r"-l (\S+)", names)}
    commands = list(subcommands())
    assert len(commands) > 40 and {("serve",), ("model", "cache", "prune"), ("bench", "serve"), ("man",)} <= {words for words, _ in commands}
    lines = []  # what bash would be asked, and with what it should answer
    for words, text in commands:
        flags = flags_of(text)
        assert "--help" in flags
        below = [other[-1] for other, _ in commands if other[:-1] == words and len(other) == len(words) + 1]
        at = " ".join(["sluice", *words])
        assert {(at, word) for word in flags | set(below)} <= by_fish, words
        lines.append((at, flags | set(below)))
        if words:
            section = sections[at.replace("-", r"\-")]
            told = {name for names in re.findall(r"^\.TP\n(.*)\n(?! ?\()\S", section, re.MULTILINE) for name in re.findall(r"\\fB(\S+?)\\fR", names)}  # with an explanation
            assert {flag.replace("-", r"\-") for flag in flags} <= told, words
    asked = "".join(f'COMP_WORDS=({line} ""); COMP_CWORD={len(line.split())}; _sluice; echo "${{COMPREPLY[*]}}"\n' for line, _ in lines)
    answered = subprocess.run(["bash", "--norc"], input=script + asked, capture_output=True, text=True, timeout=60)
    assert answered.returncode == 0 and answered.stderr == "", answered.stderr
    for (line, expected), answer in zip(lines, answered.stdout.splitlines(), strict=True):
        assert expected <= set(answer.split()), line


@pytest.mark.parametrize("arguments", [["nonsense"], ["tokenize"], ["serve", "--model", str(harness.MODEL), "--port", "x"], ["serve", "--nonsense"]])
def test_a_wrong_command_line_is_refused(arguments):
    ran = sluice(*arguments)
    assert ran.returncode > 0
    assert ran.stderr


def test_an_unknown_setting_is_refused_with_its_name():
    ran = sluice("serve", "--model", harness.MODEL, "--set", "worker.no_such_key=1")
    assert ran.returncode > 0
    assert "worker.no_such_key" in ran.stderr


def test_tokenize_speaks_json_lines():
    case = harness.golden_cases()[1]
    ran = sluice("tokenize", harness.MODEL, stdin=json.dumps({"text": case["prompt"]}) + "\n" + json.dumps({"text": ""}) + "\n")
    assert ran.returncode == 0, ran.stderr
    first, second = [json.loads(line) for line in ran.stdout.splitlines()]
    assert first["ids"] == case["prompt_ids"][1:]  # without BOS
    assert second["ids"] == []
    with_special = sluice("tokenize", harness.MODEL, "--special", stdin=json.dumps({"text": case["prompt"]}) + "\n")
    assert json.loads(with_special.stdout)["ids"] == case["prompt_ids"]


def test_render_speaks_json_lines():
    ran = sluice("render", harness.MODEL, stdin=json.dumps({"messages": [{"role": "user", "content": "Hi there"}], "add_generation_prompt": True}) + "\n")
    assert ran.returncode == 0, ran.stderr
    assert "Hi there" in json.loads(ran.stdout)["rendered"]


@pytest.mark.parametrize("file", sorted((harness.ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_the_settings_that_come_with_sluice_are_valid(file):
    checked = sluice("config", "check", "--config", file)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("role", ["scheduler", "gateway", "prefill", "decode", "mixed"])
def test_one_file_serves_all_roles(role):
    """Each role knows the sections of the others: only what nobody knows is told."""
    models = [] if role == "scheduler" else ["--model", harness.MODEL]
    ended = sluice(role, *models, "--config", harness.ROOT / "configs" / "cluster.yaml", "--set", f"cluster.key={'0' * 32}",
                   "--set", "slo_classes.chat.ttft_ms=500", "--set", "nobody.knows=1")
    assert ended.returncode == 2
    assert ended.stderr.strip() == "sluice: --set nobody.knows: unknown key nobody.knows"


def test_config_print_can_be_checked_again(tmp_path):
    printed = sluice("config", "print")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "all.yaml").write_text(printed.stdout)
    assert sluice("config", "check", "--config", tmp_path / "all.yaml").returncode == 0
    (tmp_path / "bad.yaml").write_text("worker:\n  no_such_key: 1\n")
    bad = sluice("config", "check", "--config", tmp_path / "bad.yaml")
    assert bad.returncode > 0
    assert "bad.yaml:2" in bad.stderr + bad.stdout


def test_the_version_is_told_to_people_and_to_programs():
    said = json.loads(sluice("version", "--json").stdout)
    assert set(said) == {"version", "commit", "build_type", "protocol"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["version"]) and re.fullmatch(r"\d+\.\d+", said["protocol"])
    assert sluice("version").stdout == f"sluice {said['version']} ({said['commit']}, {said['build_type']})\n"
    assert sluice("--version").stdout == f"sluice {said['version']}\n"


def test_doctor_tells_the_hardware():
    ran = sluice("doctor")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"avx2|avx-?512|reference", ran.stdout, re.IGNORECASE)
    assert re.search(r"^CUDA +(built in|not built in)", ran.stdout, re.MULTILINE)
    assert re.search(r"^KV on disks +(io_uring, |through the page cache: .+\n +containers: )", ran.stdout, re.MULTILINE), ran.stdout
    told = json.loads(sluice("doctor", "--json").stdout)
    assert told["can_serve"] is True and ran.stdout.rstrip().endswith(told["verdict"])
    names = [row["name"] for row in told["rows"]]
    assert names == [line.split("  ")[0] for line in re.findall(r"^\S.*$", ran.stdout, re.MULTILINE)[:-1]] and {"processor", "memory", "KV on disks", "GPU"} <= set(names)
    assert all(set(row) <= {"name", "value", "notes"} for row in told["rows"])
    # Either a GPU is usable, or it says why not and which command changes that.
    assert re.search(r"^GPU +usable|^GPU +not usable: .+\n +to change that: .+", ran.stdout, re.MULTILINE), ran.stdout


def test_a_device_that_is_none_is_refused_with_its_line(tmp_path):
    (tmp_path / "bad.yaml").write_text("engine:\n  device: gpu:0\n")
    bad = sluice("config", "check", "--config", tmp_path / "bad.yaml")
    assert bad.returncode > 0
    assert "bad.yaml:2" in bad.stderr + bad.stdout
    assert "cuda:0" in bad.stderr + bad.stdout


def test_run_answers_a_prompt():
    case = harness.golden_cases()[1]
    ran = sluice("run", "--model", harness.MODEL, case["prompt"], "--max-tokens", 20, "--temperature", 0)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    # A setting takes one word: the prompt behind it stays the prompt.
    again = sluice("run", "--model", harness.MODEL, "--max-tokens", 20, "--temperature", 0, "--set", "engine.block_tokens=32", case["prompt"])
    assert again.returncode == 0, again.stderr
    assert again.stdout == ran.stdout


def test_settings_of_the_gateway_hold_where_no_flag_overrules_them(tmp_path):
    port = harness.free_port()
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"gateway:\n  port: {port}\n  model: little\n")
    command = [harness.BINARY, "serve", "--model", harness.MODEL, "--config", settings]
    with harness.Server(command, port) as server:
        server.wait_ready()
        assert [model["id"] for model in harness.request(port, "GET", "/v1/models").json()["data"]] == ["little"]


def test_model_make_writes_a_model_that_serves(tmp_path):
    made = sluice("model", "make", "--shape", "stories15m", tmp_path / "made")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "made" / "config.json").exists()
    with harness.serve(model=tmp_path / "made") as server:
        server.wait_ready()
        answer = harness.post(server.port, "/v1/completions", prompt=[1, 2, 3], max_tokens=3, ignore_eos=True)
        assert answer.status == 200, answer.body
        assert answer.json()["usage"]["completion_tokens"] == 3


def test_bench_serve_reports_and_writes_every_request(server, tmp_path):
    out = tmp_path / "out.json"
    ran = sluice("bench", "serve", "--url", server.url, "--rate", 50, "--requests", 30, "--prompt-tokens", 60, "--output-tokens", 10,
                 "--slo-ttft-ms", 10000, "--slo-tpot-ms", 10000, "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert "TTFT" in ran.stdout and "goodput" in ran.stdout
    result = json.loads(out.read_text())
    [run] = result["runs"]
    assert run["report"]["requests_ok"] == 30
    assert all(row["output_tokens"] == 10 for row in run["requests"])
    assert 30 <= run["report"]["prompt_tokens"] / 30 <= 120


def test_bench_serve_with_token_ids_has_exact_prompts(server, tmp_path):
    out = tmp_path / "out.json"
    ran = sluice("bench", "serve", "--url", server.url, "--endpoint", "completions", "--token-ids", "--rate", 100, "--requests", 10,
                 "--prompt-tokens", 77, "--output-tokens", 4, "--out", out, "--quiet")
    assert ran.returncode == 0, ran.stderr
    assert {row["prompt_tokens"] for row in json.loads(out.read_text())["runs"][0]["requests"]} == {77}


def test_bench_engine_measures_whole_steps_and_counts_their_work():
    ran = sluice("bench", "engine", "--model", harness.MODEL, "--device", "host", "--prefill", "40,100", "--batch", "1,3",
                 "--context", 30, "--batch-tokens", 64, "--samples", 3, "--temperature", 0.8, "--out", "-")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    shape = json.loads((harness.MODEL / "config.json").read_text())
    hidden, layers, vocabulary = shape["hidden_size"], shape["num_hidden_layers"], shape["vocab_size"]
    kv_width = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    per_layer = hidden * (2 * hidden + 2 * kv_width + 3 * shape["intermediate_size"])
    assert [figure["tokens"] for figure in report["prefill"]] == [40, 100]
    for figure in report["prefill"]:
        n = figure["tokens"]
        flops = 2 * (n * layers * per_layer + hidden * vocabulary) + 2 * n * (n + 1) * layers * hidden
        assert figure["flop_per_s"] * figure["median_s"] == pytest.approx(flops)
        assert 0 < figure["best_s"] <= figure["median_s"]
    assert [figure["batch"] for figure in report["decode"]] == [1, 3]
    others = min(3, len(os.sched_getaffinity(0)) - 1)
    if others:
        assert report["beside"].pop("engines") == others
        assert sorted(report["beside"]) == ["decode_by_decode", "decode_by_prefill", "prefill_by_decode", "prefill_by_prefill"] and all(share >= 0 for share in report["beside"].values())
    ran = sluice("bench", "engine", "--model", harness.MODEL, "--device", "host", "--prefill", "16", "--batch", "1", "--context", 16, "--samples", 1, "--beside", 0, "--out", "-")
    assert ran.returncode == 0 and "beside" not in json.loads(ran.stdout), ran.stderr
    element = 4 if "f32 weights" in report["engine"] else 2
    for figure in report["decode"]:
        keys = figure["batch"] * figure["context_tokens"]
        read = element * (layers * per_layer + hidden * vocabulary + keys * 2 * layers * kv_width)
        assert figure["bytes_per_s"] * figure["median_s"] == pytest.approx(read)
        assert figure["tokens_per_s"] * figure["median_s"] == pytest.approx(figure["batch"])


def test_bench_engine_refuses_what_the_model_has_no_room_for():
    ran = sluice("bench", "engine", "--model", harness.MODEL, "--context", 100000)
    assert ran.returncode == 1
    assert "--context" in ran.stderr
