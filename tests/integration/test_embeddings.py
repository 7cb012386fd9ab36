"""/v1/embeddings: a small encoder with published vectors beside the demo model, in one process and in many."""
import base64
import contextlib
import json
import math
import os
import pathlib
import signal
import struct
import subprocess

import openai
import pytest

import harness
from harness import LocalCluster, wait_until

ENCODER = harness.ROOT / "tests" / "golden" / "data" / "bert_mean"
FIRST = harness.ROOT / "tests" / "golden" / "data" / "bert_first"
LONGEST = 290
WIDTH = 64


def golden(folder=ENCODER):
    """(text or None, token ids, vector) of each text (tests/golden/make_encoder_golden.py)."""
    texts = json.loads((folder / "golden.json").read_text())["texts"]
    values = (folder / "vectors.bin").read_bytes()
    width = len(values) // 4 // len(texts)
    vectors = [struct.unpack_from(f"<{width}f", values, 4 * width * i) for i in range(len(texts))]
    return [(entry["text"], entry["tokens"], vector) for entry, vector in zip(texts, vectors)]


def is_near(got, expected):
    return len(got) == len(expected) and max(abs(a - b) for a, b in zip(got, expected)) < 2e-5 * max(map(abs, expected))


@pytest.fixture(scope="module")
def both():
    """The demo model and two encoders at one endpoint."""
    with harness.serve("--encoder", f"small={ENCODER}", "--encoder", str(FIRST), "--set", "gateway.aliases=[text-embedding-3-small=small]") as server:
        yield server.wait_ready()


