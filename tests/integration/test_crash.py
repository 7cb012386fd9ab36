"""A process that falls says where: whoever is called at night has more than an exit status."""
import re
import shutil
import signal
import subprocess

import pytest

import harness

pytestmark = pytest.mark.process
SIGNALS = [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_process_that_falls_tells_what_it_is_and_where_it_stood(number):
    with harness.serve() as server:
        server.wait_ready()
        assert server.stop(number) == -number, server.output()
        told = re.search(rf"^sluice \S+ \(.*\) ends by {number.name} in thread \S.*\. It stood here", server.output(), re.MULTILINE)
        assert told, server.output()
        frames = re.findall(r"^(\S+)\((?:[^)+]*)\+(0x[0-9a-f]+)\)", server.output(), re.MULTILINE)
        assert len(frames) >= 3, server.output()


@pytest.mark.skipif(shutil.which("addr2line") is None, reason="binutils are not there")
def test_its_frames_have_names():
    """As the line says: file and offset go to addr2line."""
    with harness.serve() as server:
        server.wait_ready()
        assert server.stop(signal.SIGSEGV) == -signal.SIGSEGV
        offsets = re.findall(rf"^{re.escape(str(harness.BINARY))}\(\+(0x[0-9a-f]+)\)", server.output(), re.MULTILINE)
        assert offsets, server.output()
        names = subprocess.run(["addr2line", "-Cfie", harness.BINARY, *offsets], capture_output=True, text=True, check=True, timeout=120).stdout
        assert "cli::serve_main" in names, names
