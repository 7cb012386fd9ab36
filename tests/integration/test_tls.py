"""TLS in front of the gateway, with Python's client and openai-python's: what is said, what is refused, and a certificate that is replaced."""
import http.client
import json
import socket
import ssl
import subprocess
import time

import openai
import pytest

import harness

COMPLETION = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
HEADER_TIMEOUT_S = 0.5


def make_certificate(folder, name="localhost"):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-keyout", folder / "key.pem.new", "-out", folder / "certificate.pem.new"],
                   check=True, capture_output=True, timeout=60)
    for file in ("key.pem", "certificate.pem"):
        (folder / f"{file}.new").replace(folder / file)


def context(folder):
    return ssl.create_default_context(cafile=folder / "certificate.pem")


def connect(server, folder, **options):
    return http.client.HTTPSConnection("localhost", server.port, context=context(folder), timeout=60, **options)


def complete(connection, **fields):
    connection.request("POST", "/v1/completions", json.dumps({**COMPLETION, **fields}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    make_certificate(path)
    return path


@pytest.fixture(scope="module")
def server(folder):
    flags = ["--set", f"gateway.tls_certificate_file={folder / 'certificate.pem'}", "--set", f"gateway.tls_key_file={folder / 'key.pem'}",
             "--set", "gateway.files_look_ms=20", "--set", f"gateway.header_timeout_ms={int(HEADER_TIMEOUT_S * 1000)}"]
    with harness.serve(*flags, prefill=0, decode=0, mixed=1) as server:
        def is_ready():
            assert server.is_alive(), server.output()
            connection = connect(server, folder)
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()
        harness.wait_until(is_ready, "the server is ready", harness.START_SECONDS)
        harness.wait_until(lambda: f"https://127.0.0.1:{server.port}/v1" in server.output(), "it says where it is", 60)
        yield server


def test_one_connection_serves_many_requests_whole_and_streamed(server, folder):
    connection = connect(server, folder)
    status, whole = complete(connection)
    assert status == 200
    text = json.loads(whole)["choices"][0]["text"]
    status, streamed = complete(connection, stream=True)
    pieces = [json.loads(line[6:]) for line in streamed.decode().split("\n\n") if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == text
    assert complete(connection, n=0)[0] == 400
    connection.request("GET", "/metrics")
    assert b"sluice_gateway_certificate_valid 1" in connection.getresponse().read()
    # A body of many records, and one that is refused while it comes.
    status, _ = complete(connection, prompt="word " * 200_000)
    assert status == 400
    connection.close()


def test_openai_python_and_its_stream(server, folder):
    with openai.DefaultHttpxClient(verify=context(folder)) as client:
        api = openai.OpenAI(base_url=f"https://localhost:{server.port}/v1", api_key="none", http_client=client, max_retries=0)
        whole = api.completions.create(model=harness.MODEL_ID, **COMPLETION).choices[0].text
        assert "".join(piece.choices[0].text for piece in api.completions.create(model=harness.MODEL_ID, stream=True, **COMPLETION)) == whole


def test_a_client_that_only_ends_its_side_gets_its_answer(server, folder):
    body = json.dumps(COMPLETION).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
        with context(folder).wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            received = b""
            while piece := connection.recv(65536):  # to the end that TLS tells of: an answer that is cut is none
                received += piece
    assert received.startswith(b"HTTP/1.1 200 ") and b'"text"' in received


def test_what_is_not_tls_is_told_so_or_cut(server, folder):
    answer = harness.raw_exchange(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b"https://" in answer
    assert not harness.raw_exchange(server.port, b"\x00" * 200).startswith(b"HTTP")
    assert not harness.raw_exchange(server.port, b"\x16\x03\x01\xff\xff" + b"\x01" * 3000).startswith(b"HTTP")
    old = context(folder)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="localhost")
    # Who does not finish the handshake is cut by the time for a head.
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        began = time.monotonic()
        assert half.recv(1000) == b""
        assert time.monotonic() - began >= HEADER_TIMEOUT_S / 2
    assert complete(connect(server, folder))[0] == 200


def test_a_new_certificate_is_for_new_connections_and_a_wrong_one_for_none(server, folder):
    old = connect(server, folder)
    assert complete(old)[0] == 200
    seen = old.sock.getpeercert(binary_form=True)
    good_key = (folder / "key.pem").read_bytes()
    (folder / "key.pem").write_text("no key")
    harness.wait_until(lambda: "the one before stays in use" in server.output(), "the log says that the key is wrong")
    assert complete(connect(server, folder))[0] == 200
    (folder / "key.pem").write_bytes(good_key)
    make_certificate(folder)

    def is_new():
        connection = connect(server, folder)
        try:
            connection.connect()
        except ssl.SSLError:
            return False  # still the one before, which this client does not know any more
        try:
            return connection.sock.getpeercert(binary_form=True) != seen and complete(connection)[0] == 200
        finally:
            connection.close()
    harness.wait_until(is_new, "new connections get the new certificate")
    assert complete(old)[0] == 200  # where it was
    old.close()


def test_what_cannot_be_used_is_refused_at_the_start(folder, tmp_path):
    def refused(*settings):
        flags = [word for setting in settings for word in ("--set", setting)]
        ran = subprocess.run([harness.BINARY, "serve", "--model", harness.MODEL, "--port", "0", *flags], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert ran.returncode == 2, ran
        return ran.stderr
    assert "needs both" in refused(f"gateway.tls_certificate_file={folder / 'certificate.pem'}")
    assert str(tmp_path / "none.pem") in refused(f"gateway.tls_certificate_file={tmp_path / 'none.pem'}", f"gateway.tls_key_file={folder / 'key.pem'}")
    make_certificate(tmp_path)
    assert "key values mismatch" in refused(f"gateway.tls_certificate_file={folder / 'certificate.pem'}", f"gateway.tls_key_file={tmp_path / 'key.pem'}")
