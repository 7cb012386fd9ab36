// What was said, the request that asks for the next answer, and how its pieces join. Nothing here knows of the document.

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** @param {string} text  @returns {number | null} null where nothing was written */
function numberOf(text) {
  return String(text ?? "").trim() === "" ? null : Number(text);
}

/** The tools that were written; throws with what is wrong. @param {string} text */
export function readTools(text) {
  if (text.trim() === "") { return []; }
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools are not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) { throw new Error("Tools must be a list: [{\"type\": \"function\", ...}]"); }
  return tools;
}

export class Conversation {
  /** Messages as the API has them, without the system's. */
  messages = [];

  say(text) { this.messages.push({ role: "user", content: text }); }

  answerCall(id, text) { this.messages.push({ role: "tool", tool_call_id: id, content: text }); }

  /** Takes the last answer away, so that it can be asked for again; false where there is none. */
  forgetAnswer() {
    if (this.messages.at(-1)?.role !== "assistant") { return false; }
    this.messages.pop();
    return true;
  }

  /** Calls of the last answer that have no result yet. */
  openCalls() {
    const at = this.messages.findLastIndex((message) => message.role === "assistant");
    const answered = new Set(this.messages.slice(at + 1).map((message) => message.tool_call_id));
    return (this.messages[at]?.tool_calls ?? []).filter((call) => !answered.has(call.id));
  }

  /** The body of the request for what comes next. Throws an Error that says what is wrong with the settings. */
  request(model, settings) {
    const system = settings.system.trim() === "" ? [] : [{ role: "system", content: settings.system }];
    const body = { model, messages: [...system, ...this.messages.map(forTheApi)], stream: true, stream_options: { include_usage: true } };
    for (const name of NUMBERS) {
      const value = numberOf(settings[name]);
      if (value !== null) { body[name] = value; }
    }
    const slo = {};
    for (const [name, value] of [["ttft_ms", numberOf(settings.slo_ttft)], ["tpot_ms", numberOf(settings.slo_tpot)]]) {
      if (value !== null) { slo[name] = value; }
    }
    if (Object.keys(slo).length > 0) { body.slo = slo; }
    const stops = settings.stops.split("\n").filter((line) => line !== "");
    if (stops.length > 0) { body.stop = stops; }
    const tools = readTools(settings.tools);
    if (tools.length > 0) { body.tools = tools; }
    return body;
  }
}

/** Reasoning is shown, and not sent back. */
function forTheApi(message) {
  const { reasoning, ...rest } = message;
  return rest;
}

/** An answer that grows by the chunks of a stream. */
export class Answer {
  text = "";
  reasoning = "";
  calls = [];
  finish = null;
  usage = null;

  /** Takes a chunk. True where it brought something to show. Throws where the stream tells an error. */
  take(chunk) {
    if (chunk.error) { throw new Error(chunk.error.message ?? "the server ended the answer"); }
    if (chunk.usage) { this.usage = chunk.usage; }
    const choice = chunk.choices?.[0];
    if (!choice) { return false; }
    if (choice.finish_reason) { this.finish = choice.finish_reason; }
    const delta = choice.delta ?? {};
    this.text += delta.content ?? "";
    this.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
    for (const part of delta.tool_calls ?? []) {
      const call = (this.calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      if (part.id) { call.id = part.id; }
      call.function.name += part.function?.name ?? "";
      call.function.arguments += part.function?.arguments ?? "";
    }
    return Boolean(delta.content || delta.reasoning_content || delta.reasoning || delta.tool_calls);
  }

  message() {
    const message = { role: "assistant", content: this.calls.length > 0 && this.text === "" ? null : this.text };
    if (this.calls.length > 0) { message.tool_calls = this.calls; }
    if (this.reasoning) { message.reasoning = this.reasoning; }
    return message;
  }
}
