"""smolagents: ToolCallingAgent (calls) and CodeAgent (it runs the Python that the model writes), through OpenAI's client and LiteLLM."""
from common import ANSWER, KEY, MODEL, QUESTION, V1, Weather, check
from smolagents import CodeAgent, LiteLLMModel, OpenAIServerModel, ToolCallingAgent, tool

weather = Weather()


@tool
def weather_of(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return weather(city)


models = [OpenAIServerModel(MODEL, api_base=V1, api_key=KEY), LiteLLMModel(f"openai/{MODEL}", api_base=V1, api_key=KEY)]
for model in models:
    for stream in (False, True):
        weather.asked.clear()
        check(weather, ToolCallingAgent(tools=[weather_of], model=model, max_steps=3, verbosity_level=0, stream_outputs=stream).run(QUESTION))
weather.asked.clear()
code = OpenAIServerModel(MODEL, api_base=V1, api_key=KEY, extra_body={"chat_template_kwargs": {"script": "smolagents_code"}})
check(weather, CodeAgent(tools=[weather_of], model=code, max_steps=3, verbosity_level=0).run(QUESTION))
print("ToolCallingAgent through OpenAI's client and LiteLLM, whole and streamed; CodeAgent")
