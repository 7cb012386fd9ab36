"""The fleet page: what it is told and by whom, and the whole of it in a real browser over a cluster that runs."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

import harness
from harness import BINARY, MODEL_ID, ROOT, LocalCluster, post, request, serve, wait_until

pytestmark = pytest.mark.process
FILES = ROOT / "gateway" / "page"
SCREENSHOTS = os.environ.get("SLUICE_SCREENSHOTS")
ROWS = "[...document.querySelectorAll('#workers tbody tr')]"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def state(port, key, query=""):
    answer = request(port, "GET", f"/fleet/state{query}", headers=bearer(key))
    assert answer.status == 200, answer.body
    return answer.json()


def make_key(file, *flags):
    return subprocess.run([BINARY, "keys", "add", "--file", file, *flags], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


class Fleet(harness.Process):
    """`sluice fleet` over a cluster, by its own key unless told otherwise."""

    def __init__(self, cluster, *flags, scheduler=None):
        scheduler = scheduler or re.search(r"^sluice scheduler at ([^\s,]+)", cluster.logs(), re.MULTILINE)[1]
        ports = f"http://127.0.0.1:{cluster.port},http://127.0.0.1:{cluster.admin_base}-{cluster.admin_base + len(cluster.pids()) - 2}"
        super().__init__([BINARY, "fleet", "--url", ports, "--scheduler", scheduler, "--listen", "127.0.0.1:0", "--interval", "0.2", *flags], {"SLUICE_CLUSTER_KEY": cluster.key})

    def wait_ready(self):
        wait_until(lambda: "sluice fleet at" in self.output() or not self.is_alive(), "the page's process listens")
        assert self.is_alive(), self.output()
        self.port = int(re.search(r"sluice fleet at http://127\.0\.0\.1:(\d+)/fleet", self.output())[1])
        return self

    @property
    def key(self):
        return re.search(r"with the key (\S+), made for this run", self.output())[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/fleet"


@contextlib.contextmanager
def cluster_of(**more):
    with LocalCluster(**{"prefill": 1, "decode": 2, **more}) as cluster:
        try:
            yield cluster.wait_ready()
        finally:
            print(cluster.output(), cluster.logs(), sep="\n")  # shown when the test fails


def open_page(chromium, url, key, **device):
    page = chromium.open(url, **device)
    page.wait("document.querySelector('#state').textContent.includes('is needed')")
    show_key(page, key)
    return page


def show_key(page, key):
    page.write("#key", key)
    page.run("document.querySelector('#key').dispatchEvent(new Event('change'))")


def shot(page, name):
    if SCREENSHOTS:
        page.screenshot(pathlib.Path(SCREENSHOTS) / name)


def table(page, section):
    return page.run(f"[...document.querySelectorAll('#{section} tbody tr')].map((row) => [...row.children].map((cell) => cell.textContent))")


def states(page):
    """Of the workers that are shown: id -> state."""
    return {row[0]: row[4] for row in table(page, "workers")}


# --- `serve`: the admin port --------------------------------------------------------------------------------------------------


def test_serve_says_where_its_pages_are_and_tells_nothing_without_the_key():
    admin = harness.free_port()
    with serve("--admin-port", str(admin), "--set", "gateway.fleet_page=on") as server:
        server.wait_ready()
        output = wait_until(lambda: "the fleet page at" in server.output() and server.output(), "the banner")
        assert f"a chat in the browser at {server.url}/\n" in output and f"admin at http://127.0.0.1:{admin}/metrics\n" in output
        key = re.search(rf"the fleet page at http://127\.0\.0\.1:{admin}/fleet, with the key (\S+), made for this run", output)[1]
        for method, path in (("GET", "/fleet/state"), ("POST", "/fleet/drain")):
            body = {} if method == "POST" else None
            harness.assert_error(request(admin, method, path, body), 401)
            harness.assert_error(request(admin, method, path, body, bearer(key + "x")), 401)
        assert request(admin, "GET", "/ready").status == 200 and harness.metrics(admin)
        assert request(server.port, "GET", "/fleet").status == 404  # clients' port has none of it
        assert request(server.port, "GET", "/fleet/state", headers=bearer(key)).status == 404

        assert post(server.port, "/v1/completions", prompt="Once", max_tokens=4).status == 200
        told = wait_until(lambda: len((now := state(admin, key))["workers"]["rows"]) == 2 and now, "both workers are told")
        assert {worker["role"] for worker in told["workers"]["rows"]} == {"prefill", "decode"} and all(worker["is_last"] for worker in told["workers"]["rows"])
        assert told["scheduler"]["reached"] and told["served"] == [{"model": MODEL_ID, "ready": True, "context_tokens": 512}]
        shown = json.loads(subprocess.run([BINARY, "top", "--once", "--json", "--interval", "0.1", "--url", server.url], capture_output=True, text=True, timeout=60, check=True).stdout)
        assert set(shown) < set(told)
        for section in ("pools", "queues", "kv"):
            assert [sorted(row) for row in told[section]] == [sorted(row) for row in shown[section]], section


def test_every_file_of_the_page_is_served_as_what_it_is():
    admin = harness.free_port()
    with serve("--admin-port", str(admin), "--set", "gateway.fleet_page=on", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        kinds = {".html": "text/html", ".css": "text/css", ".mjs": "text/javascript", ".svg": "image/svg+xml"}
        files = [*(FILES / "fleet").iterdir(), FILES / "style.css", FILES / "icon.svg", FILES / "shared.mjs"]
        assert len(files) == 8
        for path in files:
            answer = request(admin, "GET", "/fleet" if path.name == "index.html" else f"/page/{path.relative_to(FILES)}")
            assert answer.status == 200 and answer.body == path.read_bytes()
            assert answer.headers["content-type"].split(";")[0] == kinds[path.suffix]
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert not [line for line in path.read_text().splitlines() if "://" in line and "www.w3.org/2000/svg" not in line], path  # nothing comes from elsewhere
        assert request(admin, "GET", "/").headers["location"] == "/fleet"
        for path in ("/page/main.mjs", "/page/fleet", "/page/fleet/../../api.cpp", "/page/fleet/%2e%2e/page.cpp", "/fleet/index.html"):
            assert request(admin, "GET", path).status in (400, 404), path
        other = request(admin, "GET", "/fleet", headers={"Host": "somewhere.example"})  # a name that somebody pointed at our address
        page_of_another_site = request(admin, "POST", "/fleet/drain", {}, {"Origin": "http://somewhere.example"})
        assert other.status == page_of_another_site.status == 403


def test_where_there_are_api_keys_those_of_scope_admin_open_it(tmp_path):
    file = tmp_path / "keys.json"
    admin_key, chat_key = make_key(file, "--tenant", "ops", "--scopes", "admin"), make_key(file, "--tenant", "a")
    for setting, is_there in (("auto", True), ("off", False)):
        admin = harness.free_port()
        with serve("--admin-port", str(admin), "--set", f"gateway.keys_file={file}", "--set", f"gateway.fleet_page={setting}", prefill=0, decode=0, mixed=1) as server:
            server.wait_ready()
            assert request(admin, "GET", "/fleet").status == (200 if is_there else 404)
            assert request(admin, "GET", "/fleet/state", headers=bearer(admin_key)).status == (200 if is_there else 404)
            assert request(admin, "GET", "/fleet/state", headers=bearer(chat_key)).status == (403 if is_there else 404)
            output = wait_until(lambda: "scheduler at" in server.output() and server.output(), "the banner")
            assert ("for keys of scope admin" in output) == is_there and "made for this run" not in output
            assert "a chat in the browser" not in output  # gateway.page: auto has none where there are keys


def test_without_keys_and_without_being_asked_for_there_is_no_page():
    admin = harness.free_port()
    with serve("--admin-port", str(admin), prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        assert request(admin, "GET", "/fleet").status == request(admin, "GET", "/fleet/state").status == 404
        assert request(admin, "GET", "/live").status == 200
    with serve("--set", "gateway.fleet_page=on", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        assert "there is no port for it: add --admin-port PORT" in server.output()


# --- `sluice fleet` -----------------------------------------------------------------------------------------------------------


def test_what_sluice_fleet_needs_is_said(tmp_path):
    def run(*flags, environment=None):
        listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
        return subprocess.run([BINARY, "fleet", *listen, *map(str, flags)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              env={**os.environ, **(environment or {})})

    keyless = run()
    assert keyless.returncode == 2 and "--cluster-key-file" in keyless.stderr
    known = {"SLUICE_CLUSTER_KEY": "0" * 32}
    for flags, word in ((("--listen", "0.0.0.0:0"), "--listen-public"), (("--keys-file", tmp_path / "none.json"), "none.json"), (("--url", "https://a:1"), "http"),
                        (("--listen", "nowhere"), "HOST:PORT"), (("--interval", "0"), "interval")):
        refused = run(*flags, environment=known)
        assert refused.returncode != 0 and word in refused.stderr, (flags, refused.stderr)


def test_with_certificates_an_operators_is_needed(tmp_path):
    subprocess.run([BINARY, "certs", "make", "--out", tmp_path / "certs"], capture_output=True, timeout=120, check=True)

    def shown(role):
        folder = tmp_path / "certs" / role
        return ["--certificate-file", folder / "tls.crt", "--certificate-key-file", folder / "tls.key", "--authority-file", folder / "ca.crt"]

    with cluster_of(decode=1, certificates=tmp_path / "certs") as cluster:
        with Fleet(cluster, *shown("gateway")) as gateway:
            assert gateway.wait() == 2 and "operat" in gateway.output()
        with Fleet(cluster, *shown("operator")) as fleet:
            fleet.wait_ready()
            told = wait_until(lambda: len((now := state(fleet.port, fleet.key))["workers"]["rows"]) == 2 and now, "both workers are told")
            worker = next(one for one in told["workers"]["rows"] if one["role"] == "decode")
            drained = request(fleet.port, "POST", "/fleet/drain", {"worker": worker["id"], "incarnation": worker["incarnation"]}, bearer(fleet.key))
            assert drained.status == 200 and drained.json()["worker"] == worker["id"], drained.body
        with Fleet(cluster) as bare:
            bare.wait_ready()
            told = state(bare.port, bare.key)
            assert not told["scheduler"]["reached"] and told["scheduler"]["problem"] and told["workers"]["total"] == 0
            assert all(process["up"] for process in told["processes"])  # what needs no certificate is there


def test_who_does_what_is_in_the_log_and_a_later_life_is_not_meant(tmp_path):
    file = tmp_path / "keys.json"
    key = make_key(file, "--name", "ops\tdesk", "--scopes", "admin")
    with cluster_of() as cluster, Fleet(cluster, "--keys-file", file) as fleet:
        fleet.wait_ready()
        told = wait_until(lambda: (now := state(fleet.port, key, "?q=decode"))["workers"]["matching"] == 2 and now, "both decode workers are told")
        assert told["workers"]["total"] == 3
        worker = told["workers"]["rows"][0]

        def drain(**other):
            return request(fleet.port, "POST", "/fleet/drain", {"worker": worker["id"], "incarnation": worker["incarnation"], **other}, bearer(key))

        harness.assert_error(drain(incarnation="1"), 409)
        harness.assert_error(drain(worker="ff"), 404)
        harness.assert_error(request(fleet.port, "POST", "/fleet/drain", {"worker": worker["id"], "incarnation": worker["incarnation"]}), 401)
        assert drain().status == 200
        log = fleet.output()
        assert re.search(rf"fleet page: key \w+ \(ops\\x09desk\) at \S+ asks to drain worker {worker['id']} incarnation {worker['incarnation']}: it takes no new requests", log), log
        assert re.search(r"asks to drain worker 00000000000000ff incarnation \w+: refused: there is no worker", log), log
        assert "/fleet/drain at" in log and "is refused: no API key" in log and key not in log
        assert f"worker {worker['id']} incarnation {worker['incarnation']} is asked to drain" in cluster.logs()  # as by `sluice drain`
        now = wait_until(lambda: (now := state(fleet.port, key))["workers"]["states"].get("draining") == 1 and now, "it is told")
        assert now["workers"]["rows"][0]["id"] == worker["id"]  # who needs attention comes first
        assert any(change["name"] == worker["id"] and change["text"] == "was ready, is draining" for change in now["changes"]), now["changes"]
        assert post(cluster.port, "/v1/completions", model=MODEL_ID, prompt="Once", max_tokens=3).status == 200


# --- in a browser -------------------------------------------------------------------------------------------------------------


def test_a_cluster_is_shown_and_a_worker_drained(chromium):
    with cluster_of(settings=["slo_classes.chat.ttft_ms=60000", "slo.default_class=chat"]) as cluster, Fleet(cluster) as fleet:
        fleet.wait_ready()
        page = open_page(chromium, fleet.url, fleet.key, width=1280, height=1000)
        page.wait(f"{ROWS}.length === 3")
        assert post(cluster.port, "/v1/completions", model=MODEL_ID, prompt="Once upon a time", max_tokens=40, temperature=0).status == 200
        page.wait("['pools', 'models', 'slo', 'queues', 'kv', 'transfers', 'processes'].every((id) => document.querySelector(`#section-${id} tbody tr`))")
        assert set(states(page).values()) == {"ready"} and page.text("#workers-count") == "3 of 3 ready"
        assert {row[1] for row in table(page, "section-pools")} == {"prefill", "decode"}
        processes = table(page, "section-processes")
        assert len(processes) == 5 and {row[1] for row in processes} == {"gateway", "scheduler", "prefill", "decode"}
        assert any(row[2] == "ttft" and row[3] == "100.00 %" for row in table(page, "section-slo"))

        page.write("#words", "decode")
        page.wait(f"{ROWS}.length === 2")
        assert page.text("#workers-count").endswith("2 found")
        victim, other = states(page)
        page.click(f"[aria-label='Drain worker {victim}']")
        assert page.run("document.querySelector('#drain-dialog').open") and victim in page.text("#drain-text") and "no way back" in page.text("#drain-text")
        shot(page, "fleet-drain.png")
        page.click("#drain-no")
        assert not page.run("document.querySelector('#drain-dialog').open") and "asks to drain" not in fleet.output()  # it was not meant
        page.click(f"[aria-label='Drain worker {victim}']")
        page.click("#drain-yes")
        page.wait("document.querySelector('#done').textContent.includes('takes no new requests')")
        page.wait(f"document.querySelector(\"[aria-label='Drain worker {victim}']\").disabled")
        assert states(page) == {victim: "draining", other: "ready"}
        page.wait("document.querySelector('#section-changes')?.textContent.includes('was ready, is draining')")
        assert fleet.output().count("it takes no new requests") == 1

        page.click(f"[aria-label='Drain worker {other}']")  # the last one: it is said what that means
        assert "will be refused" in page.text("#drain-warning")
        page.click("#drain-no")
        page.write("#words", "nothing is called like that")
        page.wait(f"{ROWS}.length === 0")
        page.run("document.querySelector('#words').value = ''; document.querySelector('#words').dispatchEvent(new Event('input'))")
        page.wait(f"{ROWS}.length === 3")
        page.run("document.querySelector('#done').hidden = true")
        shot(page, "fleet.png")

        page.resize(width=375, height=760, mobile=True)
        assert page.run("document.documentElement.scrollWidth") <= 375
        before = page.run("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.run("getComputedStyle(document.body).backgroundColor") != before
        shot(page, "fleet-telephone.png")
        assert page.run("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])").count(fleet.key) == 0
        assert page.complaints() == []


def test_a_silent_worker_and_a_lost_scheduler_are_told(chromium):
    with cluster_of(settings=["scheduler.suspect_ms=2000", "scheduler.lease_ms=600000", "gateway.worker_lost_after_ms=600000"]) as cluster, Fleet(cluster) as fleet:
        fleet.wait_ready()
        page = open_page(chromium, fleet.url, fleet.key)
        page.wait(f"{ROWS}.length === 3 && {ROWS}.every((row) => row.children[4].textContent === 'ready')")
        silent = cluster.pids_of("decode")[0]
        os.kill(silent, signal.SIGSTOP)
        try:
            page.wait(f"{ROWS}[0].children[4].textContent === 'suspect'")  # and it comes first
            page.wait("document.querySelector('#section-changes')?.textContent.includes('was ready, is suspect')")
            page.wait("document.querySelector('#section-processes').textContent.includes('not reached')")
        finally:
            os.kill(silent, signal.SIGCONT)
        page.wait(f"{ROWS}.every((row) => row.children[4].textContent === 'ready')")
        page.wait("!document.querySelector('#section-processes').textContent.includes('not reached')")

        os.kill(cluster.pids_of("scheduler")[0], signal.SIGKILL)
        page.wait("document.querySelector('#notice').textContent.includes('The scheduler is not reached')")
        assert "none can be drained" in page.text("#notice") and len(states(page)) == 3
        assert page.run("[...document.querySelectorAll('#workers td button')].every((button) => button.disabled)")
        shot(page, "fleet-no-scheduler.png")

        fleet.stop()
        page.wait("document.querySelector('#notice').textContent.includes('What is shown is old')")
        assert page.run("document.querySelector('#fleet').classList.contains('is-old')")
        page.browser.events.clear()  # the console has told of what was not reached


def test_what_has_a_hostile_name_is_shown_as_text(chromium):
    admin = harness.free_port()
    evil = "<img src=x onerror=document.title='hit'><b>m</b>"
    with serve("--admin-port", str(admin), "--set", "gateway.fleet_page=on", "--served-name", evil, prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        assert post(server.port, "/v1/completions", model=evil, prompt="Once", max_tokens=3).status == 200
        output = wait_until(lambda: "made for this run" in server.output() and server.output(), "the banner")
        page = open_page(chromium, f"http://127.0.0.1:{admin}/fleet", re.search(r"with the key (\S+),", output)[1])
        page.wait(f"{ROWS}.length === 1 && ['pools', 'models'].every((id) => document.querySelector(`#section-${{id}} tbody tr`))")
        assert table(page, "workers")[0][2] == table(page, "section-pools")[0][0] == table(page, "section-models")[0][0] == evil
        page.click("#workers td button")
        assert evil in page.text("#drain-text")
        assert page.run("document.querySelectorAll('main img, main b, dialog img, dialog b').length") == 0 and page.run("document.title") == "Sluice fleet"
        assert page.complaints() == []


def test_a_key_that_is_not_good_is_told_and_one_that_is_revoked_shows_nothing_more(chromium, tmp_path):
    file = tmp_path / "keys.json"
    key = make_key(file, "--scopes", "admin")
    admin = harness.free_port()
    with serve("--admin-port", str(admin), "--set", f"gateway.keys_file={file}", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        page = open_page(chromium, f"http://127.0.0.1:{admin}/fleet", "sk-sluice-guess")
        page.wait("document.querySelector('#notice').textContent.includes('not valid')")
        assert page.run("document.querySelector('#workers').hidden")
        show_key(page, key)
        page.wait(f"{ROWS}.length === 1 && document.querySelector('#notice').hidden")
        listed = subprocess.run([BINARY, "keys", "list", "--file", file], capture_output=True, text=True, timeout=60, check=True).stdout
        key_id = json.loads(file.read_text())["keys"][0]["id"]
        assert key_id in listed
        subprocess.run([BINARY, "keys", "revoke", key_id, "--file", file], capture_output=True, timeout=60, check=True)
        page.wait("document.querySelector('#workers').hidden && !document.querySelector('#notice').hidden")
        assert table(page, "workers") == [] and page.text("#summary") == ""
        page.browser.events.clear()  # the console has told of the 401


def test_a_thousand_rows_are_drawn_and_kept(chromium):
    """The page at its bound: the server's side of it is tests/cli/fleet_view_test.cpp."""
    admin = harness.free_port()
    with serve("--admin-port", str(admin), "--set", "gateway.fleet_page=on", prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        output = wait_until(lambda: "made for this run" in server.output() and server.output(), "the banner")
        page = open_page(chromium, f"http://127.0.0.1:{admin}/fleet", re.search(r"with the key (\S+),", output)[1])
        page.wait(f"{ROWS}.length === 1")
        # What a scheduler of 5000 workers would say, from what this one says.
        page.run("""(() => {
            const ask = window.fetch;
            window.fetch = async (...words) => {
                const told = await (await ask(...words)).json();
                const one = told.workers.rows[0];
                const rows = Array.from({length: 1000}, (_, i) => ({...one, id: String(i).padStart(16, '0'), state: i === 0 && window.isSilent ? 'suspect' : 'ready'}));
                return new Response(JSON.stringify({...told, workers: {total: 5000, matching: 5000, states: {ready: 5000}, rows}}));
            };
            document.querySelector('#rows').dispatchEvent(new Event('change'));
        })()""")
        page.wait(f"{ROWS}.length === 1000")
        assert page.text("#workers .more") == "and 4000 more" and page.text("#workers-count") == "5000 of 5000 ready"
        page.run(f"window.kept = {ROWS}; window.kept[500].querySelector('button').focus(); window.isSilent = true")
        page.wait(f"{ROWS}[0].children[4].textContent === 'suspect'")
        assert page.run(f"{ROWS}.every((row, index) => row === window.kept[index])")  # the rows are the same ones
        assert page.run("document.activeElement === window.kept[500].querySelector('button')")
        assert page.complaints() == []
