// The page: a chat with the models of this server. Everything lives in this tab's memory; nothing is stored.

import { Answer, Conversation } from "/page/conversation.mjs";
import { eventsOf } from "/page/events.mjs";
import { Figures } from "/page/figures.mjs";
import { nodesOf, parse } from "/page/markdown.mjs";
import { byId, element, errorOf, switchTheme } from "/page/shared.mjs";
import { asCurl, asPython } from "/page/snippets.mjs";

const TOLD_TRIES = 5;  // for the server's timeline: it is there a moment after the answer's end
const TOLD_WAIT_MS = 200;

const SETTINGS = ["system", "temperature", "top_p", "max_tokens", "seed", "slo_ttft", "slo_tpot", "stops", "tools"];

let conversation = new Conversation();
let running = null;  // the AbortController of the answer that is on its way

function settings() {
  return Object.fromEntries(SETTINGS.map((name) => [name, byId(name).value]));
}

function headers(more = {}) {
  const key = byId("key").value.trim();
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(byId("cache").checked ? {} : { "Cache-Control": "no-cache" }), ...more };
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
}

// --- models and state -------------------------------------------------------------------------------------------

async function loadModels() {
  const state = byId("state");
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (!response.ok) {
      state.textContent = await errorOf(response, "Settings: API key");
      return;
    }
    const names = (await response.json()).data.map((model) => model.id);
    const chosen = byId("model").value;
    byId("model").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) { byId("model").value = chosen; }
    const health = await fetch("/health");
    state.textContent = health.ok ? "ready" : "not ready";
  } catch (error) {
    state.textContent = `not reached: ${error.message}`;
  }
}

// --- the conversation, drawn ---------------------------------------------------------------------------------------

