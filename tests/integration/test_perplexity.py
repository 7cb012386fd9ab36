"""`sluice bench perplexity`: the same figures whatever the text's form and the steps; what cannot be measured is said."""
import gzip
import json
import math
import subprocess

import pytest

import gguf_file
import harness

TEXTS = [case["output_text"] for case in harness.golden_cases()]


def perplexity(text, *flags, model=harness.MODEL):
    return subprocess.run([str(harness.BINARY), "bench", "perplexity", "--model", str(model), "--text", str(text), *map(str, flags)], capture_output=True,
                          text=True, timeout=120)


def figures(text, *flags, model=harness.MODEL):
    ran = perplexity(text, *flags, "--out", "-", model=model)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


def test_plain_and_compressed_texts_and_rows_give_the_same_figures(tmp_path, plain):
    rows = "".join(json.dumps({"title": "x", "text": text}) + "\n" for text in TEXTS)
    (tmp_path / "text.jsonl").write_text(rows)
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(plain.read_bytes()))
    expected = figures(plain, "--context", 64)
    assert expected["has_bos"] and expected["windows"] >= 3
    assert expected["tokens_scored"] == expected["windows"] * 31
    assert 1 < expected["perplexity"] < 4  # the model's own greedy continuations
    assert expected["perplexity_error"] > 0
    assert math.isclose(expected["bits_per_byte"] * expected["bytes_scored"] * math.log(2), expected["nll_per_token"] * expected["tokens_scored"])
    for name in ("text.jsonl", "text.jsonl.gz", "text.txt.gz"):
        got = figures(tmp_path / name, "--context", 64, "--batch-tokens", 5, "--threads", 1)
        for key in ("perplexity", "perplexity_error", "bits_per_byte", "tokens_scored", "bytes_scored", "text_tokens"):
            assert got[key] == expected[key], (name, key)


def test_a_gguf_file_has_its_folders_perplexity(tmp_path, plain):
    model = gguf_file.write(harness.MODEL, tmp_path, "stories")
    assert figures(plain, "--context", 100, model=model)["perplexity"] == figures(plain, "--context", 100)["perplexity"]


def test_noise_is_less_likely_than_a_story(tmp_path, plain):
    (tmp_path / "noise.txt").write_text("zq xj vv kw " * 200)
    assert figures(tmp_path / "noise.txt", "--context", 64)["perplexity"] > 5 * figures(plain, "--context", 64)["perplexity"]


def test_the_table_and_the_file(tmp_path, plain):
    ran = perplexity(plain, "--context", 64, "--chunks", 2, "--out", tmp_path / "out.json")
    assert ran.returncode == 0, ran.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["windows"] == 2
    assert f"perplexity     {written['perplexity']:.4f} +/- {written['perplexity_error']:.4f} (62 tokens scored)" in ran.stdout
    assert f"bits per byte  {written['bits_per_byte']:.4f}" in ran.stdout


def test_what_cannot_be_measured_is_said(tmp_path, plain):
    (tmp_path / "short.txt").write_text("Once upon a time")
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n{"body": "x"}\n')
    for text, flags, word in [(tmp_path / "short.txt", (), "longer text"), (tmp_path / "none.txt", (), "none.txt"), (tmp_path / "rows.jsonl", (), "line 2"),
                              (plain, ("--context", 513), "513")]:
        ran = perplexity(text, *flags)
        assert ran.returncode == 1
        assert word in ran.stderr, ran.stderr
