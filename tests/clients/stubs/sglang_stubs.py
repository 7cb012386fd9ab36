"""A pytest plugin in place of SGLang, torch and transformers; ours stands in for the servers that its tests would start, with whatever flags."""
from __future__ import annotations

import types
import unittest

import stand_in
from stand_in import MODEL, URL

stand_in.stand_in_for("sglang", "torch", "transformers")
import sglang.srt.utils  # noqa: E402
import sglang.srt.utils.hf_transformers_utils  # noqa: E402
import sglang.test.test_utils as utils  # noqa: E402


class TestUtils(stand_in.Stub):
    """Whatever a test calls a model is the one that is served, whatever it calls a time-out a minute."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("DEFAULT_"):
            return MODEL if "MODEL" in name else 60
        return super().__getattr__(name)


utils.__class__ = TestUtils
utils.DEFAULT_URL_FOR_TEST = URL
utils.CustomTestCase = unittest.TestCase
utils.popen_launch_server = lambda *_, **__: types.SimpleNamespace(pid=0, poll=lambda: None, terminate=lambda: None, wait=lambda *_: 0)
sglang.srt.utils.kill_process_tree = lambda *_, **__: None
sglang.srt.utils.hf_transformers_utils.get_tokenizer = lambda *_, **__: stand_in.Tokenizer()
