#!/usr/bin/env python3
"""Small things about the tree that a compiler does not see. Prints one line for each breach; exit status 1 when there are any.

- every *_test.cpp is named by a CMakeLists.txt (else it is never built), and every test folder with sources has one
- no TEST_CASE begins with `-`: Catch2 3 takes such a name for a flag when CTest asks for it
- every top-level folder of code is in docs/folders.md and has a README.md
- text files end in one newline, have no tabs (Makefile apart), no spaces at the end of a line and no carriage returns
- a .cpp or .h has at most 600 lines
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CODE = {".h", ".cpp", ".cu", ".cuh", ".rs", ".py", ".proto", ".cmake", ".sh", ".yaml", ".yml"}
LINES_MAX = 600


def tracked_files() -> list[pathlib.Path]:
    """Files that are in git or new and not ignored; without git (an unpacked archive) every file outside build/."""
    listing = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listing.returncode == 0:
        names = [name for name in listing.stdout.decode().split("\0") if name]
        return sorted(ROOT / name for name in set(names) if (ROOT / name).is_file())
    skipped = {"build", ".venv", ".git", "node_modules", "target", "__pycache__"}
    return sorted(path for path in ROOT.rglob("*") if path.is_file() and not skipped & set(path.relative_to(ROOT).parts))


def unbuilt_tests(files: list[pathlib.Path]) -> list[str]:
    problems = []
    for path in files:
        if not path.name.endswith("_test.cpp"):
            continue
        list_file = path.parent / "CMakeLists.txt"
        text = list_file.read_text() if list_file.exists() else ""
        text = re.sub(r"#.*", "", text)
        if not re.search(rf"(?<![\w/]){re.escape(path.name)}(?!\w)", text):
            problems.append(f"{path.relative_to(ROOT)}: no target of {list_file.relative_to(ROOT)} names it, so it is never built")
    return problems


def test_name_problems(path: pathlib.Path) -> list[str]:
    names = re.findall(r'TEST_CASE\(\s*"(-[^"]*)"', path.read_text())
    return [f"{path.relative_to(ROOT)}: the test's name '{name}' begins with '-'" for name in names]


def folder_problems(files: list[pathlib.Path]) -> list[str]:
    table = (ROOT / "docs" / "folders.md").read_text()
    problems = []
    for folder in sorted({path.relative_to(ROOT).parts[0] for path in files if path.suffix in {".h", ".cpp"}}):
        if folder == "tests":
            continue
        if f"`{folder}/`" not in table:
            problems.append(f"{folder}/: not in the table of docs/folders.md")
        if not (ROOT / folder / "README.md").exists():
            problems.append(f"{folder}/: has no README.md")
    return problems


def text_problems(path: pathlib.Path) -> list[str]:
    name = path.relative_to(ROOT)
    content = path.read_bytes()
    problems = []
    if content and not content.endswith(b"\n"):
        problems.append(f"{name}: does not end in a newline")
    if content.endswith(b"\n\n"):
        problems.append(f"{name}: ends in an empty line")
    if b"\r" in content:
        problems.append(f"{name}: has carriage returns")
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.endswith((b" ", b"\t")):
            problems.append(f"{name}:{number}: space at the end of the line")
            break
    if b"\t" in content:
        problems.append(f"{name}: has tabs")
    if path.suffix in {".h", ".cpp"} and content.count(b"\n") > LINES_MAX:
        problems.append(f"{name}: {len(content.splitlines())} lines, more than {LINES_MAX}: does it hold one idea?")
    return problems


def main() -> int:
    files = tracked_files()
    problems = unbuilt_tests(files) + folder_problems(files)
    for path in files:
        in_data = "data" in path.relative_to(ROOT).parts
        if path.suffix in CODE or path.name in {"CMakeLists.txt"}:
            if not in_data:
                problems += text_problems(path)
        if path.name.endswith("_test.cpp"):
            problems += test_name_problems(path)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"tidy: {len(files)} files, nothing found")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
