"""Whom scripts/check-clients knows: what each installs, how it is run, what is looked at afterwards."""
from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import agents
import measuring

ENCODER = "all-minilm-l6-v2"
SUITE_KEY = "sk-this-is-the-secret-key"  # llama.cpp's suite shows this one


@dataclasses.dataclass(frozen=True)
class Suite:
    """A test suite in a checkout, run without a change. Its report is JUnit's XML, or Jest's JSON."""
    source: str                 # the repository
    folder: str                 # where the command runs
    command: tuple[str, ...]    # {report}, {url}, {v1}, {port}, {here}, {model}, {checkout}
    is_node: bool = False


@dataclasses.dataclass(frozen=True)
class Client:
    name: str
    python: tuple[str, ...] = ()   # packages for a virtual environment of its own
    node: tuple[str, ...] = ()
    run: tuple[str, ...] = ()      # places in braces: {url}, {v1}, {port}, {model}, {here}, {home} (its HOME, empty at first), {encoder}
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    prepare: Callable[[pathlib.Path, dict[str, str]], pathlib.Path] | None = None  # makes the folder it runs in
    check: Callable[[pathlib.Path, str], str] | None = None  # that folder and what was printed -> what to say; an AssertionError is a failure
    suite: Suite | None = None
    server: str = "scripted"
    seconds: float = 300
    shown: int = 1                 # how many of the packages are named in the result
    no_dependencies: bool = False
    packages_of: str = ""          # the client whose packages, the same, it uses; else its own
    is_real: bool = False          # wants a model that decides for itself: only by name, and with --url


def framework(name: str, script: str, *packages: str, shown: int = 1) -> Client:
    return Client(name, python=packages, run=("python", "{here}/frameworks/" + script + ".py"), shown=shown)


NODE = "node@22.23.3"
PYTEST = ("pytest==9.2.0", "pytest-asyncio==1.5.0", "pytest-xdist==3.8.0", "pytest-timeout==2.4.0")
SDK_TESTS = (*PYTEST, "aiohttp==3.14.5", "rich==15.0.0", "dirty-equals==0.11", "inline-snapshot==0.36.1", "respx==0.23.1")
JUNIT = ("-q", "-p", "no:cacheprovider", "--timeout", "60", "--junitxml={report}")
OPENAI_PYTHON = tuple(f"tests/api_resources/{path}" for path in ("chat/test_completions.py", "test_completions.py", "test_embeddings.py", "test_models.py", "test_responses.py",
                                                                 "responses/test_input_tokens.py"))
OPENAI_NODE = tuple(f"tests/api-resources/{path}.test.ts" for path in ("chat/completions/completions", "completions", "embeddings", "models", "responses/responses",
                                                                       "responses/input-tokens"))
ANTHROPIC_PYTHON = ("tests/api_resources/test_messages.py", "tests/api_resources/test_models.py")
LLAMA_CPP = tuple(f"unit/test_{name}.py" for name in ("basic", "chat_completion", "completion", "compat_oai_responses", "compat_anthropic", "embedding", "tokenize"))
VLLM = tuple(f"tests/entrypoints/openai/{path}.py" for path in (
    "chat_completion/test_chat", "completion/test_completion", "chat_completion/test_chat_echo", "chat_completion/test_chat_logit_bias_validation",
    "chat_completion/test_non_object_body_validation", "test_return_token_ids", "test_stop_token_ids", "test_tool_choice_content_none", "models/test_models"))
SGLANG = tuple(f"{path}.py" for path in (
    "basic/test_openai_server", "basic/test_anthropic_server", "features/test_json_mode", "features/test_openai_server_ebnf",
    "function_call/test_tool_choice", "function_call/test_openai_function_calling", "function_call/test_responses_function_calling", "function_call/test_anthropic_tool_use",
    "validation/test_openai_server_ignore_eos", "validation/test_request_length_validation", "validation/test_large_max_new_tokens"))

