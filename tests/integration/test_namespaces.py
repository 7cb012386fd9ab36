"""Each process in a network namespace of its own, joined by a bridge inside another one: KV goes between hosts that share nothing, over TLS, and
over UCX's TCP where the network is called trusted."""
import os
import secrets
import signal
import subprocess

import pytest

import harness
from harness import BINARY, MODEL, wait_until
from streams import Streams

pytestmark = pytest.mark.process
STREAMS, TOKENS = 200, 60
SUBNET = "10.203.0"  # exists only inside the namespaces of this test
HOSTS = ["scheduler", "prefill1", "prefill2", "decode1", "decode2", "gateway"]
ADMIN_PORT, WORKER_PORT, SCHEDULER_PORT, GATEWAY_PORT = 9100, 9000, 9001, 8000
REMOTE = ["--listen-public"]  # beyond loopback nothing listens without it


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True, timeout=30)


class Network:
    """Namespaces `PREFIX-HOST`, each with one interface eth0 and lo, all on one bridge."""

    def __init__(self):
        self.prefix = f"sl{os.getpid()}"
        self.made = []
        try:
            self.make()
        except BaseException:
            self.remove()
            raise

    def make(self):
        self.add("hub")
        self.in_host("hub", "ip", "link", "add", "br0", "type", "bridge")
        self.in_host("hub", "ip", "link", "set", "br0", "up")
        for number, host in enumerate(HOSTS, 1):
            self.add(host)
            ip("-n", self.name("hub"), "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", self.name(host))
            ip("-n", self.name("hub"), "link", "set", host, "master", "br0", "up")
            ip("-n", self.name(host), "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            ip("-n", self.name(host), "link", "set", "eth0", "up")

    def name(self, host):
        return f"{self.prefix}-{host}"

    def add(self, host):
        self.made.append(host)
        ip("netns", "add", self.name(host))
        ip("-n", self.name(host), "link", "set", "lo", "up")

    def enter(self, host):
        return ["ip", "netns", "exec", self.name(host)]

    def enter_alone(self, host):
        """As enter(), and with a /dev/shm of its own: network namespaces share memory, hosts do not."""
        return [*self.enter(host), "unshare", "--ipc", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh"]

    def in_host(self, host, *command):
        return subprocess.run([*self.enter(host), *command], check=True, capture_output=True, text=True, timeout=30).stdout

    def remove(self):
        for host in self.made:
            ip("netns", "delete", self.name(host), check=False)


def address(host):
    return f"{SUBNET}.{HOSTS.index(host) + 1}"


@pytest.fixture
def network():
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: network namespaces need root")
    network = None
    try:
        network = Network()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"SKIPPED: no network namespaces here: {(getattr(error, 'stderr', '') or str(error)).strip()}")
    try:
        yield network
    finally:
        network.remove()


@pytest.fixture(params=["tls", "ucx"])
def processes(request, network):
    """All roles, by host."""
    environment = {"SLUICE_CLUSTER_KEY": secrets.token_hex(16), "UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}
    trusted = []  # nothing is said about KV: it is TLS between hosts
    enter = network.enter_alone
    if request.param == "ucx":
        # Without UCX_TLS it would find shared memory. UCX_NET_DEVICES is not ours to let through. Messages are inside TLS all the same.
        trusted = ["--set", "cluster.trusted_network=true", "--set", "cluster.always_tls=true", "--set", "worker.kv_net_devices=eth0",
                   "--set", "worker.kv_ucx_environment=UCX_TLS"]
        enter = network.enter
    # Two hundred prompts at once on a busy machine: KV may come late, but is not to be given up for that.
    patient = ["--set", "worker.kv_wait_ms=60000", "--set", "worker.room_pending_ms=20000", "--set", "worker.kv_lease_ms=20000"]
    common = [*trusted, "--admin-port", str(ADMIN_PORT)]
    scheduler = f"{address('scheduler')}:{SCHEDULER_PORT}"

    def start(host, role, *flags):
        return harness.Process([*enter(host), BINARY, role, *flags, *common, *REMOTE], environment)

    started = {"scheduler": start("scheduler", "scheduler", "--listen", scheduler)}
    for host in HOSTS[1:5]:
        started[host] = start(host, host.rstrip("12"), "--model", MODEL, "--scheduler", scheduler, "--listen", f"{address(host)}:{WORKER_PORT}", "--threads", "1", *patient)
    started["gateway"] = harness.Process([*network.enter("gateway"), BINARY, "gateway", "--model", MODEL, "--scheduler", scheduler, "--host", address("gateway"),
                                          "--port", str(GATEWAY_PORT), *trusted, *REMOTE], environment)
    try:
        def is_ready():
            for process in started.values():
                assert process.is_alive(), f"{process.command}\n{process.output()}"
            return http_get(network, "gateway", address("gateway"), GATEWAY_PORT, "/health") is not None
        wait_until(is_ready, "the cluster is ready", harness.START_SECONDS)
        yield started
    finally:
        for process in reversed(started.values()):
            process.__exit__()
            print(process.command, process.output(), sep="\n")


def http_get(network, host, to, port, path):
    """The body seen from inside a namespace, None unless the status is 200."""
    ran = subprocess.run([*network.enter(host), "curl", "-sf", "--max-time", "5", f"http://{to}:{port}{path}"], capture_output=True, text=True, timeout=30)
    return ran.stdout if ran.returncode == 0 else None


def metric_lines(network, host):
    text = http_get(network, host, address(host), ADMIN_PORT, "/metrics")
    assert text is not None, f"{host} serves no metrics"
    return text.splitlines()


def handed_over(network, host):
    """Hand-offs that a decode worker has received whole."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in metric_lines(network, host)
               if line.startswith("sluice_kv_transfers_total{") and 'direction="receive"' in line and 'outcome="ok"' in line)


def blocks_in_use(network, host):
    lines = [line for line in metric_lines(network, host) if line.startswith("sluice_worker_kv_blocks{") and any(f'state="{state}"' in line for state in ("used", "pinned", "stranded"))]
    assert lines
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.timeout(600)
def test_two_hundred_streams_survive_the_death_of_a_decode_worker(network, processes):
    def streams():
        return Streams(GATEWAY_PORT, STREAMS, TOKENS, host=address("gateway"), prefix=network.enter("gateway"))

    expected = streams().texts()
    assert len(set(expected)) > STREAMS // 2
    assert handed_over(network, "decode1") + handed_over(network, "decode2") >= STREAMS * 9 // 10  # and was not computed again
    for host in HOSTS[1:5]:
        wait_until(lambda host=host: blocks_in_use(network, host) == 0, f"{host} has given all blocks back")

    again = streams()
    again.wait_tokens(STREAMS * TOKENS // 4)
    processes["decode1"].child.send_signal(signal.SIGKILL)
    assert again.texts() == expected
    for host in ("prefill1", "prefill2", "decode2"):
        wait_until(lambda host=host: blocks_in_use(network, host) == 0, f"{host} has given all blocks back", 60)


@pytest.mark.timeout(600)
def test_a_pulled_cable_costs_no_stream_and_the_worker_comes_back(network, processes):
    """No connection is closed when a cable is pulled: both ends have to notice by themselves."""
    def streams(count, tokens):
        return Streams(GATEWAY_PORT, count, tokens, host=address("gateway"), prefix=network.enter("gateway"))

    def registered(worker):
        return worker.output().count("registered with the scheduler")

    def lost(worker):
        return worker.output().count("the stream to the scheduler")

    cut = processes["decode1"]
    expected = streams(20, TOKENS).texts()
    again = streams(20, TOKENS)
    again.wait_tokens(20 * TOKENS // 4)
    before = registered(cut)
    lost_before = lost(cut)  # one that began before the scheduler has said so already
    ip("-n", network.name("hub"), "link", "set", "decode1", "down")
    assert again.texts() == expected
    wait_until(lambda: lost(cut) > lost_before, "the worker has noticed that nobody hears it", 60)
    ip("-n", network.name("hub"), "link", "set", "decode1", "up")
    wait_until(lambda: registered(cut) > before, "the worker has registered again", 60)
    wait_until(lambda: blocks_in_use(network, "decode1") == 0, "its blocks are free", 60)
    assert streams(20, TOKENS).texts() == expected


@pytest.mark.timeout(600)
def test_two_hosts_say_what_one_says_and_listen_nowhere_else(network, processes):
    tokens = 40
    told = Streams(GATEWAY_PORT, 24, tokens, host=address("gateway"), prefix=network.enter("gateway")).texts()
    with harness.serve(prefill=0, decode=0, mixed=1) as colocated:
        colocated.wait_ready()
        assert told == Streams(colocated.port, 24, tokens).texts()
    for host in HOSTS[1:5]:
        sockets = [line.split()[3] for line in network.in_host(host, "ss", "-Hltn").splitlines()]
        by_tls = "inside this host and TLS between hosts" in processes[host].output()
        if by_tls:  # control, metrics, KV; UCX's TCP listens on whatever its device has
            assert len(sockets) == 3, sockets
            assert all(socket.rsplit(":", 1)[0] in (address(host), f"[::ffff:{address(host)}]") for socket in sockets), sockets
