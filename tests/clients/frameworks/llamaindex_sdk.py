"""LlamaIndex: an agent's loop through OpenAILike and Anthropic, a stream, structured answers, embeddings."""
import asyncio

from common import ANSWER, KEY, MODEL, QUESTION, STORY, URL, V1, Weather, check
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Person(BaseModel):
    """Someone."""
    name: str
    age: int


def like_openai(**more) -> OpenAILike:
    return OpenAILike(model=MODEL, api_base=V1, api_key=KEY, is_chat_model=True, is_function_calling_model=True, max_retries=0, **more)


async def run_agent(llm) -> None:
    weather = Weather()

    def get_weather(city: str) -> str:
        """The weather of a city."""
        return weather(city)

    answer = await FunctionAgent(tools=[FunctionTool.from_defaults(fn=get_weather)], llm=llm).run(QUESTION)
    check(weather, str(answer))


asyncio.run(run_agent(like_openai()))
assert "".join(part.delta or "" for part in like_openai().stream_complete("Is it so?")) == "Yes, that is so."
assert like_openai(should_use_structured_outputs=False).as_structured_llm(Person).complete(STORY).raw == Person(name="Jason", age=25)
vectors = OpenAIEmbedding(model_name="all-minilm-l6-v2", api_base=V1, api_key=KEY).get_text_embedding_batch(["a cat", "a kitten"])
assert [len(vector) for vector in vectors] == [384, 384]
print("FunctionAgent (streamed), stream_complete, as_structured_llm by a tool, embeddings")
