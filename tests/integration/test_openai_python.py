"""The official Python client, with its strict validation of every answer as the judge of our forms."""
import asyncio

import openai
import pytest

import harness

MESSAGES = [{"role": "user", "content": "Tell me about a cat."}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == [harness.MODEL_ID]
    assert client.models.retrieve(harness.MODEL_ID).id == harness.MODEL_ID


def test_chat_whole_and_streamed_say_the_same(client):
    fields = {"model": harness.MODEL_ID, "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**fields)
    assert whole.usage.completion_tokens > 0
    assert whole.choices[0].message.role == "assistant"
    text, usage, reasons = "", None, []
    for chunk in client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert usage == whole.usage.model_copy(update={"prompt_tokens_details": usage.prompt_tokens_details})


def test_the_stream_helper_puts_the_answer_together(client):
    # The helper raises on finish_reason "length" (it parses), so the answer ends at a stop string.
    with client.chat.completions.stream(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=200, n=2, temperature=0, stop=["."]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.index for choice in final.choices] == [0, 1]
    assert all(choice.message.role == "assistant" and choice.finish_reason for choice in final.choices)


def test_completions_whole_and_streamed_say_the_published_text(client):
    case = harness.golden_cases()[1]
    fields = {"model": harness.MODEL_ID, "prompt": case["prompt"], "max_tokens": len(case["output_ids"]), "temperature": 0}
    assert case["prompt"] + client.completions.create(**fields).choices[0].text == case["output_text"]
    # Its form of a completion knows no chunks: finish_reason null, which OpenAI sends too, fails the strict validation.
    lenient = client.copy(_extra_kwargs={"_strict_response_validation": False})
    streamed = "".join(chunk.choices[0].text for chunk in lenient.completions.create(**fields, stream=True) if chunk.choices)
    assert case["prompt"] + streamed == case["output_text"]


def test_stop_and_logprobs(client):
    answer = client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=50, temperature=0, stop=["."], logprobs=True, top_logprobs=2)
    assert "." not in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content)


def test_errors_are_the_client_s_own_classes(client):
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert not_found.value.code == "model_not_found"
    assert not_found.value.request_id
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=harness.MODEL_ID, prompt="cat " * 3000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES,
                                       tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], tool_choice="required")
    assert "tools" in tools.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES, temperature=-1, stream=True)


def test_what_is_not_built_yet_is_a_bad_request_and_no_missing_route(client):
    for call in (lambda: client.moderations.create(input="Hi"),
                 lambda: client.images.generate(prompt="a cat"),
                 lambda: client.chat.completions.retrieve("chatcmpl-1")):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert "is not supported by this server yet" in refused.value.message
    for call in (lambda: client.files.list(), lambda: client.batches.list()):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert "batch.file" in refused.value.message


def test_tools_that_shall_not_be_called_do_no_harm(client):
    answer = client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=2, tool_choice="none",
                                            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
    assert answer.choices[0].message.tool_calls is None


def test_the_raw_answer_has_its_request_id(client):
    raw = client.chat.completions.with_raw_response.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=1,
                                                           extra_headers={"X-Request-Id": "from-the-test"})
    assert raw.headers["x-request-id"] == "from-the-test"
    assert raw.parse()._request_id == "from-the-test"


def test_many_asynchronous_streams_at_once(server):
    async def one(client, seed):
        stream = await client.chat.completions.create(model=harness.MODEL_ID, messages=MESSAGES, max_tokens=20, temperature=1, seed=seed, stream=True)
        return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(one(client, seed % 5) for seed in range(30)))

    texts = asyncio.run(all_of_them())
    for seed in range(5):
        assert len(set(texts[seed::5])) == 1  # the same seed, the same text, whatever the company
