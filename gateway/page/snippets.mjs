// The request as somebody would write it: for curl and for OpenAI's Python client. The key is never in it.

/** For a POSIX shell: nothing in `text` is anything but text. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export function asCurl(origin, body, hasKey) {
  return [
    `curl -N ${quoted(`${origin}/v1/chat/completions`)}`,
    ...(hasKey ? ["-H \"Authorization: Bearer $SLUICE_API_KEY\""] : []),
    "-H 'Content-Type: application/json'",
    `-d ${quoted(JSON.stringify(body, null, 2))}`,
  ].join(" \\\n  ");
}

/** A value as Python writes it. */
export function asPythonValue(value, indent = "") {
  if (value === null || value === undefined) { return "None"; }
  if (value === true) { return "True"; }
  if (value === false) { return "False"; }
  if (typeof value !== "object") { return JSON.stringify(value); }
  const inner = `${indent}    `;
  const isList = Array.isArray(value);
  const parts = isList ? value.map((one) => asPythonValue(one, inner))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${asPythonValue(one, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = `${open}${parts.join(", ")}${close}`;
  if (line.length < 80 && !line.includes("\n")) { return line; }
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

const OF_THE_CLIENT = ["model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "seed", "stop", "tools"];

export function asPython(origin, body, hasKey) {
  const lines = [
    ...(hasKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${hasKey ? "os.environ[\"SLUICE_API_KEY\"]" : "\"none\""})`,
    "stream = client.chat.completions.create(",
  ];
  const extra = {};
  for (const [name, value] of Object.entries(body)) {
    if (OF_THE_CLIENT.includes(name)) {
      lines.push(`    ${name}=${asPythonValue(value, "    ")},`);
    } else {
      extra[name] = value;
    }
  }
  if (Object.keys(extra).length > 0) { lines.push(`    extra_body=${asPythonValue(extra, "    ")},`); }
  lines.push(")", "for chunk in stream:", "    if chunk.choices:", "        print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)");
  return lines.join("\n");
}
