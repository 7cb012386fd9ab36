"""What stands in for the packages of another server, which its HTTP tests import though they need only a server: ours."""
from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import types
import urllib.request
from typing import Any
from unittest import mock

URL = os.environ["SLUICE_URL"]


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
    """Finds every module of these packages, as a stub."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


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
