"""Whoever reaches a port between the processes: what listens where, garbage, half-open connections, strangers, and peers that say nothing."""
import os
import pathlib
import signal
import socket
import subprocess

import pytest

import harness
from harness import LocalCluster, Process, free_port, wait_until
from streams import Streams

pytestmark = pytest.mark.process
STREAMS, TOKENS = 12, 60
# What used to make the KV plane listen on every address.
UCX_ENVIRONMENT = {"UCX_NET_DEVICES": "all", "UCX_TLS": "tcp"}
# 127.0.0.1, also as gRPC writes it in IPv6, and ::1.
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


def listening(pids):
    """(address, port) of every TCP socket of these processes that listens."""
    inodes = set()
    for pid in pids:
        for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return sorted(found)


def texts(server):
    return Streams(server.port, STREAMS, TOKENS).texts()


@pytest.fixture(params=["serve", "local-cluster", "local-cluster over TLS"])
def layout(request):
    """(server, pids, how many ports it has), with an environment that tells UCX to listen everywhere."""
    if request.param == "serve":
        with harness.serve(environment=UCX_ENVIRONMENT) as server:
            server.wait_ready()
            yield server, [server.pid], 4  # gateway, scheduler, two workers
            print(server.output())
    else:
        over_tls = request.param == "local-cluster over TLS"
        with LocalCluster(prefill=1, decode=1, settings=["worker.kv_transport=tls"] if over_tls else [], environment=UCX_ENVIRONMENT) as cluster:
            cluster.wait_ready()
            yield cluster, [pid for _, pid in cluster.pids()], 9 if over_tls else 7  # the same, and three for metrics; two for KV
            print(cluster.output(), cluster.logs(), sep="\n")


def test_nothing_listens_beyond_loopback_and_nothing_of_the_kv_plane_unless_it_is_told_to(layout):
    server, pids, ports = layout
    sockets = listening(pids)
    assert all(address in LOOPBACK for address, _ in sockets), sockets
    assert len(sockets) == ports, sockets
    texts(server)
    moved = harness.metrics(server.port if len(pids) == 1 else server.admin_port(server.pids_of("decode")[0]))
    handed_over = sum(value for (name, labels), value in moved.items() if name == "sluice_kv_transfers_total"
                      and {("direction", "receive"), ("outcome", "ok")} <= set(labels))
    assert handed_over >= STREAMS  # over shared memory, or TLS


GARBAGE = [
    b"\x00" * 100,
    bytes(range(256)) * 16,
    b"\xff" * 9,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",                                                    # HTTP/2, and nothing behind it
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" * 40,  # frames of 16 MiB that never come
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",  # headers that are none
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 80,                        # TLS
    b"GET /" + b"a" * 100_000,
]


@pytest.mark.timeout(300)
def test_garbage_and_half_open_connections_at_every_port_hurt_nobody(layout):
    server, pids, _ = layout
    expected = texts(server)
    ports = sorted({port for _, port in listening(pids)})
    held = []
    try:
        for port in ports:
            for piece in GARBAGE:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    try:
                        connection.sendall(piece)
                        connection.settimeout(0.05)
                        connection.recv(4096)
                    except OSError:
                        pass  # cut off, or nothing to say: both are fine
            if port != server.port:  # the gateway's bounds are told elsewhere
                for number in range(40):
                    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
                    connection.sendall(GARBAGE[3][:number])
                    held.append(connection)
        assert texts(server) == expected
        assert all(harness.pid_exists(pid) for pid in pids)
    finally:
        for connection in held:
            connection.close()
    assert texts(server) == expected
    assert all(harness.pid_exists(pid) for pid in pids)


def test_processes_with_another_key_get_nowhere():
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        expected = texts(cluster)
        scheduler = next(f"127.0.0.1:{port}" for _, port in listening(cluster.pids_of("scheduler"))
                         if port != cluster.admin_port(cluster.pids_of("scheduler")[0]))
        other = {"SLUICE_CLUSTER_KEY": "0123456789abcdef" * 2}
        gateway_port = free_port()
        with Process([harness.BINARY, "mixed", "--model", harness.MODEL, "--scheduler", scheduler, "--threads", "1"], other) as worker, \
                harness.Server([harness.BINARY, "gateway", "--model", harness.MODEL, "--scheduler", scheduler, "--port", str(gateway_port)],
                               gateway_port, other) as gateway:
            wait_until(lambda: "another cluster key" in worker.output(), "the worker is told why it is refused", harness.START_SECONDS)
            wait_until(lambda: f":{gateway_port}/v1" in gateway.output(), "the gateway listens", harness.START_SECONDS)
            assert harness.request(gateway_port, "GET", "/health").status == 503
            assert texts(cluster) == expected
        assert "mixed" not in cluster.logs().split("--- scheduler", 1)[1]


