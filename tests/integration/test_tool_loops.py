"""Whole loops of calls and results through the official clients, with a model whose answers are fixed. scripts/check-clients has the frameworks above them."""
import json

import anthropic
import openai
import pydantic
import pytest

import harness
import scripted_model
from scripted_model import call

ANSWER = "It is 18 degrees and sunny in Zürich – 湖 🌊."
SCRIPTS = {"get_weather": ["I look.\n" + call("get_weather", {"city": "Zürich"}), ANSWER],
           "agents__start": [call("agents__start", {"task": "weather"}), ANSWER],
           "person": ['{"name": "Jason", "age": 25}']}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
QUESTION = [{"role": "user", "content": "What is the weather in Zürich?"}]
RESULT = "Zürich: 18 degrees, sunny"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with harness.serve(*scripted_model.SERVE_FLAGS, model=scripted_model.make(tmp_path_factory.mktemp("scripted") / "model", SCRIPTS, context=4096)) as server:
        yield server.wait_ready().url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client


@pytest.mark.parametrize("fields", [{}, {"temperature": 2.0, "seed": 1}], ids=["plain", "hot"])
@pytest.mark.parametrize("strict", [False, True])
def test_chat_completions(client, fields, strict):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": strict}}]
    talk = list(QUESTION)
    for stream in (False, True):
        if stream:
            with client.chat.completions.stream(model="model", messages=talk, tools=tools, **fields) as events:
                for _ in events:
                    pass
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(model="model", messages=talk, tools=tools, **fields).choices[0].message
        [one] = message.tool_calls
        assert (message.content, one.function.name, json.loads(one.function.arguments)) == ("I look.", "get_weather", {"city": "Zürich"})
    talk += [message.model_dump(exclude_none=True, exclude={"parsed"}), {"role": "tool", "tool_call_id": one.id, "content": RESULT}]
    assert client.chat.completions.create(model="model", messages=talk, tools=tools, **fields).choices[0].message.content == ANSWER
    pieces = [choice.delta.content for chunk in client.chat.completions.create(model="model", messages=talk, tools=tools, stream=True, **fields) for choice in chunk.choices]
    assert "".join(piece or "" for piece in pieces) == ANSWER  # letters of several bytes come whole, however the tokens cut them


@pytest.mark.parametrize("kept", ["all", "strict"])
def test_a_call_that_has_begun_keeps_to_the_schema_of_its_tool(tmp_path, kept):
    """The model wants to call with a `town` in Paris."""
    model = scripted_model.make(tmp_path / "model", {"get_weather": [call("get_weather", {"town": "Paris"})]}, context=4096)
    schema = {"type": "object", "properties": {"city": {"enum": ["Zürich", "Bern"]}}, "required": ["city"], "additionalProperties": False}
    with harness.serve(*scripted_model.SERVE_FLAGS, "--set", f"gateway.calls_by_schema={kept}", model=model) as server:
        server.wait_ready()

        def arguments(parameters, **more):
            tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters, **more}}, {"type": "function", "function": {"name": "say"}}]
            answer = harness.post(server.port, "/v1/chat/completions", messages=QUESTION, tools=tools, parallel_tool_calls=False, temperature=0, max_tokens=600)
            assert answer.status == 200, answer.body
            [one] = answer.json()["choices"][0]["message"]["tool_calls"]
            assert one["function"]["name"] == "get_weather"
            return json.loads(one["function"]["arguments"])

        assert arguments(schema, strict=True)["city"] in ("Zürich", "Bern")
        assert arguments(schema) in (({"city": "Zürich"}, {"city": "Bern"}) if kept == "all" else ({"town": "Paris"},))
        assert arguments({**schema, "not": {}}) == {"town": "Paris"}  # what the library cannot do is left free, where nobody called it strict


@pytest.mark.parametrize("stream", [False, True])
def test_responses_with_tools_in_a_namespace_and_tools_that_nobody_runs(client, stream):
    """What Codex sends: functions, some of them in a namespace, and a search that OpenAI would do."""
    task = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
    tools = [{"type": "namespace", "name": "agents", "description": "Agents.", "tools": [{"type": "function", "name": "start", "parameters": task, "strict": False}]},
             {"type": "web_search", "external_web_access": True}]
    talk = list(QUESTION)
    fields = {"model": "model", "tools": tools, "parallel_tool_calls": False}
    if stream:
        events = list(client.responses.create(input=talk, stream=True, **fields))
        [added] = [event.item for event in events if event.type == "response.output_item.added"]
        assert (added.namespace, added.name) == ("agents", "start")
        answer = events[-1].response
    else:
        answer = client.responses.create(input=talk, **fields)
    [one] = answer.output
    assert (one.type, one.namespace, one.name, json.loads(one.arguments)) == ("function_call", "agents", "start", {"task": "weather"})
    assert [tool.type for tool in answer.tools] == ["namespace"]
    talk += [one.to_dict(), {"type": "function_call_output", "call_id": one.call_id, "output": RESULT}]
    assert client.responses.create(input=talk, **fields).output_text == ANSWER


def test_anthropic_s_runner_of_tools(url):
    asked = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return RESULT

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        final = client.beta.messages.tool_runner(model="model", max_tokens=500, messages=QUESTION, tools=[get_weather]).until_done()
        assert final.content[-1].text == ANSWER and asked == ["Zürich"]


def test_schemas_of_pydantic(client):
    class Person(pydantic.BaseModel):
        name: str
        age: int

    script = {"chat_template_kwargs": {"script": "person"}}
    person = Person(name="Jason", age=25)
    assert client.chat.completions.parse(model="model", messages=QUESTION, response_format=Person, extra_body=script).choices[0].message.parsed == person
    assert client.responses.parse(model="model", input=QUESTION, text_format=Person, extra_body=script).output_parsed == person
