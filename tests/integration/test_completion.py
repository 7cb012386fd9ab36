"""`sluice completion`: what bash makes of it."""
import shutil
import subprocess

import pytest

import harness

pytestmark = pytest.mark.process


def complete(script, *words):
    """What bash offers behind these words, of which the last is being typed."""
    ask = f'{script}\nCOMP_WORDS=(sluice "$@"); COMP_CWORD=$#; _sluice; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-uc", ask, "bash", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def script():
    return subprocess.run([harness.BINARY, "completion", "bash"], capture_output=True, text=True, timeout=60, check=True).stdout


def test_subcommands_and_flags_at_every_depth(script):
    assert {"serve", "gateway", "scheduler", "top", "drain", "completion"} <= set(complete(script, ""))
    assert complete(script, "sched") == ["scheduler"]
    assert {"--prefill", "--port", "--set", "--help"} <= set(complete(script, "serve", "--"))
    assert complete(script, "model", "pu") == ["pull"]
    assert {"list", "prune"} <= set(complete(script, "model", "cache", ""))
    assert complete(script, "serve", "--port", "8000", "--pre") == ["--prefill"]
    assert complete(script, "no-such-thing-at-all") == []


def test_zsh_gets_the_same_through_bashcompinit(script):
    text = subprocess.run([harness.BINARY, "completion", "zsh"], capture_output=True, text=True, timeout=60, check=True).stdout
    first, rest = text.split("\n", 1)
    assert "bashcompinit" in first and rest == script
    if shutil.which("zsh"):
        assert subprocess.run(["zsh", "-nc", text], timeout=60).returncode == 0


def test_another_shell_is_refused():
    refused = subprocess.run([harness.BINARY, "completion", "tcsh"], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "--help" in refused.stderr