class HostilePeer(Process):
    """hostile_peer.cpp, until the end of the block."""

    def __init__(self, *arguments, key=None):
        program = harness.BINARY.parent / "tests" / "integration" / "hostile_peer"
        assert program.exists(), f"no {program}: build the target tests_integration"
        environment = {name: value for name, value in os.environ.items() if name != "SLUICE_CLUSTER_KEY"}
        super().__init__([program, *arguments], {**environment, **({"SLUICE_CLUSTER_KEY": key} if key else {})}, stdin=subprocess.PIPE)

    def lines(self):
        wait_until(lambda: "holding" in self.output() or not self.is_alive(), "the hostile peer has done what it can", 120)
        assert self.is_alive(), self.output()
        return self.output().splitlines()


def control_addresses(cluster, role):
    """host:port of the gRPC servers: what listens besides the metrics."""
    return [f"127.0.0.1:{port}" for pid in cluster.pids_of(role) for _, port in listening([pid]) if port != cluster.admin_port(pid)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("key", [None, "0123456789abcdef" * 2], ids=["no key", "another key"])
def test_who_knows_the_protocol_but_not_the_key_gets_nothing(key):
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        expected = texts(cluster)
        workers = control_addresses(cluster, "prefill") + control_addresses(cluster, "decode")
        assert len(workers) == 2
        with HostilePeer(*control_addresses(cluster, "scheduler"), "stranger", *workers, key=key) as stranger:
            lines = stranger.lines()
            assert texts(cluster) == expected  # while it holds all the streams that it could get
            attempts = [line for line in lines if line != "holding"]
            assert len(attempts) == 5 and all(": 16 " in line for line in attempts), lines  # UNAUTHENTICATED
            assert all(harness.pid_exists(pid) for _, pid in cluster.pids())
        assert texts(cluster) == expected


@pytest.mark.timeout(400)
def test_who_has_the_key_and_lies_takes_over_nobody_and_ends_nothing():
    with LocalCluster(prefill=1, decode=1) as cluster:
        cluster.wait_ready()
        expected = texts(cluster)
        with HostilePeer(*control_addresses(cluster, "scheduler"), "liar", key=cluster.key) as liar:
            lines = liar.lines()
            assert texts(cluster) == expected  # placements that are never released, and streams that say nothing
            for what, code in (("the same life", 7), ("an address of another life", 7), ("nine bytes", 7), ("another life", 9)):
                assert len([line for line in lines if line.startswith(f"{what}: {code} ")]) == 2, (what, lines)
            assert not any("taken in" in line for line in lines), lines
            assert lines.count("starts refused: 4") == 2, lines
            assert all(harness.pid_exists(pid) for _, pid in cluster.pids())
        assert texts(cluster) == expected


@pytest.mark.timeout(240)
def test_a_worker_that_promised_little_and_says_nothing_is_left_within_the_lease():
    """It promised the gateway to be heard of every 100 s, which once meant that it was waited for 400 s."""
    with LocalCluster(prefill=1, decode=2, settings=["worker.heartbeat_ms=100000"]) as cluster:
        cluster.wait_ready()
        expected = texts(cluster)
        again = Streams(cluster.port, STREAMS, TOKENS)
        again.wait_tokens(STREAMS * TOKENS // 4)
        victim = cluster.pids_of("decode")[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            assert again.texts() == expected
        finally:
            os.kill(victim, signal.SIGCONT)


def refused(*command, environment=None):
    ran = subprocess.run([harness.BINARY, *map(str, command)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                         env={**{k: v for k, v in os.environ.items() if k != "SLUICE_CLUSTER_KEY"}, **(environment or {})})
    assert ran.returncode == 2, ran
    return ran.stderr


def test_what_needs_a_trusted_network_says_so():
    key = {"SLUICE_CLUSTER_KEY": "0" * 32}
    assert "cluster.trusted_network" in refused("mixed", "--model", harness.MODEL, "--set", "worker.kv_net_devices=all", environment=key)
    assert "cluster.trusted_network" in refused("serve", "--model", harness.MODEL, "--port", "0", "--set", "worker.kv_net_devices=lo")
    assert "--listen-public" in refused("serve", "--model", harness.MODEL, "--port", "0", "--set", "worker.kv_transport=tls", "--set", "worker.kv_host=0.0.0.0")


def test_the_key_comes_from_one_place_that_others_cannot_read(tmp_path):
    scheduler = ("scheduler", "--listen", "127.0.0.1:0")
    assert "SLUICE_CLUSTER_KEY" in refused(*scheduler)
    assert "32 hexadecimal digits" in refused(*scheduler, environment={"SLUICE_CLUSTER_KEY": "secret"})
    file = tmp_path / "key"
    file.write_text("00112233445566778899aabbccddeeff\n")
    file.chmod(0o644)
    with_file = (*scheduler, "--set", f"cluster.key_file={file}")
    assert f"chmod 600 {file}" in refused(*with_file)
    file.chmod(0o600)
    with Process([harness.BINARY, *with_file]) as process:
        wait_until(lambda: "sluice scheduler at" in process.output(), "the scheduler listens")
    assert "leave one" in refused(*with_file, "--set", "cluster.key=" + "0" * 32)
    file.write_text("too short")
    assert "32 hexadecimal digits" in refused(*with_file)
    assert "cannot be read" in refused(*scheduler, "--set", f"cluster.key_file={tmp_path / 'none'}")
