"""Reasoning that is counted, and closed when its budget is spent: from a model that would never close it."""
import anthropic
import openai
import pytest

import harness
import reasoning_model
from harness import assert_error, post
from reasoning_model import NEVER_ENDS
from tools_model import NO_SPACES, Pet

MESSAGES = [{"role": "user", "content": "Tell me about a cat."}]
FIELDS = {"messages": MESSAGES, "temperature": 1, "seed": 4, "max_tokens": 40, "logit_bias": NEVER_ENDS, "ignore_eos": True}


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with harness.serve(model=reasoning_model.make(tmp_path_factory.mktemp("reasoning"))) as server:
        server.wait_ready()
        yield server.port


def ask(port, path="/v1/chat/completions", **fields):
    answer = post(port, path, **fields)
    assert answer.status == 200, answer.body
    return answer.json()


@pytest.mark.parametrize("fields", [{"thinking_token_budget": 7}, {"thinking_budget": 7}, {"thinking_budget_tokens": 7}, {"reasoning": {"max_tokens": 7}}],
                         ids=lambda fields: next(iter(fields)))
def test_a_budget_closes_the_reasoning(port, fields):
    body = ask(port, **FIELDS, **fields)
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] and message["content"]
    assert "think>" not in message["reasoning_content"] + message["content"]
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 7}
    assert body["usage"]["completion_tokens"] == 40


def test_a_budget_of_nothing_and_none_at_all(port):
    body = ask(port, **FIELDS, thinking_token_budget=0)
    assert "reasoning_content" not in body["choices"][0]["message"] and body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    for more in ({}, {"thinking_token_budget": -1}, {"thinking_token_budget": None}):
        body = ask(port, **FIELDS, **more)
        assert body["choices"][0]["message"]["content"] == "" and body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 40
    assert_error(post(port, "/v1/chat/completions", **FIELDS, thinking_token_budget=-2), 400, param="thinking_token_budget")


@pytest.mark.parametrize("fields", ["reasoning", "none"])
def test_reasoning_has_the_names_that_the_server_is_told(tmp_path, fields):
    with harness.serve("--set", f"gateway.reasoning_fields={fields}", model=reasoning_model.make(tmp_path)) as server:
        server.wait_ready()
        body = ask(server.port, **FIELDS, thinking_token_budget=7)
        message = body["choices"][0]["message"]
        assert message["content"] and "reasoning_content" not in message and ("reasoning" in message) == (fields == "reasoning")
        assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 7}
        deltas = [choice["delta"] for chunk in harness.stream_chunks(server.port, "/v1/chat/completions", **FIELDS, thinking_token_budget=7) for choice in chunk["choices"]]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == message.get("reasoning", "")
        assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
        # Responses have a form of their own.
        response = ask(server.port, "/v1/responses", input="Hi", temperature=1, seed=4, max_output_tokens=40, reasoning={"max_tokens": 6}, logit_bias=NEVER_ENDS, ignore_eos=True)
        assert [item["type"] for item in response["output"]] == ["reasoning", "message"]


def test_streamed_as_whole(port):
    whole = ask(port, **FIELDS, thinking_token_budget=9)
    chunks = harness.stream_chunks(port, "/v1/chat/completions", **FIELDS, thinking_token_budget=9, stream_options={"include_usage": True})
    told = {"reasoning_content": "", "content": ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name in told:
                told[name] += choice["delta"].get(name) or ""
    assert told == {name: whole["choices"][0]["message"][name] for name in told}
    assert chunks[-1]["usage"] == whole["usage"]


def test_the_other_endpoints(port):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as client:
        response = client.responses.create(model=harness.MODEL_ID, input="Tell me.", max_output_tokens=30, temperature=1,
                                           extra_body={"reasoning": {"max_tokens": 6}, "logit_bias": NEVER_ENDS, "ignore_eos": True})
        assert response.usage.output_tokens_details.reasoning_tokens == 6
        assert [item.type for item in response.output] == ["reasoning", "message"]
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key="none", max_retries=0) as client:
        message = client.messages.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=30, thinking={"type": "enabled", "budget_tokens": 6},
                                         extra_body={"logit_bias": NEVER_ENDS, "ignore_eos": True})
        assert [block.type for block in message.content] == ["thinking", "text"]


def test_a_schema_is_kept_to_after_the_reasoning(port):
    fields = {**FIELDS, "max_tokens": 300, "logit_bias": {**NO_SPACES, **NEVER_ENDS},
              "response_format": {"type": "json_schema", "json_schema": {"name": "pet", "schema": Pet.model_json_schema()}}}
    for seed in range(4):
        body = ask(port, **{**fields, "seed": seed}, thinking_token_budget=5)
        Pet.model_validate_json(body["choices"][0]["message"]["content"])
        assert body["choices"][0]["message"]["reasoning_content"] and body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    # Not opened by the prompt: the first token may do it, or begin the answer.
    body = ask(port, **fields, chat_template_kwargs={"enable_thinking": False}, thinking_token_budget=5)
    Pet.model_validate_json(body["choices"][0]["message"]["content"])
    never_begins = {**fields["logit_bias"], str(reasoning_model.BEGIN): -100}
    body = ask(port, **{**fields, "logit_bias": never_begins}, chat_template_kwargs={"enable_thinking": False})
    Pet.model_validate_json(body["choices"][0]["message"]["content"])
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_the_servers_budget_holds_where_a_request_says_none(tmp_path):
    with harness.serve("--set", "gateway.reasoning_tokens_max=4", model=reasoning_model.make(tmp_path)) as server:
        server.wait_ready()
        for more, count in (({}, 4), ({"thinking_token_budget": 6}, 6), ({"thinking_token_budget": -1}, 40)):
            assert ask(server.port, **FIELDS, **more)["usage"]["completion_tokens_details"]["reasoning_tokens"] == count


def test_a_budget_survives_the_death_of_a_worker(tmp_path):
    fields = {**FIELDS, "max_tokens": 300}

    def one(port, seed):
        body = ask(port, **{**fields, "seed": seed}, thinking_token_budget=100 + seed)
        return body["choices"][0]["message"]["reasoning_content"], body["choices"][0]["message"]["content"], body["usage"]["completion_tokens_details"]

    told = harness.check_same_when_a_decode_worker_dies(one, 6, model=reasoning_model.make(tmp_path))
    assert [usage["reasoning_tokens"] for _, _, usage in told] == [100 + seed for seed in range(6)]
