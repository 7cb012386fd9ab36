"""Pydantic AI: an agent's loop and a typed result over chat completions, responses and Anthropic's messages, whole and streamed."""
import asyncio

from common import ANSWER, KEY, MODEL, QUESTION, STORY, URL, V1, Weather, check
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """Someone."""
    name: str
    age: int


class Report(BaseModel):
    """The weather of a city."""
    city: str
    degrees: int


async def run(model) -> None:
    for stream in (False, True):
        weather = Weather()
        agent = Agent(model, retries=0)

        @agent.tool_plain
        def get_weather(city: str) -> str:
            """The weather of a city."""
            return weather(city)

        if stream:
            async with agent.run_stream(QUESTION) as answer:
                check(weather, await answer.get_output())
        else:
            answer = await agent.run(QUESTION)
            check(weather, answer.output)
            assert answer.usage.output_tokens > 0 and answer.usage.requests == 2


async def main() -> None:
    provider = OpenAIProvider(base_url=V1, api_key=KEY)
    chat = OpenAIChatModel(MODEL, provider=provider)
    for model in (chat, OpenAIResponsesModel(MODEL, provider=provider),
                  AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key=KEY))):
        await run(model)
    typed = await Agent(chat, output_type=Person, retries=0).run(STORY)
    assert typed.output == Person(name="Jason", age=25)
    native = await Agent(chat, output_type=NativeOutput(Person), retries=0, model_settings={"extra_body": {"chat_template_kwargs": {"script": "person"}}}).run(STORY)
    assert native.output == Person(name="Jason", age=25)
    weather = Weather()
    reporter = Agent(chat, output_type=NativeOutput(Report), retries=0)

    @reporter.tool_plain
    def measure_weather(city: str) -> str:
        """The weather of a city."""
        return weather(city)

    assert (await reporter.run(QUESTION)).output == Report(city="Paris", degrees=18) and weather.asked == ["Paris"]


asyncio.run(main())
print("loops over chat completions, responses and messages, whole and streamed; output_type by a tool and by NativeOutput, also with tools")
