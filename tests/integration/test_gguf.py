"""`--model FILE.gguf` wherever a folder is taken: the demo model as a GGUF file says and tokenizes what its folder does."""
import json
import subprocess

import pytest

import gguf_file
import harness


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gguf_file.write(harness.MODEL, tmp_path_factory.mktemp("gguf"), "stories")


def sluice(*arguments, stdin=""):
    return subprocess.run([str(harness.BINARY), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60)


def continuation(port, model, prompt, tokens):
    answer = harness.post(port, "/v1/completions", model=model, prompt=prompt, max_tokens=tokens, temperature=0)
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0]["text"]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_gguf_file_is_served_under_its_name_with_the_folders_tokens(tmp_path, parts):
    path = gguf_file.write(harness.MODEL, tmp_path, "stories.F32", parts)
    with harness.serve(model=path) as server:
        server.wait_ready()
        assert harness.request(server.port, "GET", "/v1/models").json()["data"][0]["id"] == "stories.F32"
        for case in harness.golden_cases():
            tokens = len(case["output_ids"])
            prompt = case["prompt"] or case["prompt_ids"]  # an empty text is no prompt
            assert case["prompt"] + continuation(server.port, "stories.F32", prompt, tokens) == case["output_text"]


def test_tokenize_and_render_take_a_gguf_file(model):
    cases = harness.golden_cases()
    lines = "".join(json.dumps({"text": case["prompt"]}) + "\n" for case in cases)
    ran = sluice("tokenize", model, "--special", stdin=lines)
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["ids"] for line in ran.stdout.splitlines()] == [case["prompt_ids"] for case in cases]
    request = json.dumps({"messages": [{"role": "user", "content": "Hi there"}], "add_generation_prompt": True}) + "\n"
    rendered = sluice("render", model, stdin=request)
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stdout == sluice("render", harness.MODEL, stdin=request).stdout


def test_run_and_bench_engine_take_a_gguf_file(model):
    case = harness.golden_cases()[1]
    ran = sluice("run", case["prompt"], "--model", model, "--temperature", "0", "--max-tokens", len(case["output_ids"]))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.rstrip("\n") == case["output_text"].rstrip("\n")
    bench = sluice("bench", "engine", "--model", model, "--prefill", "16", "--batch", "1", "--context", "32", "--samples", "1")
    assert bench.returncode == 0, bench.stderr


def test_a_gguf_file_that_cannot_be_served_is_refused_with_its_name(tmp_path, model):
    content = model.read_bytes()
    for name, broken, word in [("cut.gguf", content[:-100], "tensor"), ("arch.gguf", content.replace(b"llama.block_count", b"llama.block_cound"), "block_count"),
                               ("none.gguf", None, "none.gguf"), ("text.gguf", b"no such thing", "GGUF")]:
        path = tmp_path / name
        if broken is not None:
            path.write_bytes(broken)
        with harness.serve(model=path) as server:
            assert server.wait() > 0
            assert name in server.output() and word in server.output(), server.output()
