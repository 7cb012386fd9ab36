"""OpenAI's Agents SDK: an agent's loop and a typed result over responses and chat completions, whole and streamed, and a hand-off."""
import asyncio

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from common import ANSWER, KEY, MODEL, QUESTION, STORY, V1, Weather, check
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)


class Person(BaseModel):
    """Someone."""
    name: str
    age: int


class Report(BaseModel):
    """The weather of a city."""
    city: str
    degrees: int


async def main() -> None:
    client = AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)
    for model in (OpenAIResponsesModel(MODEL, client), OpenAIChatCompletionsModel(MODEL, client)):
        for stream in (False, True):
            weather = Weather()

            @function_tool
            def get_weather(city: str) -> str:
                """The weather of a city."""
                return weather(city)

            agent = Agent(name="meteorologist", instructions="Be brief.", tools=[get_weather], model=model)
            if stream:
                answer = Runner.run_streamed(agent, QUESTION)
                events = [event.type async for event in answer.stream_events()]
                assert "raw_response_event" in events and "run_item_stream_event" in events
            else:
                answer = await Runner.run(agent, QUESTION)
            check(weather, answer.final_output)
            weather.asked.clear()
            first = Agent(name="first", handoffs=[agent], model=model)
            answer = await Runner.run(first, QUESTION)
            assert answer.last_agent.name == "meteorologist" and answer.final_output == ANSWER
        weather = Weather()

        @function_tool
        def measure_weather(city: str) -> str:
            """The weather of a city."""
            return weather(city)

        reporter = Agent(name="reporter", tools=[measure_weather], output_type=Report, model=model)
        assert (await Runner.run(reporter, QUESTION)).final_output == Report(city="Paris", degrees=18) and weather.asked == ["Paris"]
        typed = Agent(name="typed", output_type=Person, model=model,
                      model_settings=ModelSettings(extra_body={"chat_template_kwargs": {"script": "person"}}))
        assert (await Runner.run(typed, STORY)).final_output == Person(name="Jason", age=25)


asyncio.run(main())
print("loops over responses and chat completions, whole and streamed; hand-offs between agents; output_type, also with tools")
