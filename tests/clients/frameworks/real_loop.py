"""One loop of calls and results with a model that decides for itself: real_loop.py FRAMEWORK. The tool is to be called with the city, its result told.

Run by scripts/check-clients --url URL --model NAME FRAMEWORK-real; the model has to know tools (Qwen2.5-Coder-0.5B-Instruct does).
"""
import asyncio
import json
import sys

from common import KEY, MODEL, QUESTION, V1, Weather

weather = Weather()
TRIES = 3


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return weather(city)


def langchain(seed: int) -> str:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    agent = create_agent(ChatOpenAI(model=MODEL, base_url=V1, api_key=KEY, max_retries=0, temperature=0.3, seed=seed), [tool(get_weather)])
    return agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})["messages"][-1].text


def litellm(seed: int) -> str:
    import litellm as library

    tools = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.",
                                               "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
    messages = [{"role": "user", "content": QUESTION}]
    for _ in range(4):
        answer = library.completion(model=f"openai/{MODEL}", api_base=V1, api_key=KEY, messages=messages, tools=tools, num_retries=0, temperature=0.3, seed=seed, max_tokens=300)
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": get_weather(**json.loads(call.function.arguments))})
    return "(it went on calling)"


def openai_agents(seed: int) -> str:
    from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    model = OpenAIResponsesModel(MODEL, AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0))
    agent = Agent(name="meteorologist", instructions="Use the tool.", tools=[function_tool(get_weather)], model=model,
                  model_settings=ModelSettings(temperature=0.3, extra_body={"seed": seed}))
    return asyncio.run(Runner.run(agent, QUESTION, max_turns=4)).final_output


def pydantic_ai(seed: int) -> str:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=V1, api_key=KEY)), retries=1, model_settings={"temperature": 0.3, "seed": seed})
    agent.tool_plain(get_weather)
    return asyncio.run(agent.run(QUESTION)).output


def llamaindex(seed: int) -> str:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(model=MODEL, api_base=V1, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0, temperature=0.3, additional_kwargs={"seed": seed})

    async def ask() -> str:
        return str(await FunctionAgent(tools=[FunctionTool.from_defaults(fn=get_weather)], llm=model, timeout=600).run(QUESTION, max_iterations=4))

    return asyncio.run(ask())


def dspy(seed: int) -> str:
    import dspy as library

    model = library.LM(f"openai/{MODEL}", api_base=V1, api_key=KEY, cache=False, num_retries=0, max_tokens=400, temperature=0.3, seed=seed)
    with library.context(lm=model):
        return library.ReAct("question -> answer", tools=[get_weather], max_iters=4)(question=QUESTION).answer


def instructor(seed: int) -> str:
    """It has no loop: a call of the tool as an object, then the question again with what came of it."""
    import instructor as library
    import openai
    import pydantic

    class GetWeather(pydantic.BaseModel):
        """Asks for the weather of a city."""
        city: str

    client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
    messages = [{"role": "user", "content": QUESTION}]
    call = library.from_openai(client, mode=library.Mode.TOOLS).create(model=MODEL, messages=messages, response_model=GetWeather, max_retries=0, temperature=0.3, seed=seed)
    messages.append({"role": "user", "content": f"{get_weather(call.city)}. Tell me so in one sentence."})
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0.3, seed=seed, max_tokens=100).choices[0].message.content


def smolagents(seed: int) -> str:
    from smolagents import OpenAIServerModel, ToolCallingAgent, tool

    model = OpenAIServerModel(MODEL, api_base=V1, api_key=KEY, temperature=0.3, seed=seed)
    return str(ToolCallingAgent(tools=[tool(get_weather)], model=model, max_steps=4, verbosity_level=0).run(QUESTION))


def main() -> None:
    loop = globals()[sys.argv[1].replace("-", "_")]
    whole = 0
    for seed in range(TRIES):
        weather.asked.clear()
        try:
            answer = loop(seed)
        except Exception as error:  # what a framework makes of a model that is too small is told, too
            answer = f"{type(error).__name__}: {error}"
        is_whole = any("Paris" in city for city in weather.asked) and "18" in answer
        whole += is_whole
        print(f"try {seed + 1}, {'whole' if is_whole else 'not whole'}: called with {weather.asked}, then {answer[:200]!r}", flush=True)
    if not whole:
        sys.exit("no loop was whole")
    print(f"{whole} of {TRIES} loops were whole")


if __name__ == "__main__":
    main()
