"""Every port that the processes of a secured cluster listen on, and every route that the source names: who comes without a key and without a certificate gets
nothing but what probes ask for."""
from __future__ import annotations

import http.client
import pathlib
import re
import socket
import ssl
import subprocess

import pytest

import harness
from harness import LocalCluster

pytestmark = pytest.mark.process
PROBES = {("GET", path) for path in ("/live", "/ready")}
OPEN = {"gateway": PROBES | {("GET", "/health"), ("GET", "/v1/health"), ("GET", "/v1/live"), ("GET", "/v1/ready")}, "admin": PROBES}
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # as gRPC begins: the preface, and no settings
DATA, HEADERS, GOAWAY = 0, 1, 7  # frames of HTTP/2
PERMISSION_DENIED, UNAUTHENTICATED = 7, 16  # of gRPC


def listening(pid):
    """(address, port) of all TCP sockets that a process accepts at."""
    inodes = set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            if found := re.match(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(found[1])
        except FileNotFoundError:
            pass  # closed meanwhile
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[at:at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def routes():
    """What the source names as one, with and without a version before it."""
    texts = [path.read_text() for folder in ("gateway", "cli") for path in sorted((harness.ROOT / folder).rglob("*.[ch]*"))]
    named = {name for text in texts for name in re.findall(r'"(/[a-z][a-z_/]*)"', text)}
    return sorted({"/", *named, *(f"/v1{name}" for name in named if not name.startswith("/v1"))})


def ask(address, method, path):
    """Status; None where no HTTP is spoken."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body="{}" if method == "POST" else None, headers={"Host": "127.0.0.1", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (http.client.HTTPException, ConnectionError):
        return None
    finally:
        connection.close()


def told(address, data):
    """What comes back before the other side closes."""
    with socket.create_connection(address, timeout=60) as connection:
        received = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(4096):
                received += chunk
        except ConnectionError:
            pass
        return received


def stranger(folder=None):
    """TLS by somebody without a certificate, or with one of another authority; takes anybody for who it says."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if folder:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def methods():
    """Every call of every service, as gRPC names it."""
    for path in sorted((harness.ROOT / "proto").glob("*.proto")):
        text = path.read_text()
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            yield from (f"/{package[1]}.{service}/{name}" for name in re.findall(r"rpc (\w+)\(", body))


def frame(kind, flags, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


def call(address, method, context):
    """gRPC's status, and whether a message came with it; None where the connection ends without an answer."""
    fields = {":method": "POST", ":scheme": "https", ":path": method, ":authority": "sluice", "content-type": "application/grpc", "te": "trailers"}
    block = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items())
    try:
        with socket.create_connection(address, timeout=60) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(HTTP2 + frame(HEADERS, 4, block) + frame(DATA, 1, bytes(5)))
            received, has_message = b"", False
            while chunk := connection.recv(4096):
                received += chunk
                while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3], "big"):
                    end = 9 + int.from_bytes(received[:3], "big")
                    kind, flags, payload, received = received[3], received[4], received[9:end], received[end:]
                    has_message |= kind == DATA and payload != b""
                    if kind == HEADERS and (status := re.search(rb"grpc-status[\x01-\x02](\d+)", payload)):
                        return int(status[1]), has_message
                    assert kind != HEADERS or not flags & 1, f"{method}: an end without a status: {payload}"
                    if kind == GOAWAY:
                        return None
    except (ssl.SSLError, ConnectionError):
        pass
    return None


def test_nothing_answers_but_what_probes_ask(tmp_path):
    for name in ("certificates", "others"):
        subprocess.run([harness.BINARY, "certs", "make", "--out", tmp_path / name], check=True, capture_output=True, timeout=60)
    def add(*flags):
        return subprocess.run([harness.BINARY, "keys", "add", "--file", tmp_path / "keys.json", *flags], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    key, prometheus = add("--name", "user"), add("--name", "prometheus", "--scopes", "admin")
    with LocalCluster(prefill=1, decode=1, mixed=1, certificates=tmp_path / "certificates",
                      settings=["worker.kv_transport=tls", f"gateway.keys_file={tmp_path / 'keys.json'}", f"admin.keys_file={tmp_path / 'keys.json'}"]) as cluster:
        cluster.wait_ready()
        body = {"model": harness.MODEL_ID, "prompt": "There was", "max_tokens": 4}
        assert harness.request(cluster.port, "POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"}).status == 200

        for role, pid in cluster.pids():  # figures are for who has a key for operators
            port = cluster.port if role == "gateway" else cluster.admin_port(pid)
            read = {name: harness.request(port, "GET", "/metrics", headers=fields).status
                    for name, fields in (("nobody", {}), ("user", {"Authorization": f"Bearer {key}"}), ("prometheus", {"Authorization": f"Bearer {prometheus}"}))}
            assert read == {"nobody": 401, "user": 403, "prometheus": 200}, role

        every = routes()
        assert {"/metrics", "/v1/completions", "/v1/chat/completions", "/v1/models", "/live", "/tokenize", "/server_info"} <= set(every) and len(every) > 40
        answered, closed = {}, []
        for role, pid in cluster.pids():
            ports = listening(pid)
            own = {cluster.port} if role == "gateway" else {cluster.admin_port(pid)}
            assert own <= {port for _, port in ports}, (role, ports)
            for address in ports:
                if ask(address, "GET", "/live") is None:
                    closed.append((role, address))
                    continue
                name = "gateway" if address[1] == cluster.port else "admin"
                assert name == "gateway" or address[1] in own, f"{role} speaks HTTP at {address}"
                answered[name] = answered.get(name, set()) | {(method, path) for path in every for method in ("GET", "POST", "DELETE") if (ask(address, method, path) or 0) < 400}
        assert {name: found - OPEN[name] for name, found in answered.items()} == {"gateway": set(), "admin": set()}
        assert all(PROBES <= found for found in answered.values())

        # Control ports of scheduler and workers, and one for KV at each worker.
        assert sorted(role for role, _ in closed) == sorted(["scheduler", *2 * ["prefill", "decode", "mixed"]]), closed
        every = list(methods())
        assert len(every) > 5 and "/sluice.proto.Scheduler/Place" in every
        answers = set()
        for role, address in closed:
            for data in (HTTP2, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", bytes(64)):
                plain = told(address, data)
                assert not plain or (len(plain) < 64 and plain[:1] == b"\x15"), f"{role} at {address} answers {plain}"  # at most TLS' own alert
            for folder in (None, tmp_path / "others" / "gateway", tmp_path / "others" / "operator"):
                answers |= {(role, method, answer) for method in every if (answer := call(address, method, stranger(folder)))}
        unimplemented = 12  # a service of another role
        assert {status for _, _, (status, _) in answers} <= {PERMISSION_DENIED, UNAUTHENTICATED, unimplemented} and not any(has_message for _, _, (_, has_message) in answers), answers
        assert {(role, method) for role, method, (status, _) in answers if status != unimplemented} >= {("scheduler", "/sluice.proto.Scheduler/Place"), ("decode", "/sluice.proto.Worker/Serve")}
        assert harness.request(cluster.port, "POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"}).status == 200
