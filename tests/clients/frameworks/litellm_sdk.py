"""LiteLLM as a library: loops over openai/ and anthropic/, streams put together by it, responses, embeddings, its classes of errors."""
import json

import litellm
from common import ANSWER, KEY, MODEL, QUESTION, URL, V1, Weather, check

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.",
                                           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]


def loop(stream: bool, **to) -> None:
    weather, messages = Weather(), [{"role": "user", "content": QUESTION}]
    while True:
        answer = litellm.completion(messages=messages, tools=TOOLS, stream=stream, max_tokens=500, num_retries=0, **to)
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        if not message.tool_calls:
            return check(weather, message.content)
        assert answer.choices[0].finish_reason == "tool_calls"
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": weather(**json.loads(call.function.arguments))})


openai = {"model": f"openai/{MODEL}", "api_base": V1, "api_key": KEY}
for to in (openai, {"model": f"hosted_vllm/{MODEL}", "api_base": V1, "api_key": KEY}, {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": KEY}):
    for stream in (False, True):
        loop(stream, **to)
assert litellm.text_completion(prompt="x", max_tokens=2, model=f"text-completion-openai/{MODEL}", api_base=V1, api_key=KEY).usage.completion_tokens == 2
answer = litellm.responses(input="Is it so?", **openai)
assert answer.output[-1].content[0].text == "Yes, that is so."
vectors = litellm.embedding(input=["a cat", "a kitten"], model="openai/all-minilm-l6-v2", api_base=V1, api_key=KEY)
assert [len(entry["embedding"]) for entry in vectors.data] == [384, 384]
for wrong, error in (({"model": "openai/nobody", "messages": [{"role": "user", "content": "x"}]}, litellm.NotFoundError),
                     ({"model": f"openai/{MODEL}", "messages": [{"role": "user", "content": "word " * 200_000}]}, litellm.ContextWindowExceededError),
                     ({"model": f"openai/{MODEL}", "messages": [{"role": "user", "content": "x"}], "temperature": -1}, litellm.BadRequestError)):
    try:
        litellm.completion(api_base=V1, api_key=KEY, num_retries=0, **wrong)
    except error:
        continue
    raise AssertionError(f"no {error.__name__}")
print("loops through openai/, hosted_vllm/ and anthropic/, whole and streamed; text_completion, responses, embedding; NotFoundError, ContextWindowExceededError, BadRequestError")
