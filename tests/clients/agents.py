"""Coding agents: each gets the same small task, to mend add.py and run check.py, and finds the scripted model behind our gateway."""
from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess

from scripts import CHECK, DONE, RIGHT, WRONG

TASK = "add.py is wrong. Mend it, then run check.py."
RAN = "ran.txt"


@dataclasses.dataclass(frozen=True)
class Agent:
    name: str
    run: tuple[str, ...]
    python: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    server: str = "scripted"
    packages_of: str = ""  # the agent whose packages, the same, it uses
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # of its own settings, by path under its HOME

    def prepare(self, home: pathlib.Path, names: dict[str, str]) -> pathlib.Path:
        """The folder with the task, a repository, and the agent's settings."""
        for path, text in self.files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(text.replace("V1", names["v1"]).replace("MODEL", names["model"]))
        folder = home / "task"
        folder.mkdir()
        (folder / "add.py").write_text(f"def add(a, b):\n    {WRONG}\n")
        (folder / "check.py").write_text(f"import pathlib\nfrom add import add\n\nassert add(2, 3) == 5\npathlib.Path('{RAN}').write_text('passed')\n")
        for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "begin"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        return folder


def check(folder: pathlib.Path, output: str) -> str:
    said = output[-3000:]
    assert (folder / "add.py").read_text() == f"def add(a, b):\n    {RIGHT}\n", f"add.py was not mended:\n{said}"
    assert (folder / RAN).exists(), f"check.py was not run, or failed:\n{said}"
    return f"mended add.py, ran {CHECK}" + (", said so" if DONE in output else "")


NODE = "node@22.23.3"
OPENCODE = {"$schema": "https://opencode.ai/config.json", "provider": {"sluice": {"npm": "@ai-sdk/openai-compatible", "name": "Sluice", "options": {"baseURL": "V1", "apiKey": "none"},
            "models": {"MODEL": {"name": "MODEL", "tool_call": True, "limit": {"context": 131072, "output": 4096}}}}},
            "permission": {"edit": "allow", "bash": "allow", "read": "allow"}, "autoupdate": False, "share": "disabled"}
CODEX = """model = "MODEL"
model_provider = "sluice"
check_for_update_on_startup = false
[model_providers.sluice]
name = "Sluice"
base_url = "V1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
"""
MESSAGES_OPENCODE = {**OPENCODE, "provider": {"sluice": {**OPENCODE["provider"]["sluice"], "npm": "@ai-sdk/anthropic"}}}
KEY = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": "{v1}"}

ALL = (
    Agent("aider", server="scripted:aider", python=("aider-chat==0.86.2",), environment={"OPENAI_API_KEY": "none", "OPENAI_API_BASE": "{v1}"},
          run=("aider", "--model", "openai/{model}", "--edit-format", "diff", "--message", TASK, "--yes-always", "--no-check-update", "--no-show-model-warnings",
               "--analytics-disable", "--no-stream", "--map-tokens", "0", "--auto-test", "--test-cmd", CHECK, "add.py")),
    Agent("aider-messages", packages_of="aider", server="scripted:aider", python=("aider-chat==0.86.2",), environment={"ANTHROPIC_API_KEY": "none", "ANTHROPIC_API_BASE": "{url}"},
          run=("aider", "--model", "anthropic/{model}", "--edit-format", "diff", "--message", TASK, "--yes-always", "--no-check-update", "--no-show-model-warnings",
               "--analytics-disable", "--map-tokens", "0", "--auto-test", "--test-cmd", CHECK, "add.py")),
    Agent("gptme", server="scripted:gptme", python=("gptme==0.35.1",), environment=KEY, run=("gptme", "--non-interactive", "--model", "local/{model}", "--tools", "shell,patch", "--tool-format", "markdown", TASK)),
    Agent("gptme-calls", packages_of="gptme", python=("gptme==0.35.1",), environment=KEY,
          run=("gptme", "--non-interactive", "--model", "local/{model}", "--tools", "shell,patch", "--tool-format", "tool", TASK)),
    Agent("opencode", node=("opencode-ai@1.18.33",), environment={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
          run=("opencode", "run", "--model", "sluice/{model}", TASK), files={".config/opencode/opencode.json": json.dumps(OPENCODE)}),
    Agent("opencode-messages", packages_of="opencode", node=("opencode-ai@1.18.33",), environment={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
          run=("opencode", "run", "--model", "sluice/{model}", TASK), files={".config/opencode/opencode.json": json.dumps(MESSAGES_OPENCODE)}),
    Agent("qwen-code", node=("@qwen-code/qwen-code@0.24.4", NODE), environment={**KEY, "OPENAI_MODEL": "{model}", "QWEN_CODE_MAX_OUTPUT_TOKENS": "4096"},  # else as much as some models have of context
          run=("qwen", "--yolo", "--auth-type", "openai", "--prompt", TASK)),
    Agent("codex", node=("@openai/codex@0.171.0",), environment=KEY,
          run=("codex", "exec", "--dangerously-bypass-approvals-and-sandbox", TASK), files={".codex/config.toml": CODEX}),
    Agent("claude-code", node=("@anthropic-ai/claude-code@2.1.328", NODE),
          environment={"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_AUTH_TOKEN": "none", "ANTHROPIC_MODEL": "{model}", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}",
                       "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"},
          run=("claude", "--print", TASK, "--allowedTools", "Read", "Edit", "Bash")),
)
