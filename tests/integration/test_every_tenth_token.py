"""One stream, and at every tenth token the decode worker that has it is killed: the same bytes as without."""
import json
import os
import signal

import pytest

import harness
import tools_model
from harness import LocalCluster, wait_until

pytestmark = pytest.mark.process
DECODE_WORKERS = 7
MESSAGES = [{"role": "user", "content": "Words, please."}]
WORDS = {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{4}$"}, "minItems": 40, "maxItems": 40}
SPACES = {str(3 + byte): -100 for byte in b" \t\r\n"}  # the vocabulary of `sluice model make` begins with three special tokens and the bytes
STRUCTURED = {"structured_outputs": {"json": WORDS, "disable_any_whitespace": True}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {"words": WORDS}, "required": ["words"], "additionalProperties": False}}}],
         "tool_choice": "required", "parallel_tool_calls": False, "logit_bias": SPACES}


@pytest.fixture(scope="module")
def model(slow_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow-with-tools") / "slow"
    folder.mkdir()
    for file in slow_model.iterdir():
        if file.name not in ("config.json", "tokenizer_config.json"):
            (folder / file.name).symlink_to(file)
    config = json.loads((slow_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    settings = json.loads((slow_model / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": tools_model.TEMPLATE, "model_max_length": 2048}))
    return folder


def running(cluster, pid):
    return sum(value for (name, _), value in harness.metrics(cluster.admin_port(pid)).items() if name == "sluice_worker_requests_running")


def forced(cluster):
    """Tokens that came with others since a grammar left no choice, at all workers."""
    pids = cluster.pids_of("prefill") + cluster.pids_of("decode")
    return sum(value for pid in pids for (name, _), value in harness.metrics(cluster.admin_port(pid)).items() if name == "sluice_worker_forced_tokens_total")


def tell(cluster, fields, kills):
    """What a stream says, in its parts put together, and how often its worker was killed on the way."""
    stream = harness.Stream(cluster.port, "/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1000, "temperature": 1, "seed": 9, **fields})
    assert stream.status == 200, stream.response.read()
    text, name, arguments, reason, tokens, killed = "", "", "", None, 0, 0
    alive = cluster.pids_of("decode")
    for chunk in stream.chunks():
        assert "error" not in chunk, chunk
        [choice] = chunk["choices"]
        delta = choice["delta"]
        text += delta.get("content") or ""
        for call in delta.get("tool_calls") or []:
            name += call["function"].get("name") or ""
            arguments += call["function"].get("arguments") or ""
        assert reason is None or not delta
        reason = choice["finish_reason"] or reason
        tokens += 1
        if kills and reason is None and tokens % 10 == 0 and len(alive) > 1:
            victims = [pid for pid in alive if running(cluster, pid) > 0]  # none: it has just ended, or is on its way from one to another
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not harness.pid_exists(pid), "it is dead")
                alive.remove(pid)
                killed += 1
    stream.close()
    return (text, name, arguments, reason), killed


@pytest.mark.parametrize("at_once", [0, 32], ids=["one-by-one", "runs"])
@pytest.mark.parametrize("fields", [STRUCTURED, TOOLS], ids=["structured", "tools"])
def test_a_worker_dies_at_every_tenth_token(model, fields, at_once):
    settings = [f"gateway.placements_max={2 * DECODE_WORKERS}", f"worker.forced_tokens_max={at_once}"]
    with LocalCluster(prefill=1, decode=DECODE_WORKERS, model=model, settings=settings) as cluster:
        cluster.wait_ready()
        expected, _ = tell(cluster, fields, kills=False)
        text, name, arguments, reason = expected
        words = json.loads(text) if "structured_outputs" in fields else json.loads(arguments)["words"]
        assert len(words) == 40 and all(len(word) == 4 for word in words)
        assert (name, reason) == (("", "stop") if "structured_outputs" in fields else ("say", "tool_calls"))
        assert (forced(cluster) > 40) == (at_once > 1)  # three characters between two words
        told, killed = tell(cluster, fields, kills=True)
        assert told == expected
        assert killed >= 3, cluster.logs()


def test_each_token_by_itself_gives_the_same_bytes(model):
    """This model has one token for each of these characters: no way to cut what is forced is another one."""
    told = []
    for most in (32, 1, 0):
        with LocalCluster(prefill=1, decode=1, model=model, settings=[f"worker.forced_tokens_max={most}"]) as cluster:
            cluster.wait_ready()
            told.append(tell(cluster, STRUCTURED, kills=False))
            assert (forced(cluster) > 40) == (most > 1)
    assert told[0][0][3] == "stop" and told[1:] == told[:1] * 2
