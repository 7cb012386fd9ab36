"""A pytest plugin in place of SGLang and what it needs, for its HTTP tests: the server that they would start is ours, which runs already."""
from __future__ import annotations

import sys
import types
import unittest
from typing import Any

from stand_ins import URL, Stub, Tokenizer, stand_in


class TestUtils(Stub):
    """sglang.test.test_utils: names of models, addresses, times."""

    CustomTestCase = unittest.TestCase

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("DEFAULT_"):
            return super().__getattr__(name)
        return URL if "_URL_" in name else 600 if "TIMEOUT" in name else name.lower()

    @staticmethod
    def popen_launch_server(*_: object, **__: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(pid=0)


stand_in("sglang", "torch")
sys.modules["sglang.test.test_utils"] = TestUtils("sglang.test.test_utils")
import sglang.srt.utils.hf_transformers_utils  # noqa: E402

sglang.srt.utils.hf_transformers_utils.get_tokenizer = lambda *_, **__: Tokenizer()
