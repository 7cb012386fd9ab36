"""LangChain: an agent's loop over chat completions, responses and Anthropic's messages; streams, structured answers, embeddings."""
from common import ANSWER, KEY, MODEL, QUESTION, STORY, URL, V1, Weather, check
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Person(BaseModel):
    """Someone."""
    name: str
    age: int


class Report(BaseModel):
    """The weather of a city."""
    city: str
    degrees: int


def run_agent(model, stream: bool) -> None:
    weather = Weather()

    @tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return weather(city)

    agent = create_agent(model, [get_weather])
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    if stream:
        texts = [part.text for part, about in agent.stream(asked, stream_mode="messages") if about["langgraph_node"] == "model"]
        check(weather, "".join(texts))
    else:
        messages = agent.invoke(asked)["messages"]
        check(weather, messages[-1].text)
        assert [message.usage_metadata["output_tokens"] > 0 for message in messages if message.type == "ai"] == [True, True]


chat = ChatOpenAI(model=MODEL, base_url=V1, api_key=KEY, max_retries=0)
responses = ChatOpenAI(model=MODEL, base_url=V1, api_key=KEY, max_retries=0, use_responses_api=True)
messages = ChatAnthropic(model=MODEL, base_url=URL, api_key=KEY, max_retries=0, max_tokens=1000)
for model in (chat, responses, messages):
    for stream in (False, True):
        run_agent(model, stream)
for model in (chat, responses):
    weather = Weather()

    @tool
    def measure_weather(city: str) -> str:
        """The weather of a city."""
        return weather(city)

    told = create_agent(model, [measure_weather], response_format=ProviderStrategy(Report)).invoke({"messages": [{"role": "user", "content": QUESTION}]})
    assert told["structured_response"] == Report(city="Paris", degrees=18) and weather.asked == ["Paris"]
script = ChatOpenAI(model=MODEL, base_url=V1, api_key=KEY, max_retries=0, extra_body={"chat_template_kwargs": {"script": "person"}})
assert script.with_structured_output(Person, method="json_schema").invoke(STORY) == Person(name="Jason", age=25)
assert script.with_structured_output(Person, method="json_mode").invoke(STORY) == Person(name="Jason", age=25)
assert chat.with_structured_output(Person, method="function_calling").invoke(STORY) == Person(name="Jason", age=25)
assert chat.get_num_tokens_from_messages is not None
answer = chat.with_config(tags=["t"]).bind(logprobs=True, top_logprobs=2).invoke("Is it so?")
assert len(answer.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2
vectors = OpenAIEmbeddings(model="all-minilm-l6-v2", base_url=V1, api_key=KEY, check_embedding_ctx_length=False).embed_documents(["a cat", "a kitten"])
assert [len(vector) for vector in vectors] == [384, 384]
print("agents over chat completions, responses and messages, whole and streamed; json_schema, json_mode, function_calling; a schema with tools; logprobs; embeddings")
