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
           "apply_patch": [call("apply_patch", {"input": "*** Begin Patch\n+\"a\" – 湖\n*** End Patch"}), ANSWER],
           "measure": [call("measure", {"city": "Zürich"}), '{"name": "Zürich <tool_call>", "degrees": 18}'],
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


@pytest.mark.parametrize("answer", ['{"name": "get_weather", "arguments": {"town": "Paris"}}', '```json\n{"name": "get_weather", "arguments": {"town": "Paris"}}\n```'], ids=["bare", "fenced"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_its_marks_is_one_where_it_has_the_name_of_a_tool(tmp_path, answer, stream):
    """So does Qwen2.5-Coder write them."""
    model = scripted_model.make(tmp_path / "model", {"get_weather": [answer], "other": [answer.replace("get_weather", "Lily")]}, context=4096)
    with harness.serve(*scripted_model.SERVE_FLAGS, model=model) as server, openai.OpenAI(
            base_url=server.wait_ready().url + "/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        def ask(parameters=None, **fields):
            tool = {"type": "function", "function": {"name": "get_weather", **({"parameters": parameters} if parameters else {"parameters": {"type": "object"}})}}
            fields = {"model": "model", "messages": QUESTION, "tools": [tool], "parallel_tool_calls": False, "temperature": 0, "max_tokens": 600, **fields}
            if not stream:
                return client.chat.completions.create(**fields).choices[0]
            with client.chat.completions.stream(**fields) as events:
                for _ in events:
                    pass
                return events.get_final_completion().choices[0]

        choice = ask()
        [one] = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content or "", one.function.name, json.loads(one.function.arguments)) == ("tool_calls", "", "get_weather", {"town": "Paris"})
        schema = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"], "additionalProperties": False}
        assert json.loads(ask(schema).message.tool_calls[0].function.arguments) == {"city": "Bern"}
        text = ask(extra_body={"chat_template_kwargs": {"script": "other"}})
        assert (text.finish_reason, text.message.content, text.message.tool_calls or []) == ("stop", answer.replace("get_weather", "Lily"), [])


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


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_takes_a_text(client, stream):
    """As Codex has its patches."""
    tools = [{"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /(.|\\n)+/"}},
             {"type": "function", "name": "unused", "parameters": PARAMETERS, "strict": False}]
    talk = list(QUESTION)
    if stream:
        events = list(client.responses.create(model="model", input=talk, tools=tools, stream=True))
        assert "".join(event.delta for event in events if event.type == "response.custom_tool_call_input.delta") == "*** Begin Patch\n+\"a\" – 湖\n*** End Patch"
        answer = events[-1].response
    else:
        answer = client.responses.create(model="model", input=talk, tools=tools)
    [one] = answer.output
    assert (one.type, one.name, one.input) == ("custom_tool_call", "apply_patch", "*** Begin Patch\n+\"a\" – 湖\n*** End Patch")
    talk += [one.to_dict(), {"type": "custom_tool_call_output", "call_id": one.call_id, "output": "done"}]
    assert client.responses.create(model="model", input=talk, tools=tools).output_text == ANSWER


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


class Report(pydantic.BaseModel):
    name: str
    degrees: int


REPORT = '{"name": "Zürich <tool_call>", "degrees": 18}'


@pytest.mark.parametrize("stream", [False, True])
def test_a_loop_whose_last_answer_is_of_a_schema(client, url, stream):
    """As the OpenAI Agents SDK and others send tools and the form of the last answer with every request."""
    report = Report(name="Zürich <tool_call>", degrees=18)
    tool = {"type": "function", "function": {"name": "measure", "parameters": PARAMETERS, "strict": True}}
    fields = {"model": "model", "tools": [tool], "response_format": Report}

    def ask(talk):
        if not stream:
            return client.chat.completions.parse(messages=talk, **fields).choices[0]
        with client.chat.completions.stream(messages=talk, **fields) as events:
            for _ in events:
                pass
            return events.get_final_completion().choices[0]

    first = ask(QUESTION)
    [one] = first.message.tool_calls
    assert (first.finish_reason, one.function.name, json.loads(one.function.arguments), first.message.content or "") == ("tool_calls", "measure", {"city": "Zürich"}, "")
    talk = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": one.id, "type": "function", "function": {"name": "measure", "arguments": one.function.arguments}}]},
            {"role": "tool", "tool_call_id": one.id, "content": RESULT}]
    last = ask(talk)
    assert (last.finish_reason, last.message.parsed, last.message.content, last.message.tool_calls or []) == ("stop", report, REPORT, [])
    required = client.chat.completions.create(model="model", messages=talk, tools=[tool], tool_choice="required", response_format={"type": "json_object"}, max_tokens=400, temperature=0)
    assert required.choices[0].message.tool_calls[0].function.name == "measure"

    flat = {"type": "function", "name": "measure", "parameters": PARAMETERS, "strict": True}
    answer = client.responses.parse(model="model", input=QUESTION, tools=[flat], text_format=Report)
    [called] = answer.output
    assert called.type == "function_call" and json.loads(called.arguments) == {"city": "Zürich"}
    items = [*QUESTION, {"type": "function_call", "call_id": called.call_id, "name": "measure", "arguments": called.arguments}, {"type": "function_call_output", "call_id": called.call_id, "output": RESULT}]
    assert client.responses.parse(model="model", input=items, tools=[flat], text_format=Report).output_parsed == report

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as other:
        schema = {"output_config": {"format": {"type": "json_schema", "schema": {**Report.model_json_schema(), "additionalProperties": False}}}}
        asked = {"model": "model", "max_tokens": 300, "tools": [{"name": "measure", "input_schema": PARAMETERS}], "extra_body": schema}
        [used] = other.messages.create(messages=QUESTION, **asked).content
        assert (used.type, used.input) == ("tool_use", {"city": "Zürich"})
        turns = [*QUESTION, {"role": "assistant", "content": [used.to_dict()]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used.id, "content": RESULT}]}]
        assert other.messages.create(messages=turns, **asked).content[0].text == REPORT


