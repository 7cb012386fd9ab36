"""A pytest plugin in place of vLLM and torch, which its HTTP tests import though they need only a server: ours stands in for the one that they would start."""
from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
import urllib.request
from typing import Any
from unittest import mock

import openai

URL = os.environ["SLUICE_URL"]
STUBBED = {"vllm", "torch"}


class Stub(types.ModuleType):
    """A module that has whatever is asked of it; what is taken from it is a mock and so fails the unit tests that need the real thing."""
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (mock.MagicMock,), {}) if name[0].isupper() else mock.MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in STUBBED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class RemoteOpenAIServer(contextlib.AbstractContextManager):
    """What tests.utils has under this name, around the server that runs already."""

    def __init__(self, model: str, *_: object, **__: object) -> None:
        self.model, self.url_root = model, URL

    def __exit__(self, *_: object) -> None:
        pass

    def url_for(self, *parts: str) -> str:
        return "/".join((URL, *parts))

    def get_client(self, **fields: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url_for("v1"), "api_key": "none", "max_retries": 0, "timeout": 60, **fields})

    def get_async_client(self, **fields: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**{"base_url": self.url_for("v1"), "api_key": "none", "max_retries": 0, "timeout": 60, **fields})


class Tokenizer:
    """The served model's."""

    def ask(self, path: str, **fields: Any) -> Any:
        request = urllib.request.Request(URL + path, json.dumps(fields).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.ask("/tokenize", prompt=text, add_special_tokens=add_special_tokens)["tokens"]

    def __call__(self, text: str, **fields: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(input_ids=self.encode(text))

    def decode(self, tokens: list[int] | int, **_: object) -> str:
        return self.ask("/detokenize", tokens=[tokens] if isinstance(tokens, int) else list(tokens))["prompt"]


sys.meta_path.insert(0, Finder())
utils = Stub("tests.utils")
utils.RemoteOpenAIServer = RemoteOpenAIServer
sys.modules["tests.utils"] = utils
# test_return_token_ids.py and its neighbours say `...utils`, which is the same module.
import vllm.tokenizers  # noqa: E402

vllm.tokenizers.get_tokenizer = lambda *_, **__: Tokenizer()