@pytest.fixture
def client(both):
    with openai.OpenAI(base_url=both.url + "/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client
    assert both.is_alive(), both.output()


def embed(server, **fields):
    return harness.post(server.port, "/v1/embeddings", **{"model": "small", **fields})


def test_vectors_of_texts_and_token_ids_equal_the_published_ones(both):
    cases = golden()
    texts = [(text, tokens, vector) for text, tokens, vector in cases if text]
    answer = embed(both, input=[text for text, _, _ in texts]).json()
    assert [entry["index"] for entry in answer["data"]] == list(range(len(texts)))
    for entry, (text, _, vector) in zip(answer["data"], texts):
        assert is_near(entry["embedding"], vector), text
    tokens = sum(len(tokens) for _, tokens, _ in texts)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = embed(both, input=[tokens for _, tokens, _ in cases]).json()
    for entry, (_, tokens, vector) in zip(answer["data"], cases):
        assert is_near(entry["embedding"], vector), tokens
    for text, tokens, vector in cases[:3]:
        assert is_near(embed(both, input=text).json()["data"][0]["embedding"], vector)
        assert is_near(harness.post(both.port, "/embeddings", model="small", input=tokens).json()["data"][0]["embedding"], vector)


def test_the_python_client_reads_floats_and_base64(client):
    cases = [case for case in golden() if case[0]]
    # Where nobody names a format the client asks for base64, which its strict validation looks at before it is decoded.
    lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
    answer = lenient.embeddings.create(model="text-embedding-3-small", input=[text for text, _, _ in cases], user="someone")
    assert answer.model == "text-embedding-3-small"
    floats = client.embeddings.create(model="small", input=[text for text, _, _ in cases], encoding_format="float")
    for entry, same, (_, _, vector) in zip(answer.data, floats.data, cases):
        assert is_near(entry.embedding, vector)
        assert entry.embedding == pytest.approx(same.embedding, abs=1e-7)
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == sum(len(tokens) for _, tokens, _ in cases)
    cut = lenient.embeddings.create(model="small", input="a", dimensions=16).data[0].embedding
    whole = lenient.embeddings.create(model="small", input="a").data[0].embedding[:16]
    assert math.sqrt(sum(x * x for x in cut)) == pytest.approx(1, abs=1e-6)
    assert cut == pytest.approx([x / math.sqrt(sum(y * y for y in whole)) for x in whole], abs=1e-6)
    assert {model.id for model in client.models.list()} == {harness.MODEL_ID, "small", "bert_first", "text-embedding-3-small"}
    assert client.models.retrieve("bert_first").max_model_len == LONGEST


def test_base64_is_little_endian_floats(both):
    written = embed(both, input="a", encoding_format="base64").json()["data"][0]["embedding"]
    floats = embed(both, input="a").json()["data"][0]["embedding"]
    assert struct.unpack(f"<{WIDTH}f", base64.b64decode(written, validate=True)) == pytest.approx(floats, abs=1e-7)


def test_each_model_answers_under_its_name_what_it_can(both):
    for text, tokens, vector in golden(FIRST)[:4]:
        answer = harness.post(both.port, "/v1/embeddings", model="bert_first", input=text or tokens).json()
        assert is_near(answer["data"][0]["embedding"], vector)
    case = harness.golden_cases()[1]
    whole = harness.post(both.port, "/v1/completions", prompt=case["prompt"], max_tokens=len(case["output_ids"]), temperature=0).json()
    assert whole["model"] == harness.MODEL_ID
    assert case["prompt"] + whole["choices"][0]["text"] == case["output_text"]
    assert harness.post(both.port, "/v1/embeddings", input="a").json()["model"] == "small"  # the first that encodes
    wrong = harness.assert_error(embed(both, model=harness.MODEL_ID, input="a"), 400, param="model")
    assert "makes text and no embeddings" in wrong["message"]
    wrong = harness.assert_error(harness.post(both.port, "/v1/completions", model="small", prompt="a"), 400, param="model")
    assert "gives embeddings and no text" in wrong["message"]
    harness.assert_error(embed(both, model="nobody", input="a"), 404, code="model_not_found")


def test_what_is_too_long_or_malformed_is_a_400_with_the_numbers(both):
    error = harness.assert_error(embed(both, input=["a", "a " * 400]), 400, code="context_length_exceeded", param="input")
    assert "text 1" in error["message"] and "402" in error["message"] and str(LONGEST) in error["message"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (402, LONGEST)
    for bad in ("", [], [""], 3, {"a": 1}, [1, "a"], [[]], [10**6], [True], None):
        harness.assert_error(embed(both, input=bad), 400, param="input")
    harness.assert_error(embed(both, input="a", dimensions=WIDTH + 1), 400, param="dimensions")
    harness.assert_error(embed(both, input="a", encoding_format="binary"), 400, param="encoding_format")
    harness.assert_error(embed(both, input=["a"] * 2049), 400, param="input")


def test_as_many_texts_as_a_request_may_hold_come_back_in_order(both):
    cases = golden()
    texts = [cases[i % len(cases)][1][:20] for i in range(2048)]
    data = embed(both, input=texts, encoding_format="base64").json()["data"]
    assert [entry["index"] for entry in data] == list(range(2048))
    for i in range(len(cases), 2048):  # the same bits, whatever the company
        assert data[i]["embedding"] == data[i % len(cases)]["embedding"]
    rows = harness.metrics(both.port)
    ended = [value for (name, labels), value in rows.items() if name == "sluice_gateway_requests_total"
             and {("endpoint", "embeddings"), ("code", "200"), ("model", "small")} <= labels]
    assert sum(ended) >= 1
    steps = [value for (name, labels), value in rows.items() if name == "sluice_worker_step_duration_seconds_count" and ("phase", "encode") in labels]
    assert sum(steps) > 0


def test_a_model_of_the_wrong_kind_does_not_start():
    key = ["--set", "cluster.key=000102030405060708090a0b0c0d0e0f"]
    for command in (["serve", "--model", ENCODER, "--port", "0"], ["serve", "--model", harness.MODEL, "--encoder", harness.MODEL, "--port", "0"],
                    ["encode", "--model", harness.MODEL, *key], ["mixed", "--model", ENCODER, *key]):
        ran = subprocess.run([str(harness.BINARY), *map(str, command)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert ran.returncode == 2, (command, ran.stderr)
        assert "sentence encoder" in ran.stderr, ran.stderr


@pytest.mark.process
def test_texts_of_an_encoder_that_dies_are_encoded_by_another():
    cases = golden()
    texts = [tokens for _, tokens, _ in cases] * 40
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(0, 0, 1, encoder=ENCODER, encode=2).wait_ready())
        workers = cluster.pids_of("encode")
        assert len(workers) == 2

        def encoded(pid):
            found = harness.metrics(cluster.admin_port(pid))
            return sum(value for (name, _), value in found.items() if name == "sluice_worker_prompt_tokens_total")

        answer = harness.post(cluster.port, "/v1/embeddings", model="bert_mean", input=texts)
        assert answer.status == 200, answer.body
        assert all(encoded(pid) > 0 for pid in workers), "load is spread over both"
        os.kill(workers[0], signal.SIGKILL)
        again = harness.post(cluster.port, "/v1/embeddings", model="bert_mean", input=texts)
        assert again.status == 200, again.body
        assert again.json()["data"] == answer.json()["data"]
        os.kill(workers[1], signal.SIGTERM)
        wait_until(lambda: not harness.pid_exists(workers[1]), "the other one drains and ends")
        harness.assert_error(harness.post(cluster.port, "/v1/embeddings", model="bert_mean", input="a"), 503)
        assert harness.post(cluster.port, "/v1/completions", prompt="Once", max_tokens=2).status == 200


@pytest.fixture(scope="session")
def minilm():
    """all-MiniLM-L6-v2 in a store that is kept between runs: 91 MB are fetched once."""
    store = pathlib.Path(os.environ.get("SLUICE_TEST_MODELS") or harness.ROOT / "build" / "test-models")
    pulled = subprocess.run([str(harness.BINARY), "model", "pull", "all-minilm-l6-v2"], env={**os.environ, "SLUICE_MODELS": str(store)},
                            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)
    if pulled.returncode != 0:
        pytest.skip(f"all-minilm-l6-v2 cannot be had: {pulled.stderr.strip().splitlines()[-1]}")
    return store


@pytest.mark.model
@pytest.mark.timeout(1000)
def test_minilm_gives_the_vectors_of_onnx_runtime(minilm):
    """tests/data/embeddings/minilm.json: made with scripts/compare-embeddings."""
    document = json.loads((harness.ROOT / "tests" / "data" / "embeddings" / "minilm.json").read_text())
    port = harness.free_port()
    with harness.Server([harness.BINARY, "serve", "--model", harness.MODEL, "--encoder", "all-minilm-l6-v2", "--port", str(port)], port,
                        {"SLUICE_MODELS": str(minilm)}) as server:
        server.wait_ready()
        answer = harness.post(port, "/v1/embeddings", model="all-minilm-l6-v2", input=[case["text"] for case in document["cases"]]).json()
    for entry, case in zip(answer["data"], document["cases"]):
        expected = struct.unpack(f"<{document['width']}f", base64.b64decode(case["vector"]))
        cosine = sum(a * b for a, b in zip(entry["embedding"], expected))
        assert cosine > 0.9999, case["text"]
    assert answer["usage"]["prompt_tokens"] == sum(case["tokens"] for case in document["cases"])


def test_bench_embed_measures_and_writes_the_published_vectors(tmp_path):
    cases = [case for case in golden() if case[0]]
    (tmp_path / "texts").write_text("".join(json.dumps({"text": text}) + "\n" for text, _, _ in cases) + "a " * 400 + "\n")
    ran = subprocess.run([str(harness.BINARY), "bench", "embed", "--model", str(ENCODER), "--texts", str(tmp_path / "texts"), "--rounds", "2",
                          "--out", "-", "--vectors", str(tmp_path / "vectors")], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["texts"], report["truncated"]) == (len(cases) + 1, 1)
    assert report["tokens"] == sum(len(tokens) for _, tokens, _ in cases) + LONGEST
    assert len(report["rounds_s"]) == 2 and report["texts_per_s"] > 0
    written = (tmp_path / "vectors").read_bytes()
    for i, (_, _, vector) in enumerate(cases):
        assert is_near(struct.unpack_from(f"<{WIDTH}f", written, 4 * WIDTH * i), vector)
    ran = subprocess.run([str(harness.BINARY), "bench", "embed", "--model", str(harness.MODEL), "--texts", str(tmp_path / "texts")],
                         capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "no sentence encoder" in ran.stderr
