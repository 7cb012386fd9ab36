// The fleet page's parts without a browser: tables of what the server says, and figures as words.
import assert from "node:assert/strict";
import test from "node:test";

import { drainWords, sectionsOf, stateLine, summaryOf, warningOf, workersCount, workersTable } from "../../../../gateway/page/fleet/tables.mjs";
import { bytes, count, duration, NOT_KNOWN, rate, share } from "../../../../gateway/page/fleet/words.mjs";

function worker(more = {}) {
  return { id: "00000000000000aa", incarnation: "00000000000000bb", address: "127.0.0.1:7", model: "m", role: "decode", state: "ready", waiting: 1, running: 2, queued_tokens: 30,
    kv: { used: 30, cached: 5, free: 65, pinned: 0, stranded: 0, blocks: 100, in_use_ratio: 0.3 }, heartbeat_age_s: 0.25, is_last: false, ...more };
}

function state(more = {}) {
  return { unix_s: 1_700_000_000, interval_s: 2,
    summary: { processes_up: 2, processes_down: 0, requests_running: 3, requests_queued: 0, burn_max: null },
    processes: [], models: [], slo: [], pools: [], queues: [], kv: [], transfers: [], left_off: {},
    scheduler: { reached: true, problem: "", epoch: 1, workers_age_s: 0 }, served: [],
    workers: { total: 1, matching: 1, states: { ready: 1 }, rows: [worker()] }, changes: [], ...more };
}

const text = (cell) => (typeof cell === "string" ? cell : cell.text);

test("figures are words, and what is not known is no figure", () => {
  for (const words of [count, rate, bytes, share, duration]) {
    for (const nothing of [null, undefined, NaN, Infinity, "7"]) { assert.equal(words(nothing), NOT_KNOWN); }
  }
  assert.deepEqual([count(0), count(9999), count(12345), count(23456789)], ["0", "9999", "12.3 k", "23.5 M"]);
  assert.deepEqual([rate(3.14159), rate(250)], ["3.1", "250"]);
  assert.deepEqual([bytes(0), bytes(2048), bytes(50 * 1024 ** 3)], ["0 B", "2.0 KiB", "50 GiB"]);
  assert.deepEqual([share(0.123), share(0.9995, 2)], ["12 %", "99.95 %"]);
  assert.deepEqual([duration(0.25), duration(61), duration(3661), duration(90061)], ["0.3 s", "1 m 01 s", "1 h 01 m", "1 d 01 h"]);
});

test("a worker's row says its state, and only what takes new requests can be drained", () => {
  const table = workersTable(state({ workers: { total: 900, matching: 7, states: {}, rows: [worker(), worker({ state: "draining" }), worker({ state: "suspect" })] } }));
  assert.deepEqual(table.rows.map((row) => row.canDrain), [true, false, true]);
  assert.deepEqual(table.rows.map((row) => row.cells[4].tone), ["good", "warn", "bad"]);
  assert.equal(table.more, 4);
  assert.equal(table.head.length, table.rows[0].cells.length + 1);  // the last is the button's
  assert.equal(table.rows[0].cells[8].meter, 0.3);
  assert.equal(workersTable(state({ scheduler: { reached: false, problem: "x", epoch: 1, workers_age_s: 4 } })).rows[0].canDrain, false);
});

test("a new life of a worker is another row, so that no click is meant for the one before", () => {
  const keys = ["00000000000000bb", "00000000000000cc"].map((incarnation) => workersTable(state({ workers: { total: 1, matching: 1, states: {}, rows: [worker({ incarnation })] } })).rows[0].key);
  assert.notEqual(keys[0], keys[1]);
});

test("how many workers there are is of all, whatever is shown", () => {
  assert.equal(workersCount({ total: 5000, matching: 5000, states: { ready: 4998, suspect: 2 } }), "4998 of 5000 ready, 2 suspect");
  assert.equal(workersCount({ total: 4, matching: 1, states: { draining: 4 } }), "0 of 4 ready, 4 draining; 1 found");
});

