"""Several hundred broken model folders through the real binary: each ends in time and within memory, not by a signal, and says what is wrong where."""
import concurrent.futures
import dataclasses
import os
import pathlib
import signal
import subprocess
import tempfile
import threading

import pytest

import harness
import hostile_gguf
import hostile_models
from hostile_models import Case

GROUPS = hostile_models.GROUPS | hostile_gguf.GROUPS

SECONDS_MAX = 20
BYTES_MAX = 1 << 30


@dataclasses.dataclass
class Outcome:
    status: int  # negative: a signal
    output: str
    bytes_max: int


def load_and_answer(model: pathlib.Path, packed: pathlib.Path) -> Outcome:
    """`sluice run`: loads everything that `serve` does, and answers one prompt."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen([*harness.DIE_WITH_PARENT, str(harness.BINARY), "run", "--model", str(model), "once", "--max-tokens", "1", "--threads", "1",
                                  "--set", f"engine.packed_dir={packed}", "--set", "engine.kv_pool_bytes=4194304"],
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        timer = threading.Timer(SECONDS_MAX, lambda: os.kill(child.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        return Outcome(child.returncode, log.read().decode(errors="replace"), usage.ru_maxrss * 1024)


def problem(case: Case, outcome: Outcome) -> str | None:
    """What is wrong with how a case ended."""
    if outcome.status < 0:
        return f"signal {-outcome.status} (9: not within {SECONDS_MAX} s)"
    for report in ("Sanitizer", "terminate called", "CHECK failed", "panicked"):
        if report in outcome.output:
            return report
    if outcome.bytes_max > BYTES_MAX:
        return f"{outcome.bytes_max >> 20} MiB"
    if case.served is not None and case.served != (outcome.status == 0):
        return f"status {outcome.status}"
    if case.served is None and outcome.status == 0:
        return None  # then there is nothing to say
    missing = [word for word in case.words if word not in outcome.output]
    if missing:
        return f"not said: {missing}"
    if case.any_of and outcome.status != 0 and not any(word in outcome.output for word in case.any_of):
        return f"none of {case.any_of} is said"
    return None


def run_all(cases: list[Case]) -> list[str]:
    def run(case: Case) -> str | None:
        with tempfile.TemporaryDirectory(prefix="sluice-hostile-") as scratch:
            folder = pathlib.Path(scratch)
            (folder / "packed").mkdir()
            outcome = load_and_answer(hostile_models.prepare(case, folder / "model"), folder / "packed")
            wrong = problem(case, outcome)
            return wrong and f"{case.name}: {wrong}\n    " + outcome.output[-1500:].replace("\n", "\n    ")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [wrong for wrong in pool.map(run, cases) if wrong]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.timeout(900)
def test_a_hostile_model_is_refused_or_repaired_by_file_and_field(group):
    cases = list(GROUPS[group]())
    assert len({case.name for case in cases}) == len(cases)
    wrong = run_all(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong)


def test_there_are_hundreds_of_them():
    assert sum(len(list(make())) for make in GROUPS.values()) >= 400


def test_the_demo_model_itself_is_served():
    assert run_all([Case("the demo model", lambda folder: None, served=True)]) == []
