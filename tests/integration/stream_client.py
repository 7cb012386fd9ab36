#!/usr/bin/env python3
"""Opens many streams at once and prints what they said. Needs nothing but Python, so that it also runs inside a network namespace.

usage: stream_client.py HOST PORT MODEL STREAMS TOKENS

Prints `tokens N` from time to time (chunks with text so far, all streams together), `begun N` (streams that had one), and as last line one JSON list with
[text, finish_reason, error] for each stream. The prompts and seeds follow from the number of a stream alone.
"""
import http.client
import json
import sys
import threading

WORDS = ["cat", "dog", "bird", "tree", "ball", "car", "boy", "girl", "park", "sea"]


def prompt_of(index: int) -> str:
    return f"One day, a {WORDS[index % 10]} and a {WORDS[index // 10 % 10]} went to the {WORDS[index // 100 % 10]}. They saw a"


class Progress:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tokens = 0
        self.begun: set[int] = set()

    def add(self, stream: int) -> None:
        with self.lock:
            if stream not in self.begun:
                self.begun.add(stream)
                print("begun", len(self.begun), flush=True)
            self.tokens += 1
            if self.tokens % 50 == 0:
                print("tokens", self.tokens, flush=True)


def stream(host: str, port: int, model: str, index: int, tokens: int, progress: Progress) -> tuple[str, str | None, str | None]:
    text, reason, error, is_done = "", None, None, False
    try:
        connection = http.client.HTTPConnection(host, port, timeout=300)
        body = {"model": model, "prompt": prompt_of(index), "max_tokens": tokens, "ignore_eos": True, "stream": True, "seed": index,
                "temperature": 0 if index % 2 == 0 else 1}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            return "", None, f"status {response.status}: {response.read(300).decode(errors='replace')}"
        for line in response:
            line = line.rstrip(b"\n")
            if line == b"data: [DONE]":
                is_done = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    error = json.dumps(chunk["error"])
                for choice in chunk.get("choices", []):
                    text += choice["text"]
                    reason = choice["finish_reason"] or reason
                    progress.add(index)
        connection.close()
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return text, reason, error if error or is_done else "the stream ended without [DONE]"


def main() -> None:
    host, port, model, streams, tokens = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    results: list[object] = [None] * streams
    progress = Progress()

    def run(index: int) -> None:
        results[index] = stream(host, port, model, index, tokens, progress)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
