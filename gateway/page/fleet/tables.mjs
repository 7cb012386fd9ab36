// What /fleet/state says, as tables: no DOM here. A cell is a text, or {text, tone, meter, wide}; names are data, and whoever
// draws them makes text of them.

import { bytes, count, duration, NOT_KNOWN, rate, share, time } from "./words.mjs";

const STATE_TONES = { ready: "good", draining: "warn", suspect: "bad", ejected: "bad" };

/** @returns {{name: string, isNumber: boolean}[]}  A name that ends in # is of a column of figures. */
function columns(...names) {
  return names.map((name) => ({ name: name.replace(/#$/, ""), isNumber: name.endsWith("#") }));
}

function toned(text, tone) {
  return tone ? { text, tone } : text;
}

/** A share of 0 to 1 with its bar. */
function metered(value, text = share(value)) {
  return typeof value === "number" ? { text, meter: Math.min(1, Math.max(0, value)) } : NOT_KNOWN;
}

function burnTone(burn) {
  return burn >= 6 ? "bad" : burn > 1 ? "warn" : "good";
}

function table(id, title, head, rows, leftOff = 0) {
  return { id, title, head, rows, more: leftOff };
}

/** Workers of a state: what the scheduler says of each. `mayDrain`: whether it can be asked to. */
export function workersTable(state) {
  const mayDrain = state.scheduler.reached;
  const rows = state.workers.rows.map((worker) => ({
    key: `${worker.id}/${worker.incarnation}`,
    watched: worker.state,
    worker,
    canDrain: mayDrain && worker.state !== "draining",
    cells: [worker.id, worker.address, worker.model, worker.role, toned(worker.state, STATE_TONES[worker.state] ?? "bad"), count(worker.running),
      count(worker.waiting), count(worker.queued_tokens), metered(worker.kv.in_use_ratio), count(worker.kv.cached), count(worker.kv.free), duration(worker.heartbeat_age_s)],
  }));
  const head = columns("Worker", "Address", "Model", "Role", "State", "Running#", "Waiting#", "Queued tokens#", "KV in use", "Cached#", "Free#", "Heard of#", "");
  return table("workers", "Workers", head, rows, state.workers.matching - state.workers.rows.length);
}

/** "3 of 4, 1 draining": of all workers, whatever is filtered. */
export function workersCount(workers) {
  const others = Object.entries(workers.states).filter(([name]) => name !== "ready").map(([name, number]) => `, ${count(number)} ${name}`).join("");
  const found = workers.matching === workers.total ? "" : `; ${count(workers.matching)} found`;
  return `${count(workers.states.ready ?? 0)} of ${count(workers.total)} ready${others}${found}`;
}

/** The other sections, those that have nothing left out. */
export function sectionsOf(state) {
  const left = (name) => state.left_off?.[name] ?? 0;
  const ready = new Map(state.served.map((model) => [model.model, model.ready]));
  const tables = [
    table("changes", "What changed", columns("At", "What", "Which", ""),
      state.changes.map((change) => ({
        key: `${change.unix_s} ${change.what} ${change.name} ${change.text}`,
        cells: [time(change.unix_s), change.what, change.name, { text: change.text, wide: true }],
      }))),
    table("pools", "Pools", columns("Model", "Role", "Ready#", "Draining#", "Suspect#", "Ejected#", "Waiting#", "Running#"),
      state.pools.map((pool) => ({
        key: `${pool.model} ${pool.role}`,
        watched: `${pool.ready} ${pool.draining} ${pool.suspect} ${pool.ejected}`,
        cells: [toned(ready.get(pool.model) === false ? `${pool.model} (not ready)` : pool.model, ready.get(pool.model) === false ? "bad" : ""), pool.role,
          toned(count(pool.ready), pool.ready > 0 ? "" : "bad"), toned(count(pool.draining), pool.draining > 0 ? "warn" : ""),
          toned(count(pool.suspect), pool.suspect > 0 ? "bad" : ""), toned(count(pool.ejected), pool.ejected > 0 ? "bad" : ""), count(pool.waiting), count(pool.running)],
      })), left("pools")),
    table("models", "Models", columns("Model", "Running#", "Requests/s#", "Prompt tokens/s#", "Tokens/s#", "Within targets/s#"),
      state.models.map((model) => ({
        key: model.model,
        cells: [model.model, count(model.running), rate(model.requests_per_s), rate(model.prompt_tokens_per_s), rate(model.completion_tokens_per_s), rate(model.goodput_requests_per_s)],
      })), left("models")),
    table("slo", "Targets", columns("Model", "Class", "Target", "Met#", "Goal#", "Burn#", "Of#"),
      state.slo.map((slo) => ({
        key: `${slo.model} ${slo.slo_class} ${slo.slo}`,
        cells: [slo.model, slo.slo_class, slo.slo, share(slo.attainment, 2), share(slo.objective, 1), toned(slo.burn.toFixed(1), burnTone(slo.burn)),
          `${count(slo.met + slo.missed)}${slo.window === "start" ? " in all" : ""}`],
      })), left("slo")),
    table("queues", "Queues", columns("Model", "Stage", "Requests#", "Tokens#", "Saturation"),
      state.queues.map((queue) => ({
        key: `${queue.model} ${queue.stage}`,
        cells: [queue.model, queue.stage, count(queue.requests), count(queue.tokens), metered(queue.saturation)],
      })), left("queues")),
    table("kv", "KV blocks by worker and level", columns("Worker", "Level", "Used#", "Cached#", "Free#", "Pinned#", "Stranded#", "In use"),
      state.kv.map((row) => ({
        key: `${row.worker} ${row.level}`,
        cells: [row.worker, row.level, ...["used", "cached", "free", "pinned"].map((name) => count(row[name] ?? 0)),
          toned(count(row.stranded ?? 0), row.stranded > 0 ? "warn" : ""), metered(row.in_use_ratio)],
      })), left("kv")),
    table("transfers", "KV on its way", columns("Over", "Codec", "Sent/s#", "Sent#", "Under way#", "Whole#", "Failed#"),
      state.transfers.map((one) => ({
        key: `${one.transport} ${one.codec}`,
        cells: [one.transport, one.codec, bytes(one.sent_bytes_per_s), bytes(one.sent_bytes), bytes(one.inflight_bytes), count(one.ok), toned(count(one.failed), one.failed > 0 ? "warn" : "")],
      })), left("transfers")),
    table("processes", "Processes", columns("Process", "Role", "Version", "Up#", "CPU#", "Memory#"),
      state.processes.map((process) => ({
        key: process.url,
        watched: `${process.up} ${process.version}`,
        cells: process.up
          ? [process.url, `${process.roles.join(", ")}${process.leads === false ? " (stands by)" : ""}`, process.version ?? NOT_KNOWN, duration(process.uptime_s),
            typeof process.cpu_cores === "number" ? process.cpu_cores.toFixed(2) : NOT_KNOWN, bytes(process.resident_bytes)]
          : [process.url, { text: `not reached: ${process.problem}`, tone: "bad", wide: true }, "", "", "", ""],
      })), left("processes")),
  ];
  return tables.filter((one) => one.rows.length > 0);
}

/** Tiles: [name, text, tone]. */
export function summaryOf(state) {
  const { summary, workers } = state;
  const tiles = [["Workers ready", `${count(workers.states.ready ?? 0)} of ${count(workers.total)}`, workers.states.suspect > 0 || workers.states.ejected > 0 ? "bad" : workers.states.draining > 0 ? "warn" : ""],
    ["Processes", summary.processes_down > 0 ? `${count(summary.processes_up)}, ${count(summary.processes_down)} not reached` : count(summary.processes_up), summary.processes_down > 0 ? "bad" : ""],
    ["Requests running", count(summary.requests_running), ""],
    ["Requests queued", count(summary.requests_queued), ""]];
  if (typeof summary.burn_max === "number") { tiles.push(["Fastest burn", summary.burn_max.toFixed(1), burnTone(summary.burn_max)]); }
  return tiles;
}

/** What is wrong with the look itself; empty: nothing. */
export function warningOf(state) {
  if (state.scheduler.reached) { return ""; }
  const age = state.scheduler.workers_age_s;
  const known = age === null ? "Nothing is known of workers." : `The workers shown are those of ${duration(age)} ago, and none can be drained.`;
  return `The scheduler is not reached: ${state.scheduler.problem}. ${known}`;
}

/** "as of 12:00:00, rates over 2.0 s" */
export function stateLine(state) {
  return `as of ${time(state.unix_s)}${state.interval_s === null ? "" : `, rates over ${duration(state.interval_s)}`}`;
}

/** What somebody confirms: [what happens, what it may cost]. */
export function drainWords(worker) {
  const load = worker.running + worker.waiting;
  return [`The ${worker.role} worker ${worker.id} at ${worker.address} (${worker.model}) finishes the ${count(load)} requests that it has and gets nothing new. `
    + "There is no way back but to start it anew.",
  worker.is_last ? `No other worker of ${worker.model} is ready for what it does: new requests will be refused until one is.` : ""];
}
