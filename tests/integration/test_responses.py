"""/v1/responses through the official Python client, with its strict validation as the judge of every object and event."""
import json

import openai
import pytest

import harness
from harness import assert_error, post, request
from tools_model import NO_SPACES, TOOLS, check_arguments

ROUTE = "/v1/responses"
TOOL_ITEMS = [{"type": "function", **tool["function"]} for tool in TOOLS]
TALK = [{"role": "user", "content": "Tell me about a cat."}, {"role": "assistant", "content": [{"type": "output_text", "text": "It is Tom.", "annotations": []}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And a "}, {"type": "input_text", "text": "dog?"}]}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client


@pytest.fixture(scope="module")
def tool_client(tool_server):
    with openai.OpenAI(base_url=tool_server.url + "/v1", api_key="none", max_retries=0, timeout=120, _strict_response_validation=True) as client:
        yield client


def without_ids(text):
    """Answers to the same request have ids and times of their own."""
    if isinstance(text, dict):
        return {key: without_ids(value) for key, value in text.items() if key not in ("id", "item_id", "call_id", "created_at")}
    return [without_ids(one) for one in text] if isinstance(text, list) else text


def test_text_whole_and_streamed_say_the_same(client):
    fields = {"model": harness.MODEL_ID, "input": TALK, "instructions": "Be brief.", "max_output_tokens": 24, "temperature": 0, "metadata": {"who": "me"}}
    whole = client.responses.create(**fields)
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert (whole.object, whole.model, whole.instructions, whole.metadata, whole.store) == ("response", harness.MODEL_ID, "Be brief.", {"who": "me"}, False)
    assert whole.id.startswith("resp_") and whole.output[0].id.startswith("msg_") and whole.output[0].status == "incomplete"
    assert whole.usage.output_tokens == 24 and whole.usage.total_tokens == whole.usage.input_tokens + 24
    chat = client.chat.completions.create(model=harness.MODEL_ID, max_tokens=24, temperature=0,
                                          messages=[{"role": "system", "content": "Be brief."}, TALK[0], {"role": "assistant", "content": "It is Tom."},
                                                    {"role": "user", "content": [{"type": "text", "text": "And a "}, {"type": "text", "text": "dog?"}]}])
    assert whole.output_text == chat.choices[0].message.content != ""

    events = list(client.responses.create(**fields, stream=True))
    types = [event.type for event in events]
    assert types[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert types[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"]
    assert set(types[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events[4:-4]) == events[-4].text == whole.output_text
    assert len({event.response.id for event in (events[0], events[1], events[-1])}) == 1
    assert {event.item_id for event in events[3:-2]} == {events[2].item.id}
    last = events[-1].response
    assert last.usage == whole.usage.model_copy(update={"input_tokens_details": last.usage.input_tokens_details})
    assert without_ids(json.loads(last.model_dump_json(exclude={"usage"}))) == without_ids(json.loads(whole.model_dump_json(exclude={"usage"})))


def test_the_stream_helper_and_an_end_by_itself(client):
    fields = {"model": harness.MODEL_ID, "input": "Tell me about a cat.", "temperature": 0}
    with client.responses.stream(**fields, extra_body={"stop": ["."]}) as stream:
        final = [event for event in stream if event.type == "response.completed"][-1].response
    assert final.status == "completed" and final.incomplete_details is None and final.output_text
    assert client.responses.create(**fields, extra_body={"stop": ["."]}).output_text == final.output_text
    raw = client.responses.with_raw_response.create(**fields, max_output_tokens=1, extra_headers={"X-Request-Id": "mine"})
    assert raw.headers["x-request-id"] == "mine"


def test_a_schema_is_kept_to(client):
    answer = client.responses.create(model=harness.MODEL_ID, input="A pet?", temperature=1, max_output_tokens=200, extra_body={"seed": 3, "logit_bias": NO_SPACES},
                                     text={"format": {"type": "json_schema", "name": "word", "strict": True,
                                                      "schema": TOOL_ITEMS[1]["parameters"]}, "verbosity": "low"})
    assert json.loads(answer.output_text)["word"] in ("hello", "bye")
    assert answer.text.format.type == "json_schema" and answer.status == "completed"


def test_calls_of_tools_whole_and_streamed(tool_client):
    fields = {"model": harness.MODEL_ID, "tools": TOOL_ITEMS, "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 300, "temperature": 1,
              "reasoning": {"effort": "low"}, "extra_body": {"seed": 4, "logit_bias": NO_SPACES}}
    whole = tool_client.responses.create(**fields, input="Call.")
    [call] = whole.output
    assert call.type == "function_call" and call.call_id.startswith("call_") and call.id.startswith("fc_") and whole.status == "completed"
    check_arguments(call.name, call.arguments)
    assert [tool.name for tool in whole.tools] == [tool["name"] for tool in TOOL_ITEMS] and whole.tool_choice == "required"

    with tool_client.responses.stream(**fields, input="Call.") as stream:
        events = list(stream)
        assert without_ids(stream.get_final_response().output[0].to_dict()).items() >= without_ids(call.to_dict()).items()
    types = [event.type for event in events]
    assert types[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert types[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    assert "".join(event.delta for event in events[3:-3]) == events[-3].arguments == call.arguments

    # The loop goes on: the call and what came of it are items of the next request.
    talk = [{"role": "user", "content": "Call."}, *(item.to_dict() for item in whole.output), {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    later = tool_client.responses.create(model=harness.MODEL_ID, input=talk, tools=TOOL_ITEMS, max_output_tokens=4)
    assert later.usage.input_tokens > whole.usage.input_tokens
    counted = post(int(tool_client.base_url.port), "/v1/responses/input_tokens", input=talk, tools=TOOL_ITEMS).json()
    assert counted == {"object": "response.input_tokens", "input_tokens": later.usage.input_tokens}
    named = tool_client.responses.create(**{**fields, "tool_choice": {"type": "function", "name": "say"}}, input="Call.")
    assert named.output[0].name == "say"


def test_answers_that_came_back_are_read(port):
    talk = [{"role": "user", "content": "Hi"}, {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "content": [{"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "4"}]}]
    for path in ("/v1/responses", "/responses"):
        answer = post(port, path, input=talk, max_output_tokens=2, include=["reasoning.encrypted_content"], store=True, truncation="auto",
                      prompt_cache_key="k", service_tier="auto", user="u", stream_options={"include_obfuscation": False})
        assert answer.status == 200 and answer.json()["store"] is False, answer.body


@pytest.mark.parametrize(("fields", "param", "says"), [
    ({"input": None}, "input", "missing"), ({"input": []}, "input", "at least one"), ({"input": 5}, "input", "string or a list"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "stores no responses"), ({"conversation": "conv_1"}, "conversation", "stores no responses"),
    ({"background": True}, "background", "stores no responses"), ({"prompt": {"id": "p"}}, "prompt", "stores no prompts"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", "'web_search'"), ({"tools": [TOOL_ITEMS[0], {"type": "local_shell"}]}, "tools[1]", "'local_shell'"),
    ({"tools": [{"type": "custom"}]}, "tools[0]", "'name'"), ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar", "syntax": "ebnf"}}]}, "tools[0].format.type", "lark"),
    ({"tools": TOOL_ITEMS, "tool_choice": {"type": "file_search"}}, "tool_choice", "function"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[0].content[0]", "'input_image'"),
    ({"input": [{"role": "nobody", "content": "x"}]}, "input[0].role", "user"), ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "'web_search_call'"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "stores no items"), ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "missing"),
    ({"input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "c"}]}, "input[1].output", "missing"),
    ({"instructions": [{"role": "user", "content": "x"}]}, "instructions", "string"), ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "missing"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format", "not"), ({"max_output_tokens": 0}, "max_output_tokens", "integer"),
    ({"max_output_tokens": 10_000}, "input", "maximum context length"), ({"temperature": 9}, "temperature", "number"), ({"truncation": "some"}, "truncation", "auto"),
    ({"metadata": {"a": 1}}, "metadata", "strings"), ({"reasoning": {"effort": 5}}, "reasoning.effort", "string"), ({"include": ["message.output_text.logprobs"]}, "include", "logprobs"),
], ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(port, fields, param, says, stream):
    error = assert_error(post(port, ROUTE, **{"input": "Hi", "max_output_tokens": 2, "stream": stream, **fields}), 400)
    assert error["param"] == param and says in error["message"], error


def test_stored_responses_do_not_exist(port, client):
    for method, path in (("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"), ("POST", "/responses/resp_1/cancel"), ("GET", "/v1/responses/resp_1/input_items")):
        assert "stores no responses" in assert_error(request(port, method, path), 404, code="response_not_found")["message"]
    assert_error(request(port, "GET", ROUTE), 405)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="gpt-9", input="Hi")
    assert unknown.value.code == "model_not_found"


def test_metrics_name_the_endpoint(port):
    assert post(port, ROUTE, input="Hi", max_output_tokens=1).status == 200
    assert post(port, "/v1/responses/input_tokens", input="Hi").status == 200
    assert request(port, "GET", "/v1/responses/resp_1").status == 404
    page = request(port, "GET", "/metrics").body.decode()
    for code, endpoint, model in (("200", "responses", harness.MODEL_ID), ("200", "input_tokens", harness.MODEL_ID), ("404", "responses", "none")):
        assert f'code="{code}",endpoint="{endpoint}",model="{model}",stream="false"' in page


@pytest.mark.process
def test_streams_say_the_same_when_a_decode_worker_dies():
    fields = {"model": harness.MODEL_ID, "input": "Tell me about a cat.", "temperature": 1, "max_output_tokens": 300, "stream": True}

    def ask(port, seed):
        events = [json.loads(line[6:]) for line in post(port, ROUTE, **fields, seed=seed).body.decode().splitlines() if line.startswith("data: ")]
        last = events[-1]
        return "".join(event["delta"] for event in events if "delta" in event), last["type"], without_ids(last["response"]["output"])

    told = harness.check_same_when_a_decode_worker_dies(ask)
    assert all(kind in ("response.completed", "response.incomplete") for _, kind, _ in told)
