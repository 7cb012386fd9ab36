"""A pytest plugin in place of vLLM and torch: our server stands in for the one that vLLM's tests would start."""
from __future__ import annotations

import contextlib
import sys
from typing import Any

import openai
from stub_modules import URL, Finder, Stub, Tokenizer


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


sys.meta_path.insert(0, Finder("vllm", "torch"))
utils = Stub("tests.utils")
utils.RemoteOpenAIServer = RemoteOpenAIServer
sys.modules["tests.utils"] = utils
# test_return_token_ids.py and its neighbours say `...utils`, which is the same module.
import vllm.tokenizers  # noqa: E402

vllm.tokenizers.get_tokenizer = lambda *_, **__: Tokenizer()
