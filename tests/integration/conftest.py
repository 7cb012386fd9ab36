"""Fixtures. One server is shared by all tests that only ask; tests that break something start their own."""
import signal

import pytest

import browser
import harness
import tools_model

# A test run in the background (`make test &` in a script) inherits an ignored SIGINT, and so would every process under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--repeat", type=int, default=1, metavar="N", help="run each test with the mark `process` N times")


@pytest.fixture
def repetition(request):
    """Which of the --repeat runs of a test this is."""
    return request.param


def pytest_generate_tests(metafunc):
    repeat = metafunc.config.getoption("repeat")
    if repeat > 1 and metafunc.definition.get_closest_marker("process"):
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(1, repeat + 1), indirect=True)


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


@pytest.fixture(scope="session")
def tool_server(tmp_path_factory):
    """A server whose model's template takes tools; shared by all tests that only ask."""
    with harness.serve(model=tools_model.make(tmp_path_factory.mktemp("tools"))) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory):
    return harness.make_slow_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def chromium():
    if browser.find() is None:
        pytest.skip("SKIPPED: no Chromium here (scripts/bootstrap --browser)")
    made = browser.Browser()
    yield made
    made.close()
