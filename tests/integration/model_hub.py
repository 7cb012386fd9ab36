"""A hub of models on loopback that speaks Hugging Face's protocol, with large files on a host of their own, and can misbehave."""
from __future__ import annotations

import collections
import dataclasses
import hashlib
import http.server
import json
import threading
from collections.abc import Callable

COMMIT = "c" * 40


@dataclasses.dataclass
class Seen:
    """A request that one of the two hosts got."""
    host: str  # hub or cdn
    path: str
    token: str | None
    range: str | None


class Hub:
    """`files`: what org/repo holds at every revision; `large`: the paths that are on the other host."""

    def __init__(self, files: dict[str, bytes], large: set[str] = frozenset()) -> None:
        self.files = files
        self.large = set(large)
        self.seen: list[Seen] = []
        self.faults: dict[str, collections.deque[Callable[[Handler], bool]]] = collections.defaultdict(collections.deque)
        self.listed = dict(files)  # what the listing says, where that is to differ
        self.released = threading.Event()  # lets stalled answers go
        self.listen = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        for server, name in zip(self.listen, ("hub", "cdn")):
            server.daemon_threads = True
            server.owner, server.name = self, name
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listen[0].server_port}"

    @property
    def cdn_url(self) -> str:
        return f"http://127.0.0.1:{self.listen[1].server_port}"

    def fault(self, path: str, *what: Callable[[Handler], bool]) -> None:
        """The next answers that carry the bytes of `path`, or its listing (""), are these; then all is well again."""
        self.faults[path].extend(what)

    def asked(self, host: str, ending: str = "") -> list[Seen]:
        return [seen for seen in self.seen if seen.host == host and seen.path.partition("?")[0].endswith(ending)]

    def listing(self) -> bytes:
        siblings = [{"rfilename": ".gitattributes", "size": 1, "blobId": "0" * 40}]
        for path, content in self.listed.items():
            sibling = {"rfilename": path, "size": len(content),
                       "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
            if path in self.large:
                sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        return json.dumps({"id": "org/repo", "sha": COMMIT, "cardData": {"license": "apache-2.0"}, "siblings": siblings}).encode()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        for server in self.listen:
            server.shutdown()
            server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: Hub = self.server.owner
        hub.seen.append(Seen(self.server.name, self.path, self.headers.get("Authorization"), self.headers.get("Range")))
        path = self.path.partition("?")[0]
        try:
            if path.startswith("/api/models/org/repo/revision/"):
                if not self.misbehaves(hub, ""):
                    self.answer(200, hub.listing())
            elif path.startswith(f"/org/repo/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/org/repo/resolve/{COMMIT}/")
                if name not in hub.files:
                    self.answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
                elif name in hub.large:
                    self.answer(302, b"", {"Location": f"{hub.cdn_url}/blobs/{name}?signature=1"})
                else:
                    self.answer(307, b"", {"Location": f"/cached/{name}"})  # on the same host, as hubs do
            elif path.startswith(("/blobs/", "/cached/")):
                name = path.split("/", 2)[2]
                if not self.misbehaves(hub, name):
                    self.send_bytes(hub.files[name])
            else:
                self.answer(404, b"Repository not found", {"X-Error-Message": "Repository not found"})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def misbehaves(self, hub: Hub, name: str) -> bool:
        return bool(hub.faults[name]) and hub.faults[name].popleft()(self)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def send_bytes(self, content: bytes, ranges: bool = True, limit: int | None = None) -> None:
        """The content or the rest of it; after `limit` bytes the connection is cut."""
        first = 0
        asked = self.headers.get("Range")
        if ranges and asked:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        self.send_response(206 if ranges and asked else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if ranges and asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first:] if limit is None else content[first:first + limit])
        self.wfile.flush()
        if limit is not None:
            self.close_connection = True


# --- ways to misbehave: each sends the whole answer and returns True ---------------------------------------------------------


def status(code: int, **headers: str) -> Callable[[Handler], bool]:
    def send(handler: Handler) -> bool:
        handler.answer(code, b"no", {key.replace("_", "-"): value for key, value in headers.items()})
        return True
    return send


def cut_after(count: int, ranges: bool = True) -> Callable[[Handler], bool]:
    def send(handler: Handler) -> bool:
        handler.send_bytes(handler.server.owner.files[handler.path.partition("?")[0].split("/", 2)[2]], ranges, count)
        return True
    return send


def other_bytes(content: bytes) -> Callable[[Handler], bool]:
    def send(handler: Handler) -> bool:
        handler.send_bytes(content)
        return True
    return send


def stall_after(count: int) -> Callable[[Handler], bool]:
    """Some bytes, then silence until the hub ends."""
    def send(handler: Handler) -> bool:
        cut_after(count)(handler)
        handler.server.owner.released.wait(60)
        return True
    return send


def without_ranges(handler: Handler) -> bool:
    handler.send_bytes(handler.server.owner.files[handler.path.partition("?")[0].split("/", 2)[2]], ranges=False)
    return True


def redirect_to_itself(handler: Handler) -> bool:
    handler.answer(302, b"", {"Location": handler.path})
    return True


def endless_headers(handler: Handler) -> bool:
    handler.send_response(200)
    for number in range(3000):
        handler.send_header(f"X-{number}", "x" * 100)
    handler.end_headers()
    return True
