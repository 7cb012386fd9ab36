"""Answers that keep to a form, from a model that knows nothing of it; judged by pydantic and re."""
import contextlib
import json
import os
import re
import signal

import openai
import pytest

import harness
import tools_model
from harness import assert_error, post
from tools_model import NO_SPACES, TOOLS, Pet, check_arguments

MESSAGES = [{"role": "user", "content": "Tell me about a cat."}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120, _strict_response_validation=True) as client:
        yield client


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": schema}}


def test_a_random_model_gives_what_the_schema_says(client):
    for seed in range(6):
        answer = client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=300, temperature=1, seed=seed, n=2, logit_bias=NO_SPACES,
                                                response_format=schema_format(Pet.model_json_schema()))
        for choice in answer.choices:
            assert choice.finish_reason == "stop", choice
            Pet.model_validate_json(choice.message.content)


def test_parse_of_the_official_client(client):
    answer = client.chat.completions.parse(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=300, temperature=1, seed=3, logit_bias=NO_SPACES,
                                            response_format=Pet)
    assert answer.choices[0].message.parsed.kind in ("cat", "dog", "bird")


def test_streamed_and_whole_are_the_same_bytes(client):
    fields = {"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 300, "temperature": 1, "seed": 11,
              "response_format": schema_format(Pet.model_json_schema())}
    whole = client.chat.completions.create(**fields).choices[0].message.content
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**fields, stream=True) if chunk.choices)
    assert streamed == whole


