"""stream_client.py as a process of the test: wait for its progress, then for its results."""
from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Sequence

import harness

CLIENT = pathlib.Path(__file__).parent / "stream_client.py"


class Streams(harness.Process):
    """Many streams at once against host:port. `prefix`: words in front of the command, e.g. to enter a namespace."""

    def __init__(self, port: int, streams: int, tokens: int, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self.streams = streams
        super().__init__([*prefix, sys.executable, CLIENT, host, str(port), harness.MODEL_ID, str(streams), str(tokens)])

    def wait_tokens(self, count: int) -> None:
        """Until at least `count` tokens have come, all streams together."""

        def seen() -> bool:
            found = re.findall(r"^tokens (\d+)$", self.output(), re.MULTILINE)
            assert found and int(found[-1]) >= count or self.is_alive(), self.output()
            return bool(found) and int(found[-1]) >= count

        harness.wait_until(seen, f"{count} tokens have come", 120)

    def wait_all_begun(self) -> None:
        """Until every stream has had a token."""

        def begun() -> bool:
            found = re.findall(r"^begun (\d+)$", self.output(), re.MULTILINE)
            assert found and int(found[-1]) >= self.streams or self.is_alive(), self.output()
            return bool(found) and int(found[-1]) >= self.streams

        harness.wait_until(begun, "every stream has begun", 120)

    def texts(self) -> list[str]:
        """What every stream said; fails when one had an error or did not end with `length`."""
        assert self.wait(300) == 0, self.output()
        results = json.loads(self.output().splitlines()[-1])
        problems = [(index, reason, error) for index, (_, reason, error) in enumerate(results) if error or reason != "length"]
        assert not problems, f"{len(problems)} of {len(results)} streams: {problems[:5]}"
        return [text for text, _, _ in results]