SUITES = (
    Client("openai-python", server="suites", seconds=900, python=("{checkout}", *SDK_TESTS),
           environment={"TEST_API_BASE_URL": "{v1}"},
           suite=Suite("openai/openai-python", ".", ("python", "-m", "pytest", *JUNIT, "-n", "2", *OPENAI_PYTHON))),
    Client("openai-examples", server="examples", seconds=900, python=("{checkout}", *SDK_TESTS), environment={"OPENAI_BASE_URL": "{v1}", "OPENAI_API_KEY": "none", "EXAMPLES": "{checkout}/examples"},
           suite=Suite("openai/openai-python", ".", ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--junitxml={report}", "{here}/examples/test_examples.py"))),
    Client("openai-node", server="suites", seconds=900, node=(NODE,), environment={"TEST_API_BASE_URL": "{v1}"},
           suite=Suite("openai/openai-node", ".", ("node", "node_modules/jest/bin/jest.js", "--json", "--outputFile={report}", "--maxWorkers=2", *OPENAI_NODE), is_node=True)),
    Client("anthropic-python", server="suites", seconds=900, python=("{checkout}[aiohttp]", *SDK_TESTS, "http-snapshot[httpx]==0.1.9"),
           environment={"TEST_API_BASE_URL": "{url}"},
           suite=Suite("anthropics/anthropic-sdk-python", ".", ("python", "-m", "pytest", *JUNIT, "-n", "2", *ANTHROPIC_PYTHON))),
    Client("llama.cpp", server="suites", seconds=900, python=(*PYTEST, "requests==2.34.2", "openai==2.54.0", "wget==3.2", "filelock==4.3.1", "numpy==2.2.6", "prometheus-client==0.26.0", "anthropic==2.14.0"),
           environment={"DEBUG_EXTERNAL": "1", "PORT": "{port}"},
           suite=Suite("ggml-org/llama.cpp", "tools/server/tests", ("python", "-m", "pytest", *JUNIT, *LLAMA_CPP))),
    Client("llama.cpp-keys", server="keyed", python=(*PYTEST, "requests==2.34.2", "openai==2.54.0", "wget==3.2", "filelock==4.3.1", "numpy==2.2.6", "prometheus-client==0.26.0", "anthropic==2.14.0"),
           environment={"DEBUG_EXTERNAL": "1", "PORT": "{port}"},
           suite=Suite("ggml-org/llama.cpp", "tools/server/tests", ("python", "-m", "pytest", *JUNIT, "unit/test_security.py"))),
    Client("vllm", server="suites", seconds=900, python=(*PYTEST, "requests==2.34.2", "openai==3.57.0", "httpx==0.28.1", "regex==2026.11.19", "jsonschema==4.26.0"),
           environment={"PYTHONPATH": "{here}/stubs"},
           suite=Suite("vllm-project/vllm", ".", ("python", "-m", "pytest", *JUNIT, "-p", "vllm_stubs", "-p", "tests.entrypoints.conftest", "--noconftest", "-c", "/dev/null", "--rootdir=.",
                                                        "-k", "not test_structured_outputs_choice_chat or logprobs", *VLLM))),  # two choices of a model without sense differ by chance
    Client("sglang", server="scripted", seconds=1800, python=(*PYTEST, "requests==2.34.2", "openai==3.57.0", "numpy==2.2.6"), environment={"PYTHONPATH": "{here}/stubs"},
           suite=Suite("sgl-project/sglang", "test/registered/openai_server", ("python", "-m", "pytest", *JUNIT, "-p", "sglang_stubs", "--noconftest", "-c", "/dev/null", "--rootdir=.",
                                                                               "--import-mode=importlib",
                                                                               "-k", "not test_complex_parameters_required_non_streaming", *SGLANG))),  # what the scripted model writes there is chance, which may not end
)

FRAMEWORKS = (
    framework("langchain", "langchain_sdk", "langchain==1.5.2", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10", shown=3),
    framework("llamaindex", "llamaindex_sdk", "llama-index-core==0.14.25", "llama-index-llms-openai-like==0.8.1", "llama-index-embeddings-openai==0.7.0"),
    framework("litellm", "litellm_sdk", "litellm==1.110.2"),
    framework("instructor", "instructor_sdk", "instructor==1.17.0", "anthropic==2.14.0"),
    framework("pydantic-ai", "pydantic_ai_sdk", "pydantic-ai-slim[openai,anthropic]==2.68.0"),
    framework("dspy", "dspy_sdk", "dspy==3.4.1"),
    framework("smolagents", "smolagents_sdk", "smolagents[openai,litellm]==1.26.0"),
    framework("openai-agents", "openai_agents_sdk", "openai-agents==0.24.0"),
    Client("ai-sdk", node=("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92", "@ai-sdk/openai@3.0.141", "@ai-sdk/anthropic@3.0.140", "zod@4.6.7"),
           run=("{here}/frameworks/ai_sdk.mjs",), shown=4),
)

REAL = tuple(Client(f"{client.name}-real", python=client.python, node=client.node, packages_of=client.name, shown=client.shown, is_real=True, seconds=1800,
                    run=("{here}/frameworks/real_loop.mjs",) if client.node else ("python", "{here}/frameworks/real_loop.py", client.name)) for client in FRAMEWORKS)

LM_EVAL = ("lm-eval[api]==0.4.13", "transformers==5.24.0")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def lm_eval(name: str, tokenizer: str, tasks: str, kind: str = "local-completions", route: str = "completions", *more: str) -> Client:
    return Client(name, python=LM_EVAL, packages_of="lm-eval", server="suites", environment=OFFLINE, prepare=measuring.tasks, check=measuring.accuracy,
                  run=("lm_eval", "run", "--model", kind, "--model_args", f"base_url={{v1}}/{route},model={{model}},num_concurrent=2,max_length=512,{tokenizer}",
                       "--include_path", "{home}", "--output_path", "{home}/out", "--tasks", tasks, *more))


MEASURING = (
    lm_eval("lm-eval", "tokenizer={demo},tokenized_requests=True", "sluice_choice,sluice_story"),
    lm_eval("lm-eval-remote", "tokenizer_backend=remote,tokenized_requests=True", "sluice_choice,sluice_story"),
    lm_eval("lm-eval-chat", "tokenized_requests=False", "sluice_story", "local-chat-completions", "chat/completions", "--apply_chat_template"),
    Client("guidellm", python=("guidellm==0.3.1",), server="suites", environment=OFFLINE, check=measuring.guidellm,
           run=("guidellm", "benchmark", "run", "--target", "{url}", "--rate-type", "concurrent", "--rate", "2", "--max-requests", str(measuring.REQUESTS), "--processor", "{demo}",
                "--data", "prompt_tokens=64,output_tokens=16", "--disable-progress", "--output-path", "{home}/out.json")),
    Client("aiperf", python=("aiperf==0.13.0",), server="suites", check=measuring.aiperf,
           run=("aiperf", "profile", "--model", "{model}", "--url", "{url}", "--endpoint-type", "chat", "--streaming", "--request-count", str(measuring.REQUESTS), "--concurrency", "2",
                "--tokenizer", "{demo}", "--isl", "64", "--osl", "16", "--extra-inputs", "ignore_eos:true", "--extra-inputs", "min_tokens:16", "--use-server-token-count",
                "--ui", "none", "--artifact-dir", "{home}/out")),
)

PAGES = (
    # Its packages without those for models of its own (PyTorch, 3 GB): nothing of what is tried asks for one.
    Client("open-webui", python=("open-webui==0.12.4", "-r", "{here}/webui_packages.txt"), no_dependencies=True, run=("python", "{here}/webui_in_browser.py"), seconds=3000, environment={
        "PYTHONPATH": "{here}:{here}/../integration"}),
)

AGENTS = tuple(Client(agent.name, python=agent.python, node=agent.node, run=agent.run, environment=agent.environment, prepare=agent.prepare, check=agents.check, server=agent.server,
                      packages_of=agent.packages_of)
               for agent in agents.ALL)

CLIENTS = {client.name: client for client in (*SUITES, *FRAMEWORKS, *REAL, *MEASURING, *PAGES, *AGENTS)}
