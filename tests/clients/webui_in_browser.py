"""Open WebUI as it comes, in a real browser, against our gateway: an account, a chat with a tool of its own, one with a tool that is made for it, an answer that is stopped; titles, tags, follow-ups.

Run by scripts/check-clients open-webui. SLUICE_SCREENSHOTS names a folder for pictures of it.
"""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import browser
import harness
from harness import wait_until

import scripts

HOME = pathlib.Path(os.environ["HOME"])
URL, MODEL = os.environ["SLUICE_URL"], os.environ["SLUICE_MODEL"]
IS_SCRIPTED = MODEL == "scripted"
SCREENSHOTS = os.environ.get("SLUICE_SCREENSHOTS")
ANSWER = "[...document.querySelectorAll('.chat-assistant')].at(-1)"
STOP = 'button:has(svg path[d^="M2.25 12c0-5.385"])'
TOOL = '''
class Tools:
    def get_weather(self, city: str) -> str:
        """
        The weather of a city.
        :param city: its name
        """
        return f"{city}: 18 degrees, measured on the roof"
'''


def shot(page: browser.Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(pathlib.Path(SCREENSHOTS) / f"open-webui-{name}.png")


def wait(page: browser.Page, condition: str, seconds: float = 400) -> None:
    page.wait(f"Boolean({condition})", seconds)


def say(page: browser.Page, text: str) -> None:
    wait(page, "document.querySelector('#chat-input')")
    page.run("document.querySelector('#chat-input').focus()")
    page.call("Input.insertText", text=text)
    wait(page, "document.querySelector('#send-message-button') && !document.querySelector('#send-message-button').disabled")
    page.click("#send-message-button")


def answer_of(page: browser.Page, words: str = "") -> str:
    """The last answer, when it has come as a whole; `words` are in it."""
    wait(page, f"!document.querySelector('{STOP}') && {ANSWER}?.innerText.trim() && {ANSWER}.innerText.includes({json.dumps(words)})")
    return page.run(f"{ANSWER}.innerText")


def api(page: browser.Page, method: str, path: str, body: object = None) -> object:
    """What the page's own user gets of Open WebUI."""
    return page.run(f"""fetch({json.dumps(path)}, {{method: {json.dumps(method)}, headers: {{"Content-Type": "application/json", Authorization: "Bearer " + localStorage.token}},
                        body: {json.dumps(json.dumps(body)) if body is not None else "undefined"}}}).then((answer) => answer.json())""")


def in_flight(port: int) -> float:
    return sum(value for (name, _), value in harness.metrics(port).items() if name == "sluice_gateway_inflight_requests")


def new_chat(page: browser.Page, url: str, query: str = "") -> None:
    page.run("window.isOld = true")
    page.call("Page.navigate", url=url + "/" + query)
    wait(page, "!window.isOld && document.querySelector('#chat-input')")
    page.run("[...document.querySelectorAll('button')].find((one) => /^Okay, Let/.test(one.innerText.trim()))?.click()")  # what is new in this version


def main() -> None:
    slow_model = HOME / "slow"
    subprocess.run([harness.BINARY, "model", "make", "--shape", "stories15m", slow_model], stdout=subprocess.DEVNULL, check=True)
    config = json.loads((slow_model / "config.json").read_text())
    (slow_model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20_000}))  # more than anybody waits for
    port = harness.free_port()
    with harness.serve("--served-name", "talker", model=slow_model, prefill=0, decode=0, mixed=1) as slow:
        slow.wait_ready()
        environment = {"OPENAI_API_BASE_URLS": f"{URL}/v1;{slow.url}/v1", "OPENAI_API_KEYS": "none;none", "DATA_DIR": str(HOME / "data"), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true",
                       "PYTHONPATH": ""}
        with harness.Server(["open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)], port, environment) as webui:
            try:
                wait_until(webui.is_ready, "Open WebUI is ready", 900)
                chromium = browser.Browser()
                try:
                    use(chromium, webui.url, slow.port)
                finally:
                    chromium.close()
            except BaseException:
                print(webui.output()[-6000:], file=sys.stderr)
                raise


def use(chromium: browser.Browser, url: str, slow_port: int) -> None:
    page = chromium.open(url)
    sign_up(page)
    models = api(page, "GET", "/api/models")["data"]
    assert {MODEL, "talker"} <= {model["id"] for model in models}, models

    # A chat: tools of Open WebUI go with every request; the scripted model calls one of them.
    new_chat(page, url, f"?models={MODEL}")
    say(page, "What time is it?")
    said = answer_of(page, scripts.TIME if IS_SCRIPTED else "")
    shot(page, "chat")
    say(page, "Thank you.")
    wait(page, "document.querySelectorAll('.chat-assistant').length === 2")
    answer_of(page)
    if IS_SCRIPTED:
        wait(page, f"document.title.includes({json.dumps(scripts.TITLE)})")
        wait(page, f"document.body.innerText.includes({json.dumps(scripts.FOLLOW_UP)})")
        [chat] = api(page, "GET", "/api/v1/chats/")
        assert chat["title"] == scripts.TITLE, chat
        tags = wait_until(lambda: api(page, "GET", f"/api/v1/chats/{chat['id']}/tags"), "the chat has its tags", 60)
        assert {tag["name"] for tag in tags} == set(scripts.TAGS), tags
        stored = json.dumps(api(page, "GET", f"/api/v1/chats/{chat['id']}"))
        assert "get_current_timestamp" in stored and "<tool_call>" not in stored
    shot(page, "titles")

    tools_and_stop(page, url, slow_port)
    print(f"an account, {len(models)} models, a chat with a tool of its own ({said.splitlines()[-1]!r}), a title, tags and follow-ups, a tool that was made, an answer that was stopped")


def tools_and_stop(page: browser.Page, url: str, slow_port: int) -> None:
    """A tool that somebody wrote, and an answer that is stopped."""
    made = api(page, "POST", "/api/v1/tools/create", {"id": "weather", "name": "Weather", "content": TOOL, "meta": {"description": "of a city"}})
    assert made["id"] == "weather", made
    # As an operator gives it to a model: every chat with it has the tool.
    given = api(page, "POST", "/api/v1/models/create", {"id": MODEL, "base_model_id": None, "name": MODEL, "meta": {"toolIds": ["weather"]}, "params": {}})
    assert given["id"] == MODEL, given
    new_chat(page, url, f"?models={MODEL}")
    say(page, scripts.ASKED)
    answer_of(page, scripts.ANSWER if IS_SCRIPTED else "")
    shot(page, "tool")
    if IS_SCRIPTED:
        chat = page.run("location.pathname").rsplit("/", 1)[-1]
        stored = json.dumps(api(page, "GET", f"/api/v1/chats/{chat}"))
        assert "Paris: 18 degrees, measured on the roof" in stored, f"the tool was not run: {stored}"

    # An answer that does not end is stopped, and the server has stopped, too.
    new_chat(page, url, "?models=talker")
    say(page, "Once upon a time")
    wait(page, f"{ANSWER}?.innerText.length > 20")
    assert in_flight(slow_port) > 0
    page.click(STOP)
    wait(page, f"!document.querySelector('{STOP}')")
    wait_until(lambda: in_flight(slow_port) == 0, "the server has stopped, too", 240)  # a title is made of what had come
    shot(page, "stopped")


def sign_up(page: browser.Page) -> None:
    started = "[...document.querySelectorAll('button')].find((one) => one.innerText.trim() === 'Get started')"
    wait(page, f"document.querySelector('#password') || {started}")
    shot(page, "first")
    wait(page, f"document.querySelector('#password') || ({started}?.click(), false)")  # until somebody listens to it
    for selector, text in (("#name", "Ada"), ("#email", "ada@example.org"), ("#password", "a-password-of-ada-1")):
        page.write(selector, text)
    page.run("document.querySelector('form button[type=submit]').click()")
    wait(page, "document.querySelector('#chat-input')")
    shot(page, "signed-up")


if __name__ == "__main__":
    main()
