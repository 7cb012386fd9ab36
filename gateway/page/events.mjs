// Server-sent events of a body that arrives in pieces. Only `data` is kept; comments (keep-alives) and other fields are passed over.

/** Feed it text as it comes; gives the data of each event that has become whole. */
export class EventReader {
  #rest = "";
  #data = [];

  /** @param {string} text  @returns {string[]} */
  take(text) {
    const found = [];
    this.#rest += text;
    for (let end; (end = this.#rest.search(/\r\n|\n|\r(?!$)/)) !== -1;) {
      const line = this.#rest.slice(0, end);
      this.#rest = this.#rest.slice(end + (this.#rest.startsWith("\r\n", end) ? 2 : 1));
      if (line === "") {
        if (this.#data.length > 0) { found.push(this.#data.join("\n")); }
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
      }
    }
    return found;
  }
}

/** The data of the events of a response, as they come. @param {Response} response */
export async function* eventsOf(response) {
  const reader = new EventReader();
  const decoder = new TextDecoder();
  const body = response.body.getReader();
  for (;;) {
    const { done, value } = await body.read();
    if (done) { return; }
    yield* reader.take(decoder.decode(value, { stream: true }));
  }
}
