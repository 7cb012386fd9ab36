"""Processes of a cluster that one test file has hurt one after the other, and the Prometheus that scrapes them."""
import contextlib

import harness


class Running(contextlib.AbstractContextManager):
    """Processes by name. Whoever is entered has begun all of them (`begin`); what has begun is ended, with its last words, which are shown when a test fails."""

    def __init__(self):
        self.running: dict[str, harness.Process] = {}
        self.prometheus: harness.Process | None = None

    def begin(self):
        raise NotImplementedError

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name, process in [*self.running.items(), ("prometheus", self.prometheus)]:
            if process is not None:
                print(f"--- {name}\n{process.output()[-3000:]}")
                process.__exit__()
