#!/usr/bin/env python3
"""scripts/run-tests on builds of its own, with tests that pass, fail, are skipped, lie about being skipped, crash, are not built or are for the night."""
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# name -> shell command; SKIP_REGULAR_EXPRESSION is set on all, as sluice_add_tests does
TESTS = {
    "passes": "true",
    "fails": "echo the reason; exit 1",
    "is skipped": "echo 'SKIPPED: no such thing here'",
    "fails after a skip": "echo 'SKIPPED: a part'; echo 'x_test.cpp:7: FAILED:'; exit 1",
    "crashes": "kill -SEGV $$",
}


def run(build: pathlib.Path, *flags: str) -> tuple[int, list[str]]:
    ran = subprocess.run([sys.executable, ROOT / "scripts" / "run-tests", "--build", build, "--no-clients", *flags], capture_output=True, text=True)
    return ran.returncode, ran.stdout.splitlines()


def check_nightly(build: pathlib.Path) -> None:
    """Ordinary runs do not know nightly tests; nightly ones run them once, and those of processes until they have failed or N times."""
    runs = build / "runs"
    (build / "CTestTestfile.cmake").write_text(f"""
add_test(ordinary false)
add_test(process sh -c [=[echo >> {runs}; test $(wc -l < {runs}) -lt 4]=])
set_tests_properties(process PROPERTIES LABELS integration)
if(CTEST_CONFIGURATION_TYPE STREQUAL "nightly")
  add_test(long true)
  set_tests_properties(long PROPERTIES LABELS nightly)
endif()
""")
    status, output = run(build, "--regex", "process|long")
    assert (status, output[-1]) == (0, "1 passed, 0 failed, 0 skipped"), output
    runs.unlink()
    status, output = run(build, "--nightly", "--repeat", "3", "--load", "1")
    assert (status, output[-1]) == (0, "2 passed, 0 failed, 0 skipped"), output
    runs.unlink()
    status, output = run(build, "--nightly", "--repeat", "4", "--load", "0")
    assert (status, output[-1]) == (1, "1 passed, 1 failed, 0 skipped"), output
    status, output = run(build, "--nightly", "--regex", "long")
    assert (status, output[-1]) == (0, "1 passed, 0 failed, 0 skipped"), output


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        check_nightly(pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        build = pathlib.Path(folder)
        lines = []
        for name, command in TESTS.items():
            lines.append(f"add_test([=[{name}]=] sh -c [=[{command}]=])")
            lines.append(f'set_tests_properties([=[{name}]=] PROPERTIES SKIP_REGULAR_EXPRESSION "SKIPPED: ")')
        lines.append("add_test(unbuilt no_such_program)")
        (build / "CTestTestfile.cmake").write_text("\n".join(lines) + "\n")

        status, output = run(build)
        assert output[-1] == "1 passed, 4 failed, 1 skipped", output
        assert status == 1
        assert "skipped: is skipped: no such thing here" in output, output
        assert {line for line in output if line.startswith("FAILED: ")} == {f"FAILED: {name}" for name in
                                                                            ("fails", "fails after a skip", "crashes", "unbuilt")}
        assert "    the reason" in output, output

        status, output = run(build, "--regex", "^(passes|is skipped)$")
        assert (status, output[-1]) == (0, "1 passed, 0 failed, 1 skipped"), output
        status, output = run(build, "--regex", "^(passes|is skipped)$", "--strict-skips")
        assert (status, output[-1]) == (1, "1 passed, 1 failed, 0 skipped"), output
        status, output = run(build, "--regex", "^no test has this name$")
        assert status == 1, output
    print("run-tests counts as it should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
