// The page's parts without a browser: events from bytes, answers from chunks, requests, Markdown, code.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import test from "node:test";

import { Answer, Conversation, readTools } from "../../../../gateway/page/conversation.mjs";
import { EventReader, eventsOf } from "../../../../gateway/page/events.mjs";
import { Figures } from "../../../../gateway/page/figures.mjs";
import { parse } from "../../../../gateway/page/markdown.mjs";
import { asCurl, asPython, asPythonValue } from "../../../../gateway/page/snippets.mjs";

const NOTHING = { system: "", temperature: "", top_p: "", max_tokens: "", seed: "", slo_ttft: "", slo_tpot: "", stops: "", tools: "" };

/** The tree as text with its tags. */
function shown(tree) {
  return tree.map((part) => (typeof part === "string" ? part : `<${part.tag}${part.href ? ` ${part.href}` : ""}>${shown(part.children)}</>`)).join("");
}

test("events are the same wherever the bytes are cut", async () => {
  const text = ": ping\n\ndata: {\"a\":\"é\"}\r\n\r\ndata: one\ndata: two\nevent: x\n\ndata:[DONE]\n\n";
  const expected = ["{\"a\":\"é\"}", "one\ntwo", "[DONE]"];
  const bytes = new TextEncoder().encode(text);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const pieces = [bytes.slice(0, cut), bytes.slice(cut)].filter((piece) => piece.length > 0);
    const body = new ReadableStream({ start(controller) { pieces.forEach((piece) => controller.enqueue(piece)); controller.close(); } });
    const found = [];
    for await (const data of eventsOf(new Response(body))) { found.push(data); }
    assert.deepEqual(found, expected, `cut at ${cut}`);
  }
  const reader = new EventReader();
  assert.deepEqual([...text].flatMap((letter) => reader.take(letter)), expected);
});

test("an answer is what its chunks say, calls and reasoning too", () => {
  const answer = new Answer();
  const chunk = (delta, finish = null) => ({ choices: [{ delta, finish_reason: finish }] });
  assert.equal(answer.take(chunk({ role: "assistant", content: "" })), false);
  assert.equal(answer.take(chunk({ reasoning_content: "hm" })), true);
  assert.equal(answer.take(chunk({ content: "Hi" })), true);
  answer.take(chunk({ tool_calls: [{ index: 0, id: "c1", type: "function", function: { name: "add", arguments: "" } }] }));
  answer.take(chunk({ tool_calls: [{ index: 0, function: { arguments: "{\"a\"" } }] }));
  answer.take(chunk({ tool_calls: [{ index: 1, id: "c2", function: { name: "sub", arguments: "{}" } }] }));
  answer.take(chunk({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }] }, "tool_calls"));
  answer.take({ choices: [], usage: { completion_tokens: 3 } });
  assert.equal(answer.finish, "tool_calls");
  assert.equal(answer.usage.completion_tokens, 3);
  const message = answer.message();
  assert.deepEqual(message.tool_calls.map((call) => [call.id, call.function.name, call.function.arguments]), [["c1", "add", "{\"a\":1}"], ["c2", "sub", "{}"]]);
  assert.equal(message.reasoning, "hm");
  assert.throws(() => answer.take({ error: { message: "worker lost" } }), /worker lost/);

  const talk = new Conversation();
  talk.say("?");
  talk.messages.push(message);
  assert.deepEqual(talk.openCalls().map((call) => call.id), ["c1", "c2"]);
  talk.answerCall("c1", "1");
  assert.deepEqual(talk.openCalls().map((call) => call.id), ["c2"]);
  const sent = talk.request("m", NOTHING).messages;
  assert.ok(!("reasoning" in sent[1]) && sent[2].tool_call_id === "c1");
  assert.equal(talk.forgetAnswer(), false);  // a result stands behind it
});

test("a request has what was set and nothing else", () => {
  const talk = new Conversation();
  talk.say("Hi");
  assert.deepEqual(talk.request("m", NOTHING), { model: "m", messages: [{ role: "user", content: "Hi" }], stream: true, stream_options: { include_usage: true } });
  const body = talk.request("m", { ...NOTHING, system: "Be brief", temperature: "0", seed: "7", slo_tpot: "30", stops: "\nEND\n", tools: "[{\"type\":\"function\"}]" });
  assert.deepEqual([body.messages[0].role, body.temperature, body.seed, body.slo, body.stop, body.tools.length, "top_p" in body],
    ["system", 0, 7, { tpot_ms: 30 }, ["END"], 1, false]);
  assert.throws(() => readTools("{"), /not JSON/);
  assert.throws(() => readTools("{}"), /list/);
});

