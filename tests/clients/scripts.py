"""What the scripted model says to whom (tests/integration/scripted_model.py): fixed answers, so that what is tried is the client and the gateway."""
import json

from scripted_model import call

ANSWER = "It is 18 degrees and sunny in Paris."
WEATHER = call("get_weather", {"city": "Paris"})
PERSON = {"name": "Jason", "age": 25}

FRAMEWORKS = {
    "get_weather": [WEATHER, ANSWER],
    "measure_weather": [call("measure_weather", {"city": "Paris"}), '{"city": "Paris", "degrees": 18}'],  # the last answer is of a schema
    "transfer_to_meteorologist": [call("transfer_to_meteorologist", {})],
    "Person": [call("Person", PERSON)],          # a model of pydantic as a tool
    "PartialPerson": [call("PartialPerson", PERSON)],  # the same, streamed by Instructor
    "final_result": [call("final_result", PERSON)],  # Pydantic AI's
    "person": ['{"name": "Jason", "age": 25}'],
    "json": [call("json", PERSON)],  # the AI SDK's, for a form, of a model by Anthropic's name that it does not know
    "weather_of": [call("weather_of", {"city": "Paris"}), call("final_answer", {"answer": ANSWER})],
    "smolagents_code": [f'I ask for the weather and tell it.\n<code>\nprint(weather_of(city="Paris"))\nfinal_answer("{ANSWER}")\n</code>'],
    "dspy": [f"[[ ## answer ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]"],
    "dspy_json": ['{"name": "Jason", "age": 25}'],
    "dspy_react.0": ['[[ ## next_thought ## ]]\nI ask.\n\n[[ ## next_tool_name ## ]]\nget_weather\n\n[[ ## next_tool_args ## ]]\n{"city": "Paris"}\n\n[[ ## completed ## ]]'],
    "dspy_react.1": ["[[ ## next_thought ## ]]\nI know.\n\n[[ ## next_tool_name ## ]]\nfinish\n\n[[ ## next_tool_args ## ]]\n{}\n\n[[ ## completed ## ]]"],
    "dspy_react.2": [f"[[ ## reasoning ## ]]\nThe tool told it.\n\n[[ ## answer ## ]]\n{ANSWER}\n\n[[ ## completed ## ]]"],
}

# The task of coding agents: add.py subtracts; it is to be mended, and check.py run, which leaves a file when it passes.
WRONG, RIGHT = "return a - b", "return a + b"
DONE = "I mended add.py and ran the check."
CHECK = "python3 check.py"
HOMES = "/homes"  # in place of the folder of all agents' homes, for those that want whole paths
PATCH = f"<<<<<<< ORIGINAL\n    {WRONG}\n=======\n    {RIGHT}\n>>>>>>> UPDATED"
CODEX_PATCH = f"*** Begin Patch\n*** Update File: add.py\n@@\n def add(a, b):\n-    {WRONG}\n+    {RIGHT}\n*** End Patch"
AGENTS = {
    "aider": [f"I mend it.\n\nadd.py\n```python\n<<<<<<< SEARCH\n    {WRONG}\n=======\n    {RIGHT}\n>>>>>>> REPLACE\n```\n"],
    "gptme": [f"I mend it.\n\n```patch add.py\n{PATCH}\n```\n", f"```shell\n{CHECK}\n```\n", f"{DONE}\n\n```complete\n```\n"],
    # By the names of their tools:
    "complete": [call("patch", {"path": "add.py", "patch": PATCH}), call("shell", {"command": CHECK}), DONE + "\n" + call("complete", {})],  # gptme
    "bash": [call("read", {"filePath": "add.py"}), call("edit", {"filePath": "add.py", "oldString": WRONG, "newString": RIGHT}),
             call("bash", {"command": CHECK, "description": "Runs the check"}), DONE],  # opencode
    "run_shell_command": [call("read_file", {"file_path": HOMES + "/qwen-code/task/add.py"}), call("edit", {"file_path": HOMES + "/qwen-code/task/add.py", "old_string": WRONG, "new_string": RIGHT}),
                          call("run_shell_command", {"command": CHECK, "is_background": False}), DONE],  # qwen-code
    "Bash": [call("Read", {"file_path": HOMES + "/claude-code/task/add.py"}), call("Edit", {"file_path": HOMES + "/claude-code/task/add.py", "old_string": WRONG, "new_string": RIGHT}),
             call("Bash", {"command": CHECK, "description": "Runs the check"}), DONE],  # Claude Code
    "exec_command": [call("exec_command", {"cmd": f"apply_patch <<'EOF'\n{CODEX_PATCH}\nEOF"}), call("exec_command", {"cmd": CHECK}), DONE],  # Codex
}
# Open WebUI: a tool of its own, and what it asks for beside the chat.
TIME = "It is past noon, by the clock of the server."
TITLE, TAGS, FOLLOW_UP = "Time and Tides", ["Science", "Clocks"], "And what time is it in Tokyo?"
OPEN_WEBUI = {
    "get_current_timestamp": [call("get_current_timestamp", {}), TIME, "You are **welcome**, whatever the hour."],
    "title": [json.dumps({"title": TITLE})],
    "tags": [json.dumps({"tags": TAGS})],
    "follow_ups": [json.dumps({"follow_ups": [FOLLOW_UP, "Which clock do you trust?", "How is a second defined?"]})],
}
ASKED = "Ask my own tool for the weather in Paris."
BY_WORDS = {ASKED: "get_weather", "Generate a concise title": "title", "Generate 1-3 broad tags": "tags", "Predict 3-5 useful messages": "follow_ups"}
SGLANG = {
    "add": [call("add", {"a": 5, "b": 7}), "That makes 12 in all."],
    "sub": [call("sub", {"int_a": 5, "int_b": 7})],
    "get_current_weather": [call("get_current_weather", {"city": "Paris", "unit": "celsius"})],
}
ALL = {**FRAMEWORKS, **AGENTS, **OPEN_WEBUI, **SGLANG}

# What openai-python's examples ask for: a solved equation as JSON, and two tools.
EXAMPLES = {
    "": ['{"steps": [{"explanation": "Take 31 away and divide by 8.", "output": "x = -29/8"}], "final_answer": "x = -29/8"}'],
    "Query": [call("Query", {"table_name": "orders", "columns": ["id", "status"], "conditions": [{"column": "status", "operator": "=", "value": "fulfilled"}], "order_by": "asc"})],
    "get_weather": [call("get_weather", {"city": "New York", "country": "US"})],
}
