"""Files and batches with OpenAI's client: answers as alone, through a restart, beside others, within a tenant."""
import json
import os
import signal
import subprocess

import openai
import pytest

import harness
from harness import BINARY, MODEL_ID, metrics, post, request, serve, wait_until

pytestmark = pytest.mark.process


def client_of(server, key="none"):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def row(number, **more):
    body = {"model": MODEL_ID, "messages": [{"role": "user", "content": f"Tell me about animal {number}"}], "max_tokens": 12, "seed": number, "temperature": 1, **more}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(client, rows):
    text = "".join(json.dumps(one) + "\n" for one in rows)
    return client.files.create(file=("rows.jsonl", text.encode()), purpose="batch")


def begin(client, rows, **more):
    return client.batches.create(input_file_id=upload(client, rows).id, endpoint="/v1/chat/completions", completion_window="24h", **more)


def ended(client, batch, seconds=120):
    return wait_until(lambda: (now := client.batches.retrieve(batch.id)).status in ("completed", "failed", "expired", "cancelled") and now, "the batch is over", seconds)


def rows_of(client, file):
    return {one["custom_id"]: one for one in map(json.loads, client.files.content(file).text.splitlines())}


def serve_batches(folder, *flags):
    return serve("--set", f"batch.file={folder}/batches.sqlite", *flags, prefill=0, decode=0, mixed=1)


def test_answers_of_a_batch_are_those_of_its_requests_alone(tmp_path):
    with serve_batches(tmp_path) as server:
        client = client_of(server.wait_ready())
        rows = [row(number) for number in range(30)] + [row(99, model="nobody")]
        batch = begin(client, rows, metadata={"job": "animals"})
        assert batch.object == "batch" and batch.metadata == {"job": "animals"} and batch.expires_at == batch.created_at + 24 * 3600
        done = ended(client, batch)
        assert (done.status, done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == ("completed", 31, 30, 1)
        assert done.in_progress_at and done.finalizing_at and done.completed_at
        answers = rows_of(client, done.output_file_id)
        assert len(answers) == 30
        for number in (0, 17):
            alone = post(server.port, "/v1/chat/completions", **rows[number]["body"]).json()
            told = answers[f"row-{number}"]["response"]
            assert told["status_code"] == 200 and told["body"]["choices"] == alone["choices"] and told["body"]["usage"]["completion_tokens"] > 0
        errors = rows_of(client, done.error_file_id)
        assert errors["row-99"]["response"]["status_code"] == 404 and errors["row-99"]["response"]["body"]["error"]["code"] == "model_not_found"
        # Lists, pages, removal.
        assert [one.id for one in client.batches.list(limit=1).data] == [batch.id]
        assert {one.purpose for one in client.files.list()} == {"batch", "batch_output"}
        client.files.delete(done.output_file_id)
        with pytest.raises(openai.NotFoundError):
            client.files.content(done.output_file_id)
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)
        counted = {labels: value for (name, labels), value in metrics(server.port).items() if name == "sluice_gateway_batch_requests_total"}
        assert sum(counted.values()) == 31
        wait_until(lambda: '"request_id":"batch_req_' in server.output(), "a line of the access log", 60)


def test_a_killed_gateway_goes_on_where_it_was(tmp_path):
    rows = [row(number, max_tokens=60) for number in range(200)]
    with serve_batches(tmp_path) as server:
        client = client_of(server.wait_ready())
        batch = begin(client, rows)
        seen = wait_until(lambda: (now := client.batches.retrieve(batch.id)).request_counts.completed >= 20 and now, "some are answered", 120)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    with serve_batches(tmp_path) as server:
        client = client_of(server.wait_ready())
        done = ended(client, batch)
        assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 200, 0)
        assert len(rows_of(client, done.output_file_id)) == 200
        sent = sum(value for (name, labels), value in metrics(server.port).items() if name == "sluice_gateway_batch_requests_total" and ("outcome", "answered") in labels)
        # What the client had seen is not done again, but for what was on its way to the file.
        assert sent <= 200 - seen.request_counts.completed + 2 * 8
        assert server.stop() == 0