test("Markdown becomes a tree, and what is no Markdown stays text", () => {
  const cases = [
    ["a **b *c* d** `e*f*`", "<p>a <strong>b <em>c</> d</> <code>e*f*</></>"],
    ["2 * 3 * 4, snake_case_name, \\*x\\*", "<p>2 * 3 * 4, snake_case_name, *x*</>"],
    ["<img src=x onerror=alert(1)>", "<p><img src=x onerror=alert(1)></>"],
    ["[a](javascript:alert(1)) [b](https://e.org/x)", "<p>[a](javascript:alert(1)) <a https://e.org/x>b</></>"],
    ["see https://e.org/x_y_z.", "<p>see <a https://e.org/x_y_z>https://e.org/x_y_z</>.</>"],
    ["```py\n# no heading\n<b>\n```\nafter", "<pre><code># no heading\n<b></></><p>after</>"],
    ["```\nopen", "<pre><code>open</></>"],
    ["# A\n## B #\ntext\n\n---", "<h2>A</><h3>B</><p>text</><hr></>"],
    ["- a\n  - b\n- c", "<ul><li><p>a</><ul><li>b</></></><li>c</></>"],
    ["1. a\n2. b", "<ol><li>a</><li>b</></>"],
    ["> q\n> r", "<blockquote><p>q\nr</></>"],
    ["| a | b |\n|---|:-:|\n| 1 | `x` |", "<table><thead><tr><th>a</><th>b</></></><tbody><tr><td>1</><td><code>x</></></></></>"],
    ["a | b\nc", "<p>a | b\nc</>"],
  ];
  for (const [text, expected] of cases) { assert.equal(shown(parse(text)), expected, text); }
  assert.equal(parse("4. x")[0].start, 4);
});

test("hostile Markdown ends and loses no letter", () => {
  for (const unit of ["*", "_a", "`", "[", "> ", "- ", "  - a\n", "**a", "~~a ", "|a", "![", "https://", "\\"]) {
    const text = unit.repeat(20000);
    const letters = (tree) => tree.map((part) => (typeof part === "string" ? part : letters(part.children))).join("");
    const found = letters(parse(text));
    assert.equal((found.match(/a/g) ?? []).length, (text.match(/a/g) ?? []).length, unit);
  }
});

test("figures are by the pieces until the usage is there", () => {
  const figures = new Figures(1000);
  assert.deepEqual(figures.rows(null, null, null), []);
  figures.piece(1100);
  figures.piece(1120);
  figures.piece(1140);
  const before = Object.fromEntries(figures.rows(null, null, null));
  assert.deepEqual([before.TTFT, before.TPOT, before["Tokens/s"], before.Tokens], ["100.0 ms", "20.0 ms", "50.0", "3 out"]);
  const together = new Figures(0);
  [7, 7.1, 7.2].forEach((now) => together.piece(now));
  assert.deepEqual(together.rows(null, null, null).map(([name]) => name), ["TTFT", "Tokens"]);
  const told = { targets: { ttft_ms: 50 }, missed: { all: { cause: "prefill", meaning: "slow" } }, sequences: [{ predicted: { ttft_ms: 90, tpot_ms: 9.5 } }] };
  const usage = { prompt_tokens: 32, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 16 } };
  const after = Object.fromEntries(figures.rows(usage, told, new Headers({ "x-cache": "HIT", "x-cache-kind": "exact" })));
  assert.deepEqual(after, { TTFT: "100.0 ms (predicted 90.0, target 50)", TPOT: "10.0 ms (predicted 9.5)", "Tokens/s": "100.0", Tokens: "32 in, 5 out",
    "KV cache": "16 of 32 tokens", "Answer cache": "HIT exact", Late: "prefill: slow" });
});

test("code says what the request says, whatever stands in it", () => {
  const text = "it's \"$HOME\" `id` \\ \n ünï \u2028 😀 'quoted'";
  const body = { model: "m", messages: [{ role: "user", content: text }], stream: true, slo: { ttft_ms: 5 }, temperature: 0 };
  const curl = asCurl("http://h:1", body, true).replace(/^curl -N/, "printf '%s\\n'").replace("$SLUICE_API_KEY", "k");
  const words = execFileSync("bash", ["-c", curl], { encoding: "utf8" });
  assert.ok(words.startsWith("http://h:1/v1/chat/completions\n-H\nAuthorization: Bearer k\n"));
  assert.deepEqual(JSON.parse(words.slice(words.indexOf("\n-d\n") + 4)), body);
  const python = execFileSync("python3", ["-c", `import json\nprint(json.dumps(${asPythonValue({ ...body, none: null, no: false, list: [1, []] })}))`], { encoding: "utf8" });
  assert.deepEqual(JSON.parse(python), { ...body, none: null, no: false, list: [1, []] });
  assert.match(asPython("http://h:1", body, false), /extra_body=\{"slo": \{"ttft_ms": 5\}\}/);
});
