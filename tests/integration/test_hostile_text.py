"""Chat templates and prompts made to hurt: the request that hurts fails, the server lives, and others are served."""
import concurrent.futures
import os
import pathlib
import shutil
import signal

import pytest

import harness

HOSTILE = """{%- set said = messages[0].content -%}
{%- if said == 'memory' -%}
{%- set ns = namespace(x='ab') -%}{%- for i in range(90) -%}{%- set ns.x = ns.x + ns.x -%}{%- endfor -%}
{%- elif said == 'stack' -%}
{%- set ns = namespace(x=[]) -%}{%- for i in range(9) -%}{%- for j in range(99999) -%}{%- set ns.x = [ns.x] -%}
{%- endfor -%}{%- endfor -%}{{ ns.x == [ns.x] }}
{%- elif said == 'time' -%}
{%- set l = range(99999) | list -%}{%- for i in l -%}{%- set x = l | sort(reverse=true) | tojson -%}{%- endfor -%}
{%- elif said == 'width' -%}{{ 'x'.center(2000000000) }}
{%- else -%}{{ said }}{%- endif -%}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(harness.MODEL, model)
    (model / "chat_template.jinja").write_text(HOSTILE)
    with harness.serve("--set", "gateway.text_threads=2", model=model) as server:
        yield server.wait_ready()


def chat(server, text):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return harness.request(server.port, "POST", "/v1/chat/completions", body, seconds=300)  # on a busy machine


@pytest.mark.parametrize("kind", ["memory", "stack", "width"])
def test_a_chat_that_is_too_much_for_its_template_is_a_400_and_others_are_served(server, kind):
    answer = chat(server, kind)
    assert answer.status == 400, answer.body
    message = answer.json()["error"]["message"]
    assert "the chat template failed" in message and ".rs" not in message and "/" not in message
    assert chat(server, "hello").status == 200
    assert server.is_alive()


def test_a_chat_that_does_not_end_holds_up_nobody(server):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(chat, server, "time")
        for _ in range(5):
            assert chat(server, "hello").status == 200
        answer = slow.result()
    assert answer.status == 400, answer.body
    assert "CPU time" in answer.json()["error"]["message"]


def test_a_prompt_that_cannot_fit_is_refused_with_both_numbers(server):
    prompt = "a" * (1 << 20)
    answer = harness.post(server.port, "/v1/completions", prompt=prompt, max_tokens=1)
    error = harness.assert_error(answer, 400, "context_length_exceeded", "prompt")
    assert "1048576 bytes" in error["message"] and "512 tokens" in error["message"]
    answer = chat(server, prompt)
    harness.assert_error(answer, 400, "context_length_exceeded", "messages")


def test_lost_text_processes_are_replaced(server):
    assert chat(server, "hello").status == 200
    for which in (-1, 0):  # one that answers, and the host
        os.kill(harness.text_processes(server.pid)[which], signal.SIGKILL)
        assert chat(server, "hello").status == 200


def test_the_server_ends_while_a_template_does_not(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(harness.MODEL, model)
    (model / "chat_template.jinja").write_text(HOSTILE)
    with harness.serve(model=model) as server:
        server.wait_ready()
        processes = harness.text_processes(server.pid)
        assert processes
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(chat, server, "time")
            harness.wait_until(lambda: len(harness.text_processes(server.pid)) >= 2, "a process for the call")
            assert server.stop(seconds=240) == 0
            slow.exception()
    harness.wait_until(lambda: not any(harness.pid_exists(pid) for pid in processes), "no text process left behind")
