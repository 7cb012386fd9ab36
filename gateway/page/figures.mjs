// Times of one answer, by this browser's clock: from the click to the first piece (TTFT), and from piece to piece (TPOT).

const SPAN_MIN_MS = 5;  // below it pieces came together, and nothing can be said of the time between them

export class Figures {
  #asked;
  #first = null;
  #last = null;
  #pieces = 0;

  /** @param {number} now  milliseconds */
  constructor(now) { this.#asked = now; }

  piece(now) {
    this.#first ??= now;
    this.#last = now;
    this.#pieces += 1;
  }

  /**
   * What can be said by now. `usage` (null while the answer runs) has the true count of tokens; until then a piece counts as one.
   * `told`: what the server's timeline says, or null; `headers`: of the response.
   */
  rows(usage, told, headers) {
    const rows = [];
    const tokens = usage?.completion_tokens ?? this.#pieces;
    const sequence = told?.sequences?.[0];
    if (this.#first !== null) {
      rows.push(["TTFT", beside(this.#first - this.#asked, sequence?.predicted?.ttft_ms, told?.targets?.ttft_ms)]);
      const span = this.#last - this.#first;
      if (tokens > 1 && span >= SPAN_MIN_MS) {
        rows.push(["TPOT", beside(span / (tokens - 1), sequence?.predicted?.tpot_ms, told?.targets?.tpot_ms)]);
        rows.push(["Tokens/s", ((1000 * (tokens - 1)) / span).toFixed(1)]);
      }
      rows.push(["Tokens", usage ? `${usage.prompt_tokens} in, ${usage.completion_tokens} out` : `${tokens} out`]);
    }
    const cached = usage?.prompt_tokens_details?.cached_tokens;
    if (cached) { rows.push(["KV cache", `${cached} of ${usage.prompt_tokens} tokens`]); }
    const cache = headers?.get("x-cache");
    if (cache) { rows.push(["Answer cache", [cache, headers.get("x-cache-kind")].filter(Boolean).join(" ")]); }
    const missed = told?.missed?.all;
    if (missed) { rows.push(["Late", `${missed.cause}: ${missed.meaning}`]); }
    return rows;
  }
}

/** "12.3 ms (predicted 11, target 50)" */
function beside(measured, predicted, target) {
  const more = [];
  if (predicted !== undefined && predicted > 0) { more.push(`predicted ${predicted.toFixed(1)}`); }
  if (target !== undefined) { more.push(`target ${target}`); }
  return `${measured.toFixed(1)} ms${more.length > 0 ? ` (${more.join(", ")})` : ""}`;
}
