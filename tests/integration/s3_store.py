"""Stores for KV: moto, an S3 server of others that checks signatures, and a proxy before one that fails when it is told to."""
import http.client
import http.server
import pathlib
import socket
import sys
import threading

import boto3

import harness

BUCKET = "kv-blocks"
FIRST_ACTIONS = 3  # of moto, before it asks who somebody is
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'


def write_credentials(path: pathlib.Path, key_id: str, secret: str) -> pathlib.Path:
    path.touch(0o600)
    path.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n")
    return path


class Moto:
    """moto with a user, as whom every request has to be signed, and a bucket."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.port = harness.free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process = harness.Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                                       {"INITIAL_NO_AUTH_ACTION_COUNT": str(FIRST_ACTIONS)})
        harness.wait_until(self.is_listening, "moto listens", 120)
        iam = self.client("iam", "none", "none")
        iam.create_user(UserName="sluice")
        iam.put_user_policy(UserName="sluice", PolicyName="all", PolicyDocument=POLICY)
        made = iam.create_access_key(UserName="sluice")["AccessKey"]
        self.id, self.secret = made["AccessKeyId"], made["SecretAccessKey"]
        self.s3 = self.client("s3", self.id, self.secret)
        self.s3.create_bucket(Bucket=BUCKET)
        self.credentials = write_credentials(folder / "credentials", self.id, self.secret)

    def is_listening(self) -> bool:
        assert self.process.is_alive(), self.process.output()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self, service: str, key_id: str, secret: str):
        return boto3.client(service, endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=key_id, aws_secret_access_key=secret)

    def objects(self) -> list[str]:
        return [entry["Key"] for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET) for entry in page.get("Contents", [])]

    def content(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


class FaultyProxy(http.server.ThreadingHTTPServer):
    """Hands requests on as they are, and does `fault` to those for objects by `method`: "silent" (no answer until release()), "close",
    "403", "500", "truncated" (half of the body), "corrupt" (a bit of it), "garbage" (as many other bytes)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store_port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store_port = store_port
        self.method = self.fault = None
        self.met = 0  # requests
        self.released = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, method: str | None, fault: str | None) -> None:
        self.method, self.fault, self.met = method, fault, 0

    def release(self) -> None:
        self.released.set()

    def handle_error(self, request, client_address) -> None:
        """Clients go away; that is what they are here for."""

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault if self.command == self.server.method and "?" not in self.path else None
        if fault:
            self.server.met += 1
        if fault == "silent":
            self.server.released.wait()
        if fault in ("silent", "close"):
            self.close_connection = True
            return
        if fault in ("403", "500"):
            self.answer(int(fault), b"<Error><Code>" + {"403": b"AccessDenied", "500": b"InternalError"}[fault] + b"</Code></Error>")
            return
        store = http.client.HTTPConnection("127.0.0.1", self.server.store_port, timeout=60)
        store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            store.putheader(name, value)
        store.endheaders(body)
        came = store.getresponse()
        content = bytearray(came.read())
        store.close()
        if fault == "corrupt":
            content[len(content) // 2] ^= 1
        if fault == "garbage":
            content[:] = bytes(index * 31 % 251 for index in range(len(content)))
        if fault == "truncated":
            self.close_connection = True
            self.answer(came.status, bytes(content[: len(content) // 2]), len(content))
            return
        self.answer(came.status, bytes(content))

    do_GET = do_PUT = do_DELETE = hand_on