test("sections are those that have something to say", () => {
  assert.deepEqual(sectionsOf(state()), []);
  const full = sectionsOf(state({
    processes: [{ url: "http://a:1", up: true, roles: ["scheduler"], leads: false, version: "1", uptime_s: 70, cpu_cores: null, resident_bytes: 1024 }, { url: "http://b:1", up: false, problem: "refused" }],
    models: [{ model: "m", running: 1, requests_per_s: null, prompt_tokens_per_s: 1, completion_tokens_per_s: 2, goodput_requests_per_s: 3 }],
    slo: [{ model: "m", slo_class: "default", slo: "ttft", window: "start", met: 9, missed: 1, attainment: 0.9, objective: 0.95, burn: 2 }],
    pools: [{ model: "m", role: "decode", ready: 0, draining: 1, suspect: 0, ejected: 0, waiting: 0, running: 4 }],
    queues: [{ model: "m", stage: "decode", requests: 4, tokens: 5, saturation: 1.7 }],
    kv: [{ worker: "decode-0", level: "pool", used: 1, free: 3, blocks: 4, in_use_ratio: 0.25 }],
    transfers: [{ transport: "tls", codec: "raw", sent_bytes: 1, sent_bytes_per_s: null, inflight_bytes: 0, ok: 1, failed: 2 }],
    served: [{ model: "m", ready: false, context_tokens: 512 }], left_off: { kv: 12 },
    changes: [{ unix_s: 1_700_000_000, what: "worker", name: "00aa", text: "was ready, is draining" }],
  }));
  assert.deepEqual(full.map((table) => table.id), ["changes", "pools", "models", "slo", "queues", "kv", "transfers", "processes"]);
  for (const table of full) {
    for (const row of table.rows) { assert.equal(row.cells.length, table.head.length, table.id); }
  }
  const of = (id) => full.find((table) => table.id === id);
  assert.equal(of("kv").more, 12);
  assert.match(text(of("pools").rows[0].cells[0]), /not ready/);
  assert.equal(of("queues").rows[0].cells[4].meter, 1);
  assert.equal(of("slo").rows[0].cells[5].tone, "warn");
  assert.equal(of("slo").rows[0].cells[6], "10 in all");
  assert.deepEqual(of("processes").rows.map((row) => text(row.cells[1])), ["scheduler (stands by)", "not reached: refused"]);
  assert.equal(text(of("models").rows[0].cells[2]), NOT_KNOWN);
});

test("names are passed on as they are: who draws them makes text of them", () => {
  const evil = "<img src=x onerror=alert(1)>";
  const row = workersTable(state({ workers: { total: 1, matching: 1, states: {}, rows: [worker({ address: evil, model: evil, state: evil })] } })).rows[0];
  assert.equal(row.cells[1], evil);
  assert.equal(row.cells[4].tone, "bad");
  assert.ok(drainWords(worker({ model: evil }))[0].includes(evil));
});

test("what cannot be known is said", () => {
  assert.equal(warningOf(state()), "");
  assert.match(warningOf(state({ scheduler: { reached: false, problem: "no connection", epoch: null, workers_age_s: null } })), /no connection.*Nothing is known/);
  assert.match(warningOf(state({ scheduler: { reached: false, problem: "no connection", epoch: 3, workers_age_s: 75 } })), /1 m 15 s ago, and none can be drained/);
  assert.match(stateLine(state()), /rates over 2\.0 s/);
  assert.doesNotMatch(stateLine(state({ interval_s: null })), /rates/);
});

test("at a glance: what somebody should look at is marked", () => {
  const tones = (more) => Object.fromEntries(summaryOf(state(more)).map(([name, , tone]) => [name, tone]));
  assert.deepEqual(Object.values(tones({})).join(""), "");
  assert.ok(!("Fastest burn" in tones({})));
  const bad = tones({ summary: { processes_up: 1, processes_down: 1, requests_running: 0, requests_queued: 0, burn_max: 14.4 }, workers: { total: 2, matching: 2, states: { ready: 1, suspect: 1 }, rows: [] } });
  assert.deepEqual([bad["Workers ready"], bad.Processes, bad["Fastest burn"]], ["bad", "bad", "bad"]);
});

test("who drains is told what it means", () => {
  const [text, warning] = drainWords(worker());
  assert.match(text, /00000000000000aa at 127\.0\.0\.1:7 \(m\) finishes the 3 requests/);
  assert.equal(warning, "");
  assert.match(drainWords(worker({ is_last: true }))[1], /refused/);
});