@pytest.mark.parametrize(("fields", "pattern"), [
    ({"structured_outputs": {"regex": "[0-9]{3}-[0-9]{4}"}}, "[0-9]{3}-[0-9]{4}"),
    ({"guided_regex": "(red|green)( [a-z]{3}){2}"}, "(red|green)( [a-z]{3}){2}"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    ({"guided_choice": ["a \"b\"", "c"]}, "a \"b\"|c"),
    ({"guided_grammar": "start: \"x\" n\nn: /[0-9]{2}/"}, "x[0-9]{2}"),
    ({"structured_outputs": {"grammar": "start: (\"ab\" | \"cd\"){2,3}"}}, "((ab)|(cd)){2,3}"),
    ({"guided_json": {"type": "boolean"}}, r"\s*(true|false)\s*"),
    ({"json_schema": {"enum": [1, 2]}}, r"\s*(1|2)\s*"),
    ({"structured_outputs": {"json": {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 3}, "disable_any_whitespace": True}}, r"\[1(,1){1,2}\]"),
    ({"guided_json": '{"type": "array", "prefixItems": [{"const": "a"}], "items": false, "minItems": 1}', "structured_outputs": {"disable_any_whitespace": True}}, r'\["a"\]'),
], ids=lambda value: str(value)[:30])
def test_every_name_and_kind(port, fields, pattern):
    for path, prompt in (("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "Once"})):
        answer = post(port, path, **prompt, max_tokens=100, temperature=1, seed=5, **fields)
        assert answer.status == 200, answer.body
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert re.fullmatch(pattern, text), text
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(("fields", "param", "names"), [
    ({"response_format": schema_format({"type": "array", "uniqueItems": True})}, "response_format", "uniqueItems"),
    ({"response_format": schema_format({"not": {}})}, "response_format", "not"),
    ({"response_format": schema_format({"type": "hiccup"})}, "response_format", "hiccup"),
    ({"response_format": {"type": "json_object", "schema": {"type": 123}}}, "response_format", ""),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format", "type"),
    ({"guided_regex": "("}, "guided_regex", ""),
    ({"guided_regex": "(?=a)a"}, "guided_regex", ""),
    ({"guided_choice": []}, "guided_choice", ""),
    ({"guided_json": "{"}, "guided_json", ""),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "guided_regex"),
    ({"guided_regex": "a", "min_tokens": 3}, "min_tokens", "guided_regex"),
    ({"guided_regex": "(" * 50_000 + ")" * 50_000}, "guided_regex", ""),
    ({"guided_json": {"type": "array", "items": {"type": "string", "pattern": "(a{1,1000}){1,1000}(b{1,1000}){1,1000}" * 3}}}, None, ""),
], ids=lambda value: str(value)[:30])
def test_what_cannot_be_done_is_refused_by_name(port, fields, param, names):
    answer = post(port, "/v1/chat/completions", messages=MESSAGES, max_tokens=5, **fields)
    if param is None:  # heavy, and may pass: but it ends
        assert answer.status in (200, 400)
    else:
        error = assert_error(answer, 400)
        assert error["param"] == param and names in error["message"], error
    assert post(port, "/v1/completions", prompt="Once", max_tokens=2).status == 200


def forced_tokens(port):
    return sum(value for (name, _), value in harness.metrics(port).items() if name == "sluice_worker_forced_tokens_total")


SENTENCE = "The little girl named Lily went to the park with her mom."
SAYS_SENTENCE = {"prompt": "Once upon a time", "max_tokens": 100, "temperature": 1, "seed": 5, "structured_outputs": {"regex": SENTENCE.replace(".", "[.]")}}
# Without spaces most of it is no choice: braces, names, the rest of a word.
PETS = {"messages": MESSAGES, "max_tokens": 400, "temperature": 1,
        "structured_outputs": {"json": {"type": "array", "items": Pet.model_json_schema(), "minItems": 2, "maxItems": 2}, "disable_any_whitespace": True}}


def told(port, fields):
    """Text and token ids of a streamed completion, why it ended, and its usage."""
    text, ids, reason, usage = "", [], None, None
    for chunk in harness.stream_chunks(port, "/v1/completions", **fields, return_token_ids=True, stream_options={"include_usage": True}):
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            text += choice["text"]
            ids += choice.get("token_ids") or []
            reason = choice["finish_reason"] or reason
    return text, ids, reason, usage


def test_what_leaves_no_choice_comes_in_few_steps(server):
    before = forced_tokens(server.port)
    text, ids, reason, usage = told(server.port, SAYS_SENTENCE)
    assert (text, reason) == (SENTENCE, "stop")
    assert usage["completion_tokens"] in (len(ids), len(ids) + 1)  # the end is a token, too
    forced = forced_tokens(server.port) - before
    assert forced > len(ids) / 2

    # Probabilities are those of single tokens: each has its step, and the answer is the same.
    answer = post(server.port, "/v1/completions", **SAYS_SENTENCE, logprobs=1).json()["choices"][0]
    assert answer["text"] == SENTENCE and len(answer["logprobs"]["tokens"]) >= len(ids)
    assert forced_tokens(server.port) - before == forced


def test_an_answer_may_end_in_the_middle_of_what_has_to_come(server):
    _, ids, _, _ = told(server.port, SAYS_SENTENCE)
    for most in range(1, 6):
        before = forced_tokens(server.port)
        text, some, reason, usage = told(server.port, {**SAYS_SENTENCE, "max_tokens": most})
        assert SENTENCE.startswith(text) and some == ids[:most] and reason == "length" and usage["completion_tokens"] == most
        assert forced_tokens(server.port) - before == most - 1
    text, _, reason, _ = told(server.port, {**SAYS_SENTENCE, "stop": ["named"]})
    assert (text, reason) == ("The little girl ", "stop")
    text, some, reason, _ = told(server.port, {**SAYS_SENTENCE, "stop_token_ids": [ids[4]]})
    assert SENTENCE.startswith(text) and some == ids[:ids.index(ids[4])] and reason == "stop"


def test_answers_are_the_same_however_many_tokens_come_at_once():
    answers = []
    for most in (32, 5, 1):
        with harness.serve("--set", f"worker.forced_tokens_max={most}") as server:
            server.wait_ready()
            fields = [{**PETS, "seed": seed} for seed in range(4)]
            fields += [{**fields[0], "n": 3}, {**fields[0], "frequency_penalty": 1.5, "repetition_penalty": 1.3}, {**fields[0], "logit_bias": {"300": -100}}]
            answers.append([[choice["message"]["content"] for choice in post(server.port, "/v1/chat/completions", **one).json()["choices"]] for one in fields])
            assert (forced_tokens(server.port) > 0) == (most > 1)
            assert told(server.port, SAYS_SENTENCE)[0] == SENTENCE
    assert answers[1] == answers[0] and answers[2] == answers[0]
    for text in sum(answers[0], []):
        assert len([Pet.model_validate(pet) for pet in json.loads(text)]) == 2, text


def test_json_that_closes_at_the_limit_is_whole(port):
    fields = {"prompt": "Once", "temperature": 1, "seed": 3, "structured_outputs": PETS["structured_outputs"]}
    text, ids, reason, _ = told(port, {**fields, "max_tokens": 400})
    assert reason == "stop" and len([Pet.model_validate(pet) for pet in json.loads(text)]) == 2
    closed = next(count for count in range(len(ids), 0, -1) if told(port, {**fields, "max_tokens": count - 1})[0] != text)
    assert told(port, {**fields, "max_tokens": closed})[::2] == (text, "stop")
    cut, _, reason, _ = told(port, {**fields, "max_tokens": closed - 1})
    assert reason == "length" and text.startswith(cut)


def test_tokens_one_by_one():
    with harness.serve("--set", "worker.forced_tokens_max=0") as server:
        server.wait_ready()
        assert told(server.port, SAYS_SENTENCE)[0] == SENTENCE
        [choice] = post(server.port, "/v1/chat/completions", **PETS, seed=1).json()["choices"]
        assert len([Pet.model_validate(pet) for pet in json.loads(choice["message"]["content"])]) == 2
        assert forced_tokens(server.port) == 0


def test_answers_go_on_when_the_workers_tokenizer_dies():
    with harness.serve() as server:
        server.wait_ready()
        assert post(server.port, "/v1/chat/completions", messages=MESSAGES, max_tokens=1).status == 200
        others = set(harness.text_processes(server.pid))  # of the gateway, which has to have one
        assert told(server.port, SAYS_SENTENCE)[0] == SENTENCE
        asked = set(harness.text_processes(server.pid)) - others
        assert asked  # by the workers, how the model cuts what is forced
        for pid in asked:
            with contextlib.suppress(ProcessLookupError):  # it went with another one
                os.kill(pid, signal.SIGKILL)
        for words in ("So Lily said", "and Tom said", "and all of them said"):  # that nobody has asked it for
            assert told(server.port, {**SAYS_SENTENCE, "structured_outputs": {"regex": words}})[0] == words
        answer = post(server.port, "/v1/chat/completions", **PETS, seed=1)
        assert answer.status == 200, answer.body
        assert len([Pet.model_validate(pet) for pet in json.loads(answer.json()["choices"][0]["message"]["content"])]) == 2


@pytest.mark.parametrize("settings", [[], ["worker.forced_tokens_max=0"]], ids=["runs", "one-by-one"])
def test_structured_streams_survive_the_death_of_a_worker(settings):
    def ask(port, seed):
        return post(port, "/v1/chat/completions", **PETS, seed=seed).json()["choices"][0]["message"]["content"]

    harness.check_same_when_a_decode_worker_dies(ask, 8, settings=settings)


@pytest.fixture
def tool_client(tool_server):
    with openai.OpenAI(base_url=tool_server.url + "/v1", api_key="none", max_retries=0, timeout=120, _strict_response_validation=True) as client:
        yield client


def check_call(call):
    check_arguments(call.function.name, call.function.arguments)
    assert call.id.startswith("call_") and call.type == "function"


def test_a_call_that_is_required_is_one(tool_client):
    fields = {"model": harness.MODEL_ID, "messages": MESSAGES, "tools": TOOLS, "temperature": 1, "max_tokens": 300, "parallel_tool_calls": False,
              "logit_bias": NO_SPACES}
    for seed in range(4):
        choice = tool_client.chat.completions.create(**fields, tool_choice="required", seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert len(choice.message.tool_calls) == 1
        check_call(choice.message.tool_calls[0])


@pytest.mark.parametrize("form", ["llama3", "mistral"])
def test_required_calls_in_other_forms(tmp_path, form):
    fields = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "temperature": 1, "max_tokens": 300,
              "logit_bias": NO_SPACES}
    with harness.serve("--set", f"gateway.tool_format={form}", model=tools_model.make(tmp_path)) as server:
        server.wait_ready()
        for seed in range(3):
            choice = post(server.port, "/v1/chat/completions", **fields, seed=seed).json()["choices"][0]
            assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
            [call] = choice["message"]["tool_calls"]
            arguments = call["function"]["arguments"]
            assert Pet.model_validate_json(arguments) if call["function"]["name"] == "pet" else json.loads(arguments)["word"] in ("hello", "bye")
            assert len(call["id"]) == 9 or call["id"].startswith("call_"), call


def test_a_named_call_is_that_one_and_streams_as_the_client_wants_it(tool_client):
    fields = {"model": harness.MODEL_ID, "messages": MESSAGES, "tools": TOOLS, "temperature": 1, "max_tokens": 300, "seed": 2, "logit_bias": NO_SPACES,
              "tool_choice": {"type": "function", "function": {"name": "say"}}}
    whole = tool_client.chat.completions.create(**fields).choices[0]
    assert whole.finish_reason == "stop" and whole.message.tool_calls[0].function.name == "say"
    deltas = []
    for chunk in tool_client.chat.completions.create(**fields, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or [] if chunk.choices else []
        assert not chunk.choices or not chunk.choices[0].delta.content
    assert [delta.function.name for delta in deltas] == ["say"] + [None] * (len(deltas) - 1)
    assert deltas[0].id and not any(delta.id for delta in deltas[1:])
    assert "".join(delta.function.arguments for delta in deltas) == whole.message.tool_calls[0].function.arguments


def test_the_stream_helper_puts_parallel_calls_together(tool_client):
    most = 0
    for seed in range(8):  # a line break, and with it another call, is as likely as what ends a text (1, 2)
        with tool_client.chat.completions.stream(model=harness.MODEL_ID, messages=MESSAGES, tools=TOOLS[1:], tool_choice="required", temperature=1,
                                                 seed=seed, max_tokens=440, logit_bias={**NO_SPACES, "1": -100, "2": -100}) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
        assert len({call.id for call in calls}) == len(calls) > 0
        for call in calls:
            check_call(call)
        most = max(most, len(calls))
    assert most > 1


def test_wrong_tools_are_refused(tool_client):
    fields = {"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 4}
    for more, param in (({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
                        ({"tool_choice": "required"}, "tool_choice"), ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice"),
                        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}], "tool_choice": "required"}, "tools")):
        with pytest.raises(openai.BadRequestError) as caught:
            tool_client.chat.completions.create(**fields, **more)
        assert caught.value.param == param
    strict = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "not": {}}}}]
    with pytest.raises(openai.BadRequestError) as caught:
        tool_client.chat.completions.create(**fields, tools=strict)
    assert caught.value.param == "tools" and "not" in caught.value.message
    strict[0]["function"]["parameters"] = TOOLS[1]["function"]["parameters"]
    assert tool_client.chat.completions.create(**fields, tools=strict).choices[0].message.content  # the grammar leaves text free
    answer = tool_client.chat.completions.create(**fields, tools=TOOLS).choices[0]
    assert answer.message.tool_calls is None and answer.message.content
