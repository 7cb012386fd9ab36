"""The demo model with a chat template that takes tools, and tools for it. The model knows nothing of either: a grammar does."""
import json
import pathlib
import shutil
from typing import Annotated, Literal

import pydantic

import harness

# A model that knows nothing of JSON would fill its context with the spaces that JSON allows.
NO_SPACES = {str(token): -100 for text, token in json.loads((harness.MODEL / "tokenizer.json").read_text())["model"]["vocab"].items()
             if not text.strip("\u2581 \t\r\n") or text in ("<0x09>", "<0x0A>", "<0x0D>", "<0x20>")}


class Pet(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    kind: Literal["cat", "dog", "bird"]
    age: Annotated[int, pydantic.Field(ge=0, le=40)]
    name: Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z][a-z]{1,8}$")]
    friends: Annotated[list[Literal["Lily", "Tom"]], pydantic.Field(max_length=3)]
    home: Literal["house", "tree"] | None


TEMPLATE = """{{- bos_token }}{%- if tools %}{%- for tool in tools %}{{ tool.function.name }} {% endfor %}{%- endif %}
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{%- endfor %}{% endfor %}"""

TOOLS = [{"type": "function", "function": {"name": "pet", "description": "Describes a pet.", "parameters": Pet.model_json_schema()}},
         {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {"word": {"enum": ["hello", "bye"]}},
                                                                          "required": ["word"], "additionalProperties": False}}}]


def make(parent: pathlib.Path) -> pathlib.Path:
    folder = parent / "stories260k"
    shutil.copytree(harness.MODEL, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def check_arguments(name: str, arguments: str) -> None:
    if name == "pet":
        Pet.model_validate_json(arguments)
    else:
        assert json.loads(arguments) in ({"word": "hello"}, {"word": "bye"})
