"""OpenAI's own examples (openai-python, examples/), as they are: each has to end well against our server."""
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(os.environ["EXAMPLES"])
NAMES = ["demo", "async_demo", "streaming", "parsing", "parsing_stream", "parsing_tools", "parsing_tools_stream", "responses_input_tokens", "responses/streaming",
         "responses/streaming_tools", "responses/structured_outputs", "responses/structured_outputs_tools"]


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.strip(), done.stdout[-3000:]
