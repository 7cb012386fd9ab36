// The fleet page: what the server's looks at the cluster say, while somebody watches. Everything lives in this tab's memory.

import { byId, element, errorOf, switchTheme } from "/page/shared.mjs";
import { drainWords, sectionsOf, stateLine, summaryOf, warningOf, workersCount, workersTable } from "/page/fleet/tables.mjs";

const LOOK_MS = 2000;         // between two questions; the server looks no more often than it wants
const LOOK_MS_MAX = 16_000;   // where it does not answer
const ANSWER_MS_MAX = 60_000;
const TYPING_MS = 250;

let timer = 0;
let asking = null;  // the AbortController of the question that is on its way
let failures = 0;
let draining = null;  // the worker that the dialog is about

// --- drawing -----------------------------------------------------------------------------------------------------

function say(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = text === "";
}

function sayDone(text, isBad = false) {
  say("done", text);
  byId("done").classList.toggle("bad", isBad);
}

function fillCell(cell, content) {
  const { text, tone = "", meter, wide = false } = typeof content === "string" ? { text: content } : content;
  const parts = [];
  if (meter !== undefined) {
    parts.push(cell.querySelector("meter") ?? element("meter", { min: 0, max: 1, low: 0.8, high: 0.95, optimum: 0 }));
    parts[0].value = meter;
    parts[0].setAttribute("aria-label", text);
  }
  if (cell.textContent !== text || cell.children.length !== parts.length) { cell.replaceChildren(...parts, text); }
  cell.classList.remove("good", "warn", "bad");
  if (tone) { cell.classList.add(tone); }
  cell.classList.toggle("text", wide);
}

/** Rows keep their elements from one look to the next: what is focused or marked stays so. `isFirst`: nothing was there to compare with. */
function drawTable(section, table, button) {
  const head = section.querySelector("thead");
  if (head.children.length === 0) {
    head.append(element("tr", {}, ...table.head.map(({ name, isNumber }) => element("th", { textContent: name, scope: "col", className: isNumber ? "number" : "" }))));
  }
  const body = section.querySelector("tbody");
  const isFirst = body.children.length === 0;
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  table.rows.forEach((row, index) => {
    let line = known.get(row.key);
    const isNew = !line;
    line ??= element("tr", {}, ...table.head.map(({ isNumber }) => element("td", { className: isNumber ? "number" : "" })));
    known.delete(row.key);
    const isTouched = !isFirst && (isNew || (row.watched !== undefined && line.dataset.watched !== row.watched));
    line.classList.toggle("touched", isTouched);
    line.dataset.key = row.key;
    line.dataset.watched = row.watched ?? "";
    row.cells.forEach((content, column) => fillCell(line.children[column], content));
    button?.(line.lastElementChild, row);
    if (body.children[index] !== line) { body.insertBefore(line, body.children[index] ?? null); }
  });
  for (const line of known.values()) { line.remove(); }
  const more = section.querySelector(".more");
  more.textContent = `and ${table.more} more`;
  more.hidden = table.more <= 0;
}

function drawDrain(cell, row) {
  let button = cell.querySelector("button");
  if (!button) {
    button = element("button", { type: "button", textContent: "Drain" });
    button.addEventListener("click", () => askToDrain(button.worker));
    cell.append(button);
  }
  button.worker = row.worker;
  button.disabled = !row.canDrain;
  button.setAttribute("aria-label", `Drain worker ${row.worker.id}`);
}

function sectionFor({ id, title }) {
  return byId(`section-${id}`) ?? element("section", { id: `section-${id}` }, element("h2", { textContent: title }),
    element("div", { className: "wide" }, element("table", {}, element("thead"), element("tbody"))), element("p", { className: "more", hidden: true }));
}

function draw(state) {
  byId("summary").replaceChildren(...summaryOf(state).map(([name, text, tone]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text, className: tone }))));
  say("notice", warningOf(state));
  byId("state").textContent = stateLine(state);
  byId("workers").hidden = false;
  byId("workers-count").textContent = workersCount(state.workers);
  drawTable(byId("workers"), workersTable(state), drawDrain);
  const tables = sectionsOf(state);
  const sections = tables.map(sectionFor);
  tables.forEach((table, index) => drawTable(sections[index], table));
  if (sections.some((section, index) => byId("sections").children[index] !== section) || byId("sections").children.length !== sections.length) {
    byId("sections").replaceChildren(...sections);
  }
  byId("fleet").classList.remove("is-old");
}

// --- asking ------------------------------------------------------------------------------------------------------

function headers() {
  return { Authorization: `Bearer ${byId("key").value.trim()}` };
}

function lookIn(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(look, milliseconds);
}

/** Asks now; a question that is on its way is of no interest any more. */
async function look() {
  clearTimeout(timer);
  asking?.abort();
  if (byId("key").value.trim() === "") {
    forget();
    byId("state").textContent = "an API key of scope admin is needed";
    return;
  }
  if (document.hidden) { return; }
  const mine = new AbortController();
  asking = mine;
  try {
    const asked = new URLSearchParams({ q: byId("words").value, rows: byId("rows").value });
    const response = await fetch(`/fleet/state?${asked}`, { headers: headers(), signal: AbortSignal.any([mine.signal, AbortSignal.timeout(ANSWER_MS_MAX)]) });
    if (!response.ok) {
      const text = await errorOf(response, "above: API key");
      if (asking !== mine) { return; }
      if (response.status === 401 || response.status === 403) {  // another key is needed: no use in asking again
        forget();
        byId("state").textContent = "not let in";
        return say("notice", text);
      }
      throw new Error(text);
    }
    const state = await response.json();
    if (asking !== mine) { return; }
    draw(state);
    failures = 0;
    lookIn(LOOK_MS);
  } catch (error) {
    if (asking !== mine) { return; }
    failures += 1;
    byId("fleet").classList.add("is-old");
    say("notice", `Not reached: ${error.message}. What is shown is old.`);
    lookIn(Math.min(LOOK_MS_MAX, LOOK_MS * 2 ** failures));
  }
}

/** Nothing of what a key has shown stays when it is not good any more. */
function forget() {
  byId("summary").replaceChildren();
  byId("sections").replaceChildren();
  byId("workers").hidden = true;
  byId("workers").querySelector("tbody").replaceChildren();
  byId("fleet").classList.remove("is-old");
}

function askToDrain(worker) {
  draining = worker;
  const [text, warning] = drainWords(worker);
  say("drain-text", text);
  say("drain-warning", warning);
  byId("drain-dialog").showModal();
  byId("drain-no").focus();
}

async function drain(worker) {
  sayDone("");
  try {
    const response = await fetch("/fleet/drain", { method: "POST", headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify({ worker: worker.id, incarnation: worker.incarnation }), signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    if (!response.ok) { throw new Error(await errorOf(response, "above: API key")); }
    const told = await response.json();
    sayDone(`Worker ${told.worker} at ${told.address} takes no new requests; it had ${told.requests} when it reported last.`);
  } catch (error) {
    sayDone(`Worker ${worker.id} is not drained: ${error.message}`, true);
  }
  look();
}

// --- what is clicked ---------------------------------------------------------------------------------------------

byId("key").addEventListener("change", look);
byId("rows").addEventListener("change", look);
byId("words").addEventListener("input", () => lookIn(TYPING_MS));
byId("theme").addEventListener("click", switchTheme);
byId("drain-no").addEventListener("click", () => byId("drain-dialog").close());
byId("drain-yes").addEventListener("click", () => {
  byId("drain-dialog").close();
  drain(draining);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) { look(); } });
byId("key").focus();
