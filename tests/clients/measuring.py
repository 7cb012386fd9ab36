"""Tools that evaluate and measure: what each was told, and whether it makes sense."""
from __future__ import annotations

import json
import pathlib
import shutil

REQUESTS = 8


def tasks(home: pathlib.Path, names: dict[str, str]) -> pathlib.Path:
    """lm-eval's tasks with the place of their data."""
    for file in (pathlib.Path(names["here"]) / "lm_eval").iterdir():
        if file.suffix == ".yaml":
            (home / file.name).write_text(file.read_text().replace("FOLDER", str(home)))
        else:
            shutil.copy(file, home)
    return home


def accuracy(home: pathlib.Path, output: str) -> str:
    """The demo model knows stories: it has to find them likelier than words in no order."""
    [path] = home.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    told = {name: next(value for key, value in values.items() if key.startswith(("acc,", "exact_match,"))) for name, values in results.items()}
    assert told.get("sluice_choice", 1.0) >= 0.8, told
    return ", ".join(f"{name} {value}" for name, value in told.items())


def guidellm(home: pathlib.Path, output: str) -> str:
    [benchmark] = json.loads((home / "out.json").read_text())["benchmarks"]
    totals = benchmark.get("request_totals") or benchmark["run_stats"]["requests_made"]
    assert totals["successful"] == REQUESTS and totals["errored"] == 0, totals
    ttft = benchmark["metrics"]["time_to_first_token_ms"]["successful"]["median"]
    tokens = benchmark["metrics"]["output_token_count"]["successful"]["median"]
    assert ttft > 0 and tokens == 16, (ttft, tokens)
    return f"{REQUESTS} requests, none failed, TTFT and {tokens:.0f} tokens each"


def aiperf(home: pathlib.Path, output: str) -> str:
    [path] = home.rglob("profile_export_aiperf.json")
    report = json.loads(path.read_text())
    assert report["request_count"]["avg"] == REQUESTS and not report.get("error_summary"), report.get("error_summary")
    assert report["output_sequence_length"]["avg"] == 16 and report["time_to_first_token"]["avg"] > 0 and report["inter_token_latency"]["avg"] > 0
    return f"{REQUESTS} requests, none failed, TTFT, ITL and 16 tokens each by the server's count"
