"""/v1/messages through Anthropic's Python client, with its strict validation as the judge of every object and event."""
import json

import anthropic
import pytest

import harness
from harness import post, request
from tools_model import NO_SPACES, TOOLS, check_arguments

ROUTE = "/v1/messages"
COLD = {"temperature": 0}  # the client has no name for it any more, nor for what only this server knows
HI = [{"role": "user", "content": "Tell me about a cat."}]
TOOL_FORMS = [{"name": tool["function"]["name"], "description": "does it", "input_schema": tool["function"]["parameters"]} for tool in TOOLS]


@pytest.fixture
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client


@pytest.fixture(scope="module")
def tool_client(tool_server):
    with anthropic.Anthropic(base_url=tool_server.url, api_key="none", max_retries=0, timeout=120, _strict_response_validation=True) as client:
        yield client


def assert_refused(answer, status, kind="invalid_request_error"):
    body = answer.json()
    assert answer.status == status and body["type"] == "error" and body["error"]["type"] == kind, answer.body
    return body["error"]["message"]


def test_text_whole_and_streamed_say_the_same(client):
    fields = {"model": harness.MODEL_ID, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}], "max_tokens": 24, "extra_body": COLD,
              "messages": [*HI, {"role": "assistant", "content": [{"type": "text", "text": "It is Tom."}]},
                           {"role": "user", "content": [{"type": "text", "text": "And a "}, {"type": "text", "text": "dog?"}]}]}
    whole = client.messages.create(**fields)
    [block] = whole.content
    assert (whole.type, whole.role, whole.model, whole.stop_reason, whole.stop_sequence) == ("message", "assistant", harness.MODEL_ID, "max_tokens", None)
    assert whole.id.startswith("msg_") and block.type == "text" and whole.usage.output_tokens == 24
    assert whole._request_id
    chat = post(client.base_url.port, "/v1/chat/completions", max_tokens=24, temperature=0,
                messages=[{"role": "system", "content": "Be brief."}, HI[0], {"role": "assistant", "content": "It is Tom."}, fields["messages"][2]]).json()
    assert block.text == chat["choices"][0]["message"]["content"] != ""
    prompt_tokens = chat["usage"]["prompt_tokens"]
    assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == prompt_tokens
    assert client.messages.count_tokens(**{name: fields[name] for name in ("model", "system", "messages")}).input_tokens == prompt_tokens

    events = list(client.messages.create(**fields, stream=True))
    types = [event.type for event in events]
    assert types[:2] == ["message_start", "content_block_start"] and types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(types[2:-3]) == {"content_block_delta"}
    assert events[0].message.content == [] and events[0].message.usage.input_tokens == prompt_tokens
    assert "".join(event.delta.text for event in events[2:-3]) == block.text
    assert events[-2].delta.stop_reason == "max_tokens" and events[-2].usage.output_tokens == 24
    with client.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == block.text
        assert stream.get_final_message().content[0].text == block.text


def test_models(client):
    [model] = client.models.list()
    assert (model.id, model.display_name, model.type) == (harness.MODEL_ID, harness.MODEL_ID, "model") and model.created_at.year >= 2024
    assert client.models.retrieve(harness.MODEL_ID) == model


def test_a_conversation_that_the_server_would_keep_is_refused(client):
    """By these details the client's runner of tools sends whole conversations (test_tool_loops.py)."""
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}):
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.beta.messages.create(model=harness.MODEL_ID, messages=HI, max_tokens=2, extra_body={"thread": thread})
        assert refused.value.body["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert client.messages.create(model=harness.MODEL_ID, messages=HI, max_tokens=1, extra_body={"thread": None}).usage.output_tokens == 1


def test_stop_sequences_and_a_long_max_tokens(client):
    answer = client.messages.create(model=harness.MODEL_ID, messages=HI, max_tokens=32_000, extra_body=COLD, stop_sequences=["."], metadata={"user_id": "u"})
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == "." and "." not in answer.content[0].text


def test_the_last_message_is_continued(client):
    began = client.messages.create(model=harness.MODEL_ID, messages=[*HI, {"role": "assistant", "content": "Once upon a time"}], max_tokens=12, extra_body=COLD)
    chat = post(client.base_url.port, "/v1/chat/completions", messages=[*HI, {"role": "assistant", "content": "Once upon a time"}], max_tokens=12, temperature=0,
                continue_final_message=True, add_generation_prompt=False).json()
    assert began.content[0].text == chat["choices"][0]["message"]["content"] != ""


def test_a_system_message_behind_the_first_one_counts_from_the_beginning(client):
    """As Claude Code sends what agents and skills there are."""
    def prompt(**fields):
        return client.messages.count_tokens(model=harness.MODEL_ID, **fields).input_tokens, client.messages.create(
            model=harness.MODEL_ID, max_tokens=16, extra_body=COLD, **fields).content[0].text
    told = {"role": "system", "content": [{"type": "text", "text": "The agents are Tom and Lily."}]}
    joined = prompt(system=[{"type": "text", "text": "Be brief."}, told["content"][0]], messages=HI)
    assert prompt(system="Be brief.", messages=[*HI, told]) == joined
    assert joined != prompt(system="Be brief.", messages=HI)
    assert prompt(messages=[*HI, told]) == prompt(system="The agents are Tom and Lily.", messages=HI)


def test_calls_of_tools_whole_and_streamed(tool_client):
    fields = {"model": harness.MODEL_ID, "tools": TOOL_FORMS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 300,
              "messages": [{"role": "user", "content": "Call."}], "extra_body": {"temperature": 1, "seed": 4, "logit_bias": NO_SPACES}}
    whole = tool_client.messages.create(**fields)
    [call] = whole.content
    assert call.type == "tool_use" and whole.stop_reason == "tool_use" and call.id.startswith("call_")
    check_arguments(call.name, json.dumps(call.input))
    with tool_client.messages.stream(**fields) as stream:
        types = [event.type for event in stream]
        [streamed] = stream.get_final_message().content
    assert streamed.input == call.input and streamed.name == call.name
    assert types[:2] == ["message_start", "content_block_start"] and types[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    named = tool_client.messages.create(**{**fields, "tool_choice": {"type": "tool", "name": "say"}})
    assert named.content[0].name == "say" and named.stop_reason == "tool_use"

    talk = [{"role": "user", "content": "Call."}, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, call.to_dict()]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "done"}], "is_error": False},
                                         {"type": "text", "text": "Go on."}]}]
    later = tool_client.messages.create(model=harness.MODEL_ID, messages=talk, tools=TOOL_FORMS, max_tokens=4, thinking={"type": "disabled"})
    counted = tool_client.messages.count_tokens(model=harness.MODEL_ID, messages=talk, tools=TOOL_FORMS)
    assert counted.input_tokens == later.usage.input_tokens + later.usage.cache_read_input_tokens
    assert tool_client.messages.create(model=harness.MODEL_ID, messages=talk, tools=TOOL_FORMS, tool_choice={"type": "none"}, max_tokens=4).content[0].type == "text"


