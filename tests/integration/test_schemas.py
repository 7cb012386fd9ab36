"""Three hundred schemas of many kinds, against a model that knows nothing, at temperature 1; judged by the library jsonschema."""
import collections
import concurrent.futures
import datetime
import json
import re
import shutil

import jsonschema
import pytest

import harness
from harness import assert_error, post
from tools_model import NO_SPACES

CONTEXT_TOKENS = 4096
DATA = harness.ROOT / "tests" / "data" / "schemas"
SCHEMAS = [json.loads(line) for name in ("written.jsonl", "generated.jsonl") for line in (DATA / name).read_text().splitlines()]
VOCABULARY = json.loads((harness.MODEL / "tokenizer.json").read_text())["model"]["vocab"]
# A model that knows nothing of JSON closes a text, or a list, once in five hundred tokens, and digits never end.
LEANINGS = {"\"": 20, "}": 14, "]": 14, ",": -20, ":": 2, "@": 30, **{digit: -30 for digit in "0123456789"}}
CLOSERS = {str(VOCABULARY[name]): leaning for text, leaning in LEANINGS.items() for name in (text, f"<0x{ord(text):02X}>") if name in VOCABULARY}
FORMATS = jsonschema.FormatChecker(("email", "ipv4", "uuid"))


@FORMATS.checks("date", raises=ValueError)
def is_date(text):
    return not isinstance(text, str) or datetime.date.fromisoformat(text.replace("0000-", "2000-"))  # RFC 3339 has a year 0, Python has not


PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemas") / harness.MODEL_ID
    shutil.copytree(harness.MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT_TOKENS}))
    with harness.serve(model=folder, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        yield server.port


def ask(port, schema, seed):
    return post(port, "/v1/completions", prompt=PROMPT, max_tokens=2000, temperature=1, seed=seed, logit_bias={**NO_SPACES, **CLOSERS},
                structured_outputs={"json": schema, "disable_any_whitespace": True})


def words_of(schema):
    """Every name and every text in a schema."""
    if isinstance(schema, dict):
        return set(schema) | {word for value in schema.values() for word in words_of(value)}
    if isinstance(schema, list):
        return {word for value in schema for word in words_of(value)}
    return {schema} if isinstance(schema, str) else set()


def outcome_of(port, name, schema):
    for seed in range(4):
        answer = ask(port, schema, seed)
        if answer.status != 200:
            error = assert_error(answer, 400)
            assert error["param"] == "structured_outputs", error
            named = [word for word in words_of(schema) if re.search(rf"(?<![\w$]){re.escape(word)}(?!\w)", error["message"])]
            # What nothing can satisfy has no keyword of its own.
            assert named or "satisf" in error["message"], (name, error["message"], schema)
            return "refused", error["message"]
        choice = answer.json()["choices"][0]
        if choice["finish_reason"] == "length":
            continue  # a beginning, and not yet whole
        value = json.loads(choice["text"])
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)
        return "valid", choice["text"]
    return "endless", ""


@pytest.mark.timeout(1200)
def test_every_schema_is_kept_to_or_refused_by_name(port):
    assert len(SCHEMAS) >= 300
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda one: outcome_of(port, one["name"], one["schema"]), SCHEMAS))
    told = {one["name"]: outcome for one, outcome in zip(SCHEMAS, outcomes, strict=True)}
    counts = collections.Counter(kind for kind, _ in outcomes)
    assert counts["endless"] == 0, [name for name, (kind, _) in told.items() if kind == "endless"]
    assert counts["valid"] > 0.7 * len(SCHEMAS), counts
    for name in ("odd-if", "odd-not", "odd-remote"):
        assert told[name][0] == "refused", told[name]
    assert post(port, "/v1/completions", prompt=PROMPT, max_tokens=2).status == 200