@pytest.mark.parametrize("form", ["llama3", "json", "hermes"])
def test_a_call_without_marks_and_an_answer_of_a_schema_begin_alike(tmp_path, form):
    """Both are objects whose first member may be a name."""
    arguments = "parameters" if form == "llama3" else "arguments"
    scripts = {"measure": [json.dumps({"name": "measure", arguments: {"city": "Bern"}}), '{"name": "measure of Bern", "degrees": 18}'], "wrong": [json.dumps({"name": "measure", arguments: {"town": "Bern"}})]}
    model = scripted_model.make(tmp_path / "model", scripts, context=4096)
    tool = {"type": "function", "function": {"name": "measure", "parameters": {**PARAMETERS, "properties": {"city": {"enum": ["Bern"]}}}, "strict": True}}
    with harness.serve(*scripted_model.SERVE_FLAGS, "--set", f"gateway.tool_format={form}", model=model) as server, openai.OpenAI(
            base_url=server.wait_ready().url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        def ask(talk, **fields):
            with client.chat.completions.stream(model="model", messages=talk, tools=[tool], response_format=Report, temperature=0, max_tokens=600, **fields) as events:
                for _ in events:
                    pass
                return events.get_final_completion().choices[0]

        [one] = ask(QUESTION).message.tool_calls
        assert (one.function.name, json.loads(one.function.arguments)) == ("measure", {"city": "Bern"})
        [other] = ask(QUESTION, parallel_tool_calls=False, extra_body={"chat_template_kwargs": {"script": "wrong"}}).message.tool_calls
        assert json.loads(other.function.arguments) == {"city": "Bern"}  # a call that has begun keeps to its schema
        talk = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": one.id, "type": "function", "function": {"name": "measure", "arguments": one.function.arguments}}]},
                {"role": "tool", "tool_call_id": one.id, "content": RESULT}]
        last = ask(talk)
        assert (last.finish_reason, last.message.parsed, last.message.tool_calls or []) == ("stop", Report(name="measure of Bern", degrees=18), [])


def test_schemas_of_pydantic(client):
    class Person(pydantic.BaseModel):
        name: str
        age: int

    script = {"chat_template_kwargs": {"script": "person"}}
    person = Person(name="Jason", age=25)
    assert client.chat.completions.parse(model="model", messages=QUESTION, response_format=Person, extra_body=script).choices[0].message.parsed == person
    assert client.responses.parse(model="model", input=QUESTION, text_format=Person, extra_body=script).output_parsed == person
