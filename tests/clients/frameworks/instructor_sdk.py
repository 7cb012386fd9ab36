"""Instructor: models of pydantic by tools, strict tools, JSON mode, a schema, parallel; whole and streamed as partial objects; through Anthropic's client too."""
import anthropic
import instructor
import openai
from common import KEY, MODEL, STORY, URL, V1
from pydantic import BaseModel


class Person(BaseModel):
    """Someone."""
    name: str
    age: int


client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
messages = [{"role": "user", "content": STORY}]
person = {"name": "Jason", "age": 25}
told = []
for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
    extra = {} if mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT) else {"extra_body": {"chat_template_kwargs": {"script": "person"}}}
    bound = instructor.from_openai(client, mode=mode)
    assert bound.create(model=MODEL, messages=messages, response_model=Person, max_retries=0, **extra).model_dump() == person, mode
    *_, last = bound.create_partial(model=MODEL, messages=messages, response_model=Person, max_retries=0, **extra)
    assert last.model_dump() == person, (mode, last)
    told.append(mode.name)
bound = instructor.from_anthropic(anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0), mode=instructor.Mode.ANTHROPIC_TOOLS)
assert bound.create(model=MODEL, messages=messages, response_model=Person, max_tokens=500, max_retries=0).model_dump() == person
print("whole and partial:", ", ".join(told), "and ANTHROPIC_TOOLS")
