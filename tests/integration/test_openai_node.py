"""The official Node client (node/client.mjs runs it and prints what it saw)."""
import json
import pathlib
import subprocess

import pytest

import harness

NODE_FOLDER = pathlib.Path(__file__).parent / "node"


@pytest.fixture
def seen(server):
    if not (NODE_FOLDER / "node_modules" / "openai").is_dir():
        pytest.fail("the Node client is missing: scripts/bootstrap --test")
    ran = subprocess.run(["node", "client.mjs", server.url + "/v1", harness.MODEL_ID], cwd=NODE_FOLDER, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def test_the_node_client_gets_whole_and_streamed_answers_and_errors(seen):
    assert seen["models"] == [harness.MODEL_ID]
    assert seen["chat"]["text"] == seen["chatStreamed"]["text"] != ""
    assert seen["chat"]["finish"] == seen["chatStreamed"]["finish"]
    assert seen["chatStreamed"]["usage"]["completion_tokens"] == seen["chat"]["usage"]["completion_tokens"]
    assert seen["helper"]["text"] == seen["chat"]["text"]
    assert seen["completion"] == seen["completionStreamed"] != ""
    assert seen["unknownModel"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert seen["badValue"]["name"] == "BadRequestError"
    assert seen["badValue"]["status"] == 400
    assert seen["response"]["text"] == seen["responseStreamed"]["text"] == seen["responseHelper"] == seen["chat"]["text"]
    assert (seen["response"]["status"], seen["response"]["usage"]) == ("incomplete", 24)
    assert seen["responseStreamed"]["types"][0] == "response.created" and seen["responseStreamed"]["types"][-1] == "response.incomplete"
    assert seen["builtIn"]["name"] == "BadRequestError" and "'web_search'" in seen["builtIn"]["message"]