/** A call of a tool, with a field for its result while there is none. */
function drawCall(call) {
  const box = element("div", { className: "call" },
    element("div", {}, element("strong", { textContent: call.function.name }), " ", element("code", { textContent: call.function.arguments })));
  const result = conversation.messages.find((message) => message.tool_call_id === call.id);
  if (result) {
    box.append(element("div", { textContent: `result: ${result.content}` }));
  } else if (!running) {
    const field = element("input", { placeholder: "result of the tool", ariaLabel: `Result of ${call.function.name}` });
    const form = element("form", {}, field, element("button", { textContent: "Give result" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      conversation.answerCall(call.id, field.value);
      draw();
      if (conversation.openCalls().length === 0) { ask(); }
    });
    box.append(form);
  }
  return box;
}

function fillAnswer(item, answer, ending = "") {
  const parts = [element("div", { className: "who", textContent: "assistant" })];
  if (answer.reasoning) {
    parts.push(element("details", { open: !answer.content }, element("summary", { textContent: "Reasoning" }), element("p", { textContent: answer.reasoning })));
  }
  parts.push(...nodesOf(parse(answer.content ?? ""), document));
  for (const call of answer.tool_calls ?? []) {
    if (call) { parts.push(drawCall(call)); }
  }
  if (ending) { parts.push(element("p", { className: "ended", textContent: ending })); }
  item.replaceChildren(...parts);
}

function draw() {
  const items = [];
  for (const message of conversation.messages) {
    if (message.role === "user") {
      items.push(element("li", { className: "user" }, element("div", { className: "who", textContent: "you" }),
        element("p", { className: "text", textContent: message.content })));
    } else if (message.role === "assistant") {
      const item = element("li", { className: "assistant" });
      fillAnswer(item, message, message.ending);
      items.push(item);
    }
  }
  byId("chat").replaceChildren(...items);
  byId("chat").scrollTop = byId("chat").scrollHeight;
  showButtons();
}

function showButtons() {
  byId("send").disabled = running !== null;
  byId("stop").disabled = running === null;
  byId("regenerate").disabled = running !== null || conversation.messages.at(-1)?.role !== "assistant";
}

function showFigures(rows) {
  byId("figures").replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
}

// --- asking ------------------------------------------------------------------------------------------------------

/** What the server's timeline says of a request; null where it does not tell (docs/explain.md). */
async function timelineOf(id) {
  for (let tries = 0; id && tries < TOLD_TRIES; tries += 1) {
    try {
      const response = await fetch(`/explain/${encodeURIComponent(id)}`, { headers: headers() });
      if (response.ok) { return await response.json(); }
      if (response.status !== 404) { return null; }
    } catch {
      return null;
    }
    await new Promise((resolve) => { setTimeout(resolve, TOLD_WAIT_MS); });
  }
  return null;
}

async function ask() {
  if (running) { return; }
  let body;
  try {
    body = conversation.request(byId("model").value, settings());
  } catch (error) {
    notice(error.message);
    return;
  }
  notice("");
  const mine = new AbortController();
  const talk = conversation;
  running = mine;
  draw();
  const item = element("li", { className: "assistant" });
  byId("chat").append(item);
  const answer = new Answer();
  const figures = new Figures(performance.now());
  let response = null;
  let ending = "";
  let isDrawn = true;
  const drawPiece = () => {
    isDrawn = true;
    if (running !== mine) { return; }
    const chat = byId("chat");
    const atEnd = chat.scrollTop + chat.clientHeight > chat.scrollHeight - 40;
    fillAnswer(item, answer.message());
    showFigures(figures.rows(answer.usage, null, response?.headers));
    if (atEnd) { chat.scrollTop = chat.scrollHeight; }
  };
  try {
    response = await fetch("/v1/chat/completions", { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal: mine.signal });
    if (!response.ok) { throw new Error(await errorOf(response, "Settings: API key")); }
    let isWhole = false;
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      if (answer.take(JSON.parse(data))) { figures.piece(performance.now()); }
      if (isDrawn) {
        isDrawn = false;
        requestAnimationFrame(drawPiece);
      }
    }
    if (!isWhole) { throw new Error("the connection ended before the answer did"); }
    if (answer.finish === "length") { ending = "cut: the most tokens were reached"; }
  } catch (error) {
    ending = error.name === "AbortError" ? "stopped" : `not whole: ${error.message}`;
    if (error.name !== "AbortError") { notice(error.message); }
  }
  if (running === mine) { running = null; }
  if (talk !== conversation) { return; }  // a new chat was begun
  if (answer.text || answer.reasoning || answer.calls.length > 0) {
    const message = answer.message();
    Object.defineProperty(message, "ending", { value: ending, enumerable: false });
    talk.messages.push(message);
  }
  draw();
  showFigures(figures.rows(answer.usage, null, response?.headers));
  const told = response?.ok ? await timelineOf(response.headers.get("x-request-id")) : null;
  if (told && !running && talk === conversation) { showFigures(figures.rows(answer.usage, told, response.headers)); }
}

// --- what is clicked ---------------------------------------------------------------------------------------------

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("prompt").value;
  if (running || text.trim() === "") { return; }
  byId("prompt").value = "";
  conversation.say(text);
  ask();
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("regenerate").addEventListener("click", () => {
  if (!running && conversation.forgetAnswer()) { ask(); }
});
byId("clear").addEventListener("click", () => {
  running?.abort();
  running = null;
  conversation = new Conversation();
  notice("");
  showFigures([]);
  draw();
});
byId("key").addEventListener("change", loadModels);
byId("theme").addEventListener("click", switchTheme);
byId("settings-toggle").addEventListener("click", () => {
  const isOpen = byId("settings").classList.toggle("is-open");
  byId("settings-toggle").setAttribute("aria-expanded", String(isOpen));
});
byId("code").addEventListener("click", () => {
  const hasKey = byId("key").value.trim() !== "";
  const asked = new Conversation();
  asked.messages = conversation.messages.at(-1)?.role === "assistant" ? conversation.messages.slice(0, -1) : [...conversation.messages];
  if (byId("prompt").value.trim() !== "") { asked.messages = [...conversation.messages, { role: "user", content: byId("prompt").value }]; }
  try {
    const body = asked.request(byId("model").value, settings());
    byId("code-curl").textContent = asCurl(location.origin, body, hasKey);
    byId("code-python").textContent = asPython(location.origin, body, hasKey);
    byId("code-dialog").showModal();
  } catch (error) {
    notice(error.message);
  }
});
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", () => navigator.clipboard?.writeText(byId(button.dataset.copies).textContent));
}

showButtons();
loadModels();
byId("prompt").focus();
