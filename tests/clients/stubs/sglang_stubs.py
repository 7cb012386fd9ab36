"""A pytest plugin in place of SGLang and torch: our server stands in for the one that SGLang's tests would start."""
from __future__ import annotations

import os
import sys
import types
import unittest

from stub_modules import URL, Finder, Stub, Tokenizer

sys.meta_path.insert(0, Finder("sglang", "torch"))
utils = Stub("sglang.test.test_utils")
utils.CustomTestCase = unittest.TestCase
utils.DEFAULT_URL_FOR_TEST = URL
utils.DEFAULT_SMALL_MODEL_NAME_FOR_TEST = os.environ["SLUICE_MODEL"]
utils.DEFAULT_SMALL_EMBEDDING_MODEL_NAME_FOR_TEST = "all-minilm-l6-v2"
utils.is_in_ci = utils.is_in_amd_ci = lambda: False
utils.popen_launch_server = lambda *_, **__: types.SimpleNamespace(pid=0)
sys.modules["sglang.test.test_utils"] = utils
import sglang.srt.utils.hf_transformers_utils  # noqa: E402

sglang.srt.utils.hf_transformers_utils.get_tokenizer = lambda *_, **__: Tokenizer()