@pytest.mark.parametrize(("fields", "says"), [
    ({"messages": None}, "'messages'"), ({"messages": []}, "'messages'"), ({"messages": [{"role": "system", "content": "x"}]}, "'system'"),
    ({"messages": [{"role": "ctx", "content": "x"}]}, "'messages[0].role'"), ({"messages": [{"role": "user"}]}, "'messages[0].content'"), ({"messages": [{"role": "user", "content": [{}]}]}, "'messages[0].content[0]'"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image'"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}]}]}, "'image'"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, "tool_use_id"),
    ({"messages": [*HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]}, "input"),
    ({"messages": [*HI, {"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, "'server_tool_use'"),
    ({"system": 5}, "'system'"), ({"system": [{"type": "image"}]}, "'image'"), ({"max_tokens": 0}, "'max_tokens'"), ({"max_tokens": "many"}, "'max_tokens'"),
    ({"temperature": 9}, "'temperature'"), ({"stop_sequences": [5]}, "'stop_sequences'"), ({"stop_sequences": "x"}, "'stop_sequences'"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "'web_search_20250305'"), ({"tools": [{"name": "f"}]}, "input_schema"),
    ({"tools": TOOL_FORMS, "tool_choice": {"type": "any"}}, "template takes no tools"), ({"tool_choice": {"type": "tool"}}, "tool_choice"), ({"thinking": {"type": "deep"}}, "thinking"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"), ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "'output_config.format'"),
], ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(port, fields, says, stream):
    assert says in assert_refused(post(port, ROUTE, **{"model": harness.MODEL_ID, "messages": HI, "max_tokens": 2, "stream": stream, **fields}), 400)


def test_errors_are_the_client_s_own_classes(client, port):
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="claude", messages=HI, max_tokens=2)
    assert unknown.value.body["error"]["type"] == "not_found_error" and unknown.value.request_id
    with pytest.raises(anthropic.BadRequestError) as long:
        client.messages.create(model=harness.MODEL_ID, messages=[{"role": "user", "content": "cat " * 3000}], max_tokens=2)
    assert "maximum context length" in long.value.message
    assert_refused(request(port, "GET", ROUTE), 405)
    assert_refused(request(port, "POST", "/messages/count_tokens", b"{", {"Content-Type": "application/json"}), 400)
    assert "not supported by this server yet" in assert_refused(post(port, "/v1/messages/batches", requests=[]), 400)
    assert post(port, "/messages", messages=HI, max_tokens=1).status == 200


def test_a_schema_is_kept_to(client):
    answer = client.messages.create(model=harness.MODEL_ID, messages=HI, max_tokens=200, extra_body={
        "temperature": 1, "seed": 3, "logit_bias": NO_SPACES, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": TOOL_FORMS[1]["input_schema"]}}})
    assert json.loads(answer.content[0].text)["word"] in ("hello", "bye")


@pytest.mark.process
def test_streams_say_the_same_when_a_decode_worker_dies():
    def ask(port, seed):
        body = post(port, ROUTE, messages=HI, temperature=1, max_tokens=300, stream=True, seed=seed).body.decode()
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        assert events[-1] == {"type": "message_stop"}, events[-1]
        return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta"), events[-2]["delta"]

    harness.check_same_when_a_decode_worker_dies(ask)
