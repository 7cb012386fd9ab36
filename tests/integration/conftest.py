"""Fixtures. One server is shared by all tests that only ask; tests that break something start their own."""
import signal

import pytest

import harness

# A test run in the background (`make test &` in a script) inherits an ignored SIGINT, and so would every process under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    if harness.BINARY.exists():
        return
    for item in items:
        item.add_marker(pytest.mark.usefixtures("missing_binary"))


@pytest.fixture
def missing_binary():
    pytest.fail(f"{harness.BINARY} is missing: make build")


@pytest.fixture(scope="session")
def shared_server():
    with harness.serve() as server:
        yield server.wait_ready()


@pytest.fixture
def server(shared_server):
    """A disaggregated server (one prefill, one decode worker). Every test also checks that it has survived."""
    yield shared_server
    assert shared_server.is_alive(), shared_server.output()
    assert harness.request(shared_server.port, "GET", "/health").status == 200


@pytest.fixture
def port(server):
    return server.port
