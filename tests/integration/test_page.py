"""The page at /: its files over HTTP, its parts under Node, and the whole of it in a real browser."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

import harness
from harness import BINARY, MODEL_ID, ROOT, request, serve

pytestmark = pytest.mark.process
FILES = ROOT / "gateway" / "page"
# Where screenshots go; without it none are made.
SCREENSHOTS = os.environ.get("SLUICE_SCREENSHOTS")
LAST = "[...document.querySelectorAll('#chat > li.assistant')].at(-1)"
IS_DONE = "!document.querySelector('#send').disabled && document.querySelectorAll('#chat > li.assistant').length"


def test_its_parts_do_what_they_say():
    ran = subprocess.run(["node", "--test", ROOT / "tests" / "integration" / "node" / "page"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def server():
    with serve("--set", "slo_classes.chat.ttft_ms=60000", "--set", "slo.default_class=chat", prefill=0, decode=0, mixed=1) as server:
        yield server.wait_ready()


def test_every_file_is_served_as_what_it_is_and_none_other(server):
    kinds = {".html": "text/html", ".css": "text/css", ".mjs": "text/javascript", ".svg": "image/svg+xml"}
    files = [path for path in FILES.iterdir() if path.suffix in kinds]
    assert len(files) == 10
    for path in files:
        answer = request(server.port, "GET", "/" if path.name == "index.html" else f"/page/{path.name}")
        assert answer.status == 200 and answer.body == path.read_bytes()
        assert answer.headers["content-type"].split(";")[0] == kinds[path.suffix]
        assert "default-src 'none'" in answer.headers["content-security-policy"] and "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert request(server.port, "HEAD", "/").body == b""
    assert request(server.port, "POST", "/", {}).status == 405
    for path in ("/page/", "/page/page.cpp", "/page/../api.cpp", "/page/%2e%2e/api.cpp", "/index.html"):
        assert request(server.port, "GET", path).status in (400, 404), path
    for path in files:  # nothing comes from elsewhere
        assert not [line for line in path.read_text().splitlines() if "://" in line and "www.w3.org/2000/svg" not in line and "https?:" not in line], path


def test_where_keys_are_asked_for_the_page_has_to_be_wanted(tmp_path):
    file = tmp_path / "keys.json"
    subprocess.run([BINARY, "keys", "add", "--file", file, "--tenant", "a"], capture_output=True, timeout=60, check=True)
    for page, flags, status in (("auto", ["--set", f"gateway.keys_file={file}"], 401), ("off", [], 404)):
        with serve("--set", f"gateway.page={page}", *flags, prefill=0, decode=0, mixed=1) as server:
            server.wait_ready()
            assert request(server.port, "GET", "/").status == status
            assert request(server.port, "GET", "/page/main.mjs").status == status


@pytest.fixture
def page(chromium, server):
    page = chromium.open(server.url)
    page.wait("document.querySelector('#state').textContent === 'ready'")
    page.write("#max_tokens", "40")
    page.write("#temperature", "0")
    yield page
    assert page.complaints() == []


def say(page, text):
    page.write("#prompt", text)
    page.press_enter()
    page.wait(IS_DONE)


def figures(page):
    return page.run("Object.fromEntries([...document.querySelectorAll('#figures div')].map((row) => [row.children[0].textContent, row.children[1].textContent]))")


def shot(page, name):
    if SCREENSHOTS:
        page.screenshot(pathlib.Path(SCREENSHOTS) / name)


def test_a_chat_streams_and_its_figures_are_told(page, server):
    assert page.run("document.querySelector('#model').value") == MODEL_ID
    say(page, "Once upon <b>a</b> time")
    assert page.run("document.querySelector('#chat > li.user p').textContent") == "Once upon <b>a</b> time"
    asked = {"model": MODEL_ID, "messages": [{"role": "user", "content": "Once upon <b>a</b> time"}], "max_tokens": 40, "temperature": 0}
    answer = request(server.port, "POST", "/v1/chat/completions", asked).json()
    text = answer["choices"][0]["message"]["content"]
    assert " ".join(text.split()) in " ".join(page.run(f"{LAST}.textContent").split())
    page.wait("[...document.querySelectorAll('#figures dd')].some((one) => one.textContent.includes('target 60000'))")
    told = figures(page)
    assert {"TTFT", "Tokens"} <= set(told) and told["Tokens"].endswith(f"{answer['usage']['completion_tokens']} out")
    say(page, "And then?")
    assert page.run("document.querySelectorAll('#chat > li').length") == 4
    shot(page, "page-light.png")


def test_an_answer_is_made_again_and_a_new_chat_begun(page):
    say(page, "The cat")
    first = page.run(f"{LAST}.textContent")
    page.click("#regenerate")
    page.wait(IS_DONE)
    assert page.run(f"{LAST}.textContent") == first and page.run("document.querySelectorAll('#chat > li').length") == 2
    page.click("#clear")
    assert page.run("document.querySelectorAll('#chat > li').length") == 0


def test_the_request_as_code_runs_as_it_stands(page):
    page.write("#system", "You 'are' a \"teller\" of $HOME tales.\n`id`")
    say(page, "A dog's day")
    shown = page.run(f"{LAST}.querySelector('p')?.textContent ?? ''")
    page.click("#code")
    curl, python = page.text("#code-curl"), page.text("#code-python")
    shot(page, "page-code.png")
    ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
    chunks = [json.loads(line.removeprefix("data: ")) for line in ran.stdout.splitlines() if line.startswith("data: {")]
    text = harness.text_of(chunks)
    assert ran.returncode == 0 and shown.split()[:4] == text.split()[:4] != []
    told = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and told.stdout == text, told.stderr


def test_errors_are_said(page):
    page.write("#tools", "[")
    say_without_answer(page, "Hello")
    assert "not JSON" in page.text("#notice")
    page.write("#tools", "")
    page.write("#temperature", "9")
    page.click("#clear")
    say_without_answer(page, "Hello")
    page.wait("document.querySelector('#notice').textContent.includes('temperature')")
    page.browser.events.clear()  # the console has told of the 400


def say_without_answer(page, text):
    page.write("#prompt", text)
    page.press_enter()
    page.wait("!document.querySelector('#notice').hidden")


def test_on_a_telephone_and_in_the_dark(page):
    say(page, "Once upon a time " * 10)
    page.resize(width=375, height=700, mobile=True)
    assert page.run("document.documentElement.scrollWidth") <= 375
    assert page.run("getComputedStyle(document.querySelector('#settings')).display") == "none"
    page.click("#settings-toggle")
    assert page.run("getComputedStyle(document.querySelector('#settings')).display") == "block"
    page.click("#settings-toggle")
    before = page.run("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.run("getComputedStyle(document.body).backgroundColor") != before
    shot(page, "page-telephone-dark.png")


def test_an_answer_is_stopped_and_nothing_runs_on(chromium, tmp_path):
    folder = tmp_path / "slow"
    subprocess.run([BINARY, "model", "make", "--shape", "stories15m", folder], capture_output=True, timeout=60, check=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20_000}))  # more than anybody waits for
    with serve(model=folder, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        page = chromium.open(server.url)
        page.wait("document.querySelector('#state').textContent === 'ready'")
        page.run("new MutationObserver(() => { if (document.querySelector('#chat > li.assistant')?.textContent.length > 20) document.querySelector('#stop').click(); })"
                 ".observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true})")
        say(page, "Once")
        assert "stopped" in page.run(f"{LAST}.textContent")
        harness.wait_until(lambda: sum(value for (name, _), value in harness.metrics(server.port).items() if name == "sluice_gateway_inflight_requests") == 0,
                           "the server has stopped, too")


def test_a_key_stays_in_memory(chromium, tmp_path):
    file = tmp_path / "keys.json"
    key = subprocess.run([BINARY, "keys", "add", "--file", file, "--tenant", "a"], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    with serve("--set", f"gateway.keys_file={file}", "--set", "gateway.page=on", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        page = chromium.open(server.url)
        page.wait("document.querySelector('#state').textContent.includes('API key')")
        page.write("#key", key)
        page.run("document.querySelector('#key').dispatchEvent(new Event('change'))")
        page.wait("document.querySelector('#state').textContent === 'ready'")
        page.write("#max_tokens", "5")
        say(page, "Once")
        page.click("#code")
        assert key not in page.text("#code-curl") + page.text("#code-python") and "SLUICE_API_KEY" in page.text("#code-curl")
        assert page.run("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])").count(key) == 0