def test_what_is_wrong_is_said_and_a_batch_can_be_stopped(tmp_path):
    with serve_batches(tmp_path, "--set", "batch.requests_at_once=1") as server:
        client = client_of(server.wait_ready())
        failed = ended(client, begin(client, [row(1), row(1), {"custom_id": "x"}]))
        assert failed.status == "failed" and [(one.line, one.code) for one in failed.errors.data] == [(2, "duplicate_custom_id"), (3, "invalid_method")]
        for wrong in ({"endpoint": "/v1/messages"}, {"completion_window": "9d"}, {"input_file_id": "file-none"}):
            with pytest.raises(openai.APIStatusError) as told:
                client.batches.create(**{"input_file_id": upload(client, [row(1)]).id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **wrong})
            assert told.value.status_code in (400, 404)
        with pytest.raises(openai.BadRequestError):
            client.files.create(file=b"x", purpose="other")
        assert request(server.port, "POST", "/v1/files", b"{}").status == 415
        long = begin(client, [row(number, max_tokens=400, ignore_eos=True) for number in range(2000)])
        wait_until(lambda: client.batches.retrieve(long.id).request_counts.completed >= 1, "one is answered")
        client.batches.cancel(long.id)
        done = ended(client, long)
        assert done.status == "cancelled" and 0 < done.request_counts.completed < 2000
        assert len(rows_of(client, done.output_file_id)) == done.request_counts.completed
        wait_until(lambda: sum(value for (name, _), value in metrics(server.port).items() if name == "sluice_gateway_batch_requests_running") == 0, "nothing runs on")


def test_others_are_not_kept_waiting(tmp_path):
    with serve_batches(tmp_path, "--set", "batch.requests_at_once=16") as server:
        client = client_of(server.wait_ready())
        batch = begin(client, [row(number, max_tokens=200, ignore_eos=True) for number in range(400)])
        for number in range(5):
            assert post(server.port, "/v1/chat/completions", **row(number)["body"]).status == 200
        assert client.batches.retrieve(batch.id).status == "in_progress"  # it takes long, and they did not
        client.batches.cancel(batch.id)
        ended(client, batch)


def test_tenants_see_their_own_and_keys_count(tmp_path):
    file = tmp_path / "keys.json"

    def key(*flags):
        return subprocess.run([BINARY, "keys", "add", "--file", file, *flags], capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    mine, other, narrow = key("--tenant", "a"), key("--tenant", "b"), key("--tenant", "a", "--scopes", "batches,models")
    with serve_batches(tmp_path, "--set", f"gateway.keys_file={file}") as server:
        server.wait_ready()
        client, stranger = client_of(server, mine), client_of(server, other)
        batch = begin(client, [row(number) for number in range(5)])
        done = ended(client, batch)
        assert done.request_counts.completed == 5
        for ask in (lambda: stranger.batches.retrieve(batch.id), lambda: stranger.files.content(done.output_file_id), lambda: stranger.batches.cancel(batch.id)):
            with pytest.raises(openai.NotFoundError):
                ask()
        assert stranger.batches.list().data == [] and list(stranger.files.list()) == []
        with pytest.raises(openai.PermissionDeniedError):
            begin(client_of(server, narrow), [row(1)])
        assert request(server.port, "GET", "/v1/batches").status == 401
        wait_until(lambda: '"tenant":"a"' in server.output(), "a line of the access log", 60)


def test_without_a_file_for_them_there_are_none(tmp_path):
    with serve(prefill=0, decode=0, mixed=1) as server:
        server.wait_ready()
        for path in ("/v1/batches", "/v1/files", "/v1/files/x/content"):
            told = request(server.port, "GET", path)
            assert told.status == 400 and "batch.file" in told.json()["error"]["message"]
    refused = subprocess.run([BINARY, "serve", "--model", harness.MODEL, "--set", f"batch.file={tmp_path}/no/such", "--port", str(harness.free_port())], capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0 and "batch.file" in refused.stderr + refused.stdout
