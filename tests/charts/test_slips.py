"""The list of slips in helm/README.md: each of its tests is there, and what no other test looks at is looked at here."""
import re

import chart
from monitoring import boards, catalogue, rules

COUNTED = ("_sum", "_count", "_bucket", "_total")


def expressions():
    """(where, expression) of every board and rule."""
    found = [(f"{board.uid}: {panel.title}", line.expr) for board in boards.boards() for panel in board.panels for line in panel.lines]
    return found + [(getattr(rule, "alert", None) or rule.record, rule.expr) for group in rules.groups().values() for rule in group]


def bare_counters(expression):
    """Names that only grow, and are not inside of what makes a rate of them: what they say is of all time, and never recovers."""
    inside = re.sub(r"\b(?:rate|irate|increase)\((?:[^()]|\([^()]*\))*\)", "", expression)
    counters = {name for metric in catalogue.read().values() for name in catalogue.series_names(metric) if metric.type != "gauge"}
    return {name for name in re.findall(r"\bsluice_[a-z0-9_]+", inside) if name in counters}


def test_nothing_is_said_of_all_time():
    # One alert looks for a counter that was not there before: it counts as grown by what it has.
    assert {where: bare for where, expression in expressions() if (bare := bare_counters(expression))} == {"SluiceRetriesExhausted": {"sluice_gateway_retries_exhausted_total"}}
    assert bare_counters("sluice_gateway_time_to_first_token_seconds_sum / sluice_gateway_time_to_first_token_seconds_count") != set()
    assert bare_counters("sum(rate(sluice_gateway_requests_total[5m]))") == set()


def test_latency_is_shown_by_percentiles():
    asked = [expression for _, expression in expressions()]
    for metric in ("sluice_gateway_time_to_first_token_seconds", "sluice_gateway_time_per_output_token_seconds"):
        assert any("histogram_quantile" in one and f"{metric}_bucket" in one for one in asked), metric
        assert not any(f"{metric}_sum" in one for one in asked), f"{metric} is averaged"


def test_the_tests_that_the_list_names_are_there():
    page = (chart.ROOT / "helm" / "README.md").read_text().split("## Slips that a test keeps out")[1]
    named = re.findall(r"`(?:(tests/\w+/|)(test_\w+\.py))?(?:::)?(test_\w+|)`", page)
    assert len([one for one in named if one[1] or one[2]]) >= 12
    every = {path.name: path.read_text() for folder in ("charts", "integration") for path in (chart.ROOT / "tests" / folder).glob("test_*.py")}
    for _, file, function in named:
        assert not file or file in every, file
        assert not function or any(f"def {function}(" in text for text in ([every[file]] if file else every.values())), function
    refusals = every["test_refusals.py"]
    for line in page.splitlines():
        for words in re.findall(r"`test_refusals\.py`: ((?:`[^`]+`(?:, )?)+)", line):
            for word in re.findall(r"`([^`]+)`", words):
                assert f'"{word}' in refusals or word in refusals, word
