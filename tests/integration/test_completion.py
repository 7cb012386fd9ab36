"""`sluice completion`: what bash and fish make of it."""
import os
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


def test_fish_completes_subcommands_and_flags_with_what_they_are_for(tmp_path):
    text = subprocess.run([harness.BINARY, "completion", "fish"], capture_output=True, text=True, timeout=60, check=True).stdout
    lines = [line for line in text.splitlines() if line.startswith("complete -c sluice -n")]
    assert "complete -c sluice -n '__sluice_is_at sluice model' -f -a pull -d " in text
    assert any(line.startswith("complete -c sluice -n '__sluice_is_at sluice serve' -l port -r -F -d '") for line in lines)  # a value follows
    assert all(line.count("'") - line.count("\\'") == 4 for line in lines), "quotes that never end"
    if not shutil.which("fish"):
        return
    (tmp_path / "sluice.fish").write_text(text)

    def offered(line):
        """Word -> what fish says of it."""
        done = subprocess.run(["fish", "--no-config", "-c", f"source {tmp_path}/sluice.fish; complete -C '{line}'"], capture_output=True, text=True, timeout=60,
                              cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, stdin=subprocess.DEVNULL)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return dict((*one.split("\t", 1), "")[:2] for one in done.stdout.splitlines())

    assert {"serve", "gateway", "scheduler", "top", "drain", "completion"} <= offered("sluice ").keys()
    assert offered("sluice sched").keys() == {"scheduler"} and offered("sluice sched")["scheduler"]
    assert {"--prefill", "--port", "--set", "--help"} <= offered("sluice serve --").keys()
    assert offered("sluice model pu").keys() == {"pull"}
    assert {"list", "prune"} <= offered("sluice model cache ").keys() and "serve" not in offered("sluice model cache ")
    assert offered("sluice serve --port 8000 --pre").keys() == {"--prefill"}
    assert "sluice.fish" in offered("sluice serve --config sl")  # values and arguments are files
    assert "sluice.fish" not in offered("sluice s") and "sluice.fish" in offered("sluice run sl")


def test_another_shell_is_refused():
    refused = subprocess.run([harness.BINARY, "completion", "tcsh"], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "--help" in refused.stderr
