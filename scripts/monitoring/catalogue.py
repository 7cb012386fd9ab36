"""The catalogue of metrics (configs/metrics.toml), and whether an expression of PromQL keeps to it."""
from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CATALOGUE = ROOT / "configs" / "metrics.toml"
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")
# What whoever scrapes puts on every series: the chart's monitors, or a scrape configuration (docs/monitoring.md).
TARGET_LABELS = {"sluice_cluster", "instance", "job", "namespace", "pod"}
TYPES = {"counter", "gauge", "histogram"}
UNIT_SUFFIXES = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "tokens": "_tokens"}


class Unknown(Exception):
    """An expression asks for something that no process exports."""


@dataclasses.dataclass(frozen=True)
class Metric:
    name: str
    type: str
    help: str
    roles: tuple[str, ...]
    labels: dict[str, list[str]]  # values that it may have; none listed: any
    unit: str = ""
    always: bool = False          # exported from the start

    def problems(self) -> list[str]:
        """Breaches of the rules for names."""
        found = []
        if self.type not in TYPES:
            found.append(f"{self.name}: there is no type {self.type}")
        if (self.type == "counter") != self.name.endswith("_total"):
            found.append(f"{self.name}: counters, and only they, end in _total")
        if self.unit and not self.name.removesuffix("_total").endswith(UNIT_SUFFIXES[self.unit]):
            found.append(f"{self.name}: its unit is {self.unit}, so its name ends in {UNIT_SUFFIXES[self.unit]}")
        if not self.help or self.help.endswith("."):
            found.append(f"{self.name}: its help is a phrase without a full stop")
        return found


def read(path: pathlib.Path = CATALOGUE) -> dict[str, Metric]:
    with path.open("rb") as file:
        rows = tomllib.load(file)
    return {name: Metric(name=name, **{**row, "roles": tuple(row["roles"])}) for name, row in rows.items()}


def series_names(metric: Metric) -> list[str]:
    """Names of the series that Prometheus keeps of it."""
    return [metric.name + suffix for suffix in HISTOGRAM_SUFFIXES] if metric.type == "histogram" else [metric.name]


_SELECTOR = re.compile(r"\b((?:sluice|process)_[a-z0-9_]+|up)\b\s*(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_LABEL_LIST = re.compile(r"\{[^}]*\}|" + _GROUPING.pattern)


def check(expression: str, metrics: dict[str, Metric], recorded: set[str] = frozenset()) -> None:
    """Error (Unknown): it names a metric, a label or a label's value that is not in the catalogue. `recorded`: names that rules make (they
    contain a colon), whose labels are not looked at."""
    by_series = {name: metric for metric in metrics.values() for name in series_names(metric)}
    allowed_labels = set(TARGET_LABELS) | {"le", "slo"}
    for name in re.findall(r"\bsluice:[a-z0-9_:]+", expression):
        if name not in recorded:
            raise Unknown(f"{name} is recorded by no rule: {expression}")
    if any(":" in name for name in recorded) and "sluice:" in expression:
        allowed_labels |= {"model", "slo_class", "stage"}
    bare = re.sub(r"\bsluice:[a-z0-9_:]+", "recorded", expression)
    for match in _SELECTOR.finditer(_GROUPING.sub("", bare)):
        name, matchers = match[1], match[2] or ""
        if name in TARGET_LABELS:
            continue
        if name == "up":
            labels: dict[str, list[str]] = {}
        elif name in by_series:
            labels = by_series[name].labels
        else:
            raise Unknown(f"{name} is not in the catalogue: {expression}")
        allowed_labels |= set(labels)
        for label, operator, value in _MATCHER.findall(matchers):
            if label in TARGET_LABELS or (label == "le" and name.endswith("_bucket")):
                continue
            if label not in labels:
                raise Unknown(f"{name} has no label {label}: {expression}")
            for one in value.split("|") if "~" in operator else [value]:
                if labels[label] and not one.startswith("$") and re.fullmatch(r"\w+", one) and one not in labels[label]:
                    raise Unknown(f"{name}: the label {label} is never {one}: {expression}")
    for group in _GROUPING.findall(bare):
        for label in filter(None, (word.strip() for word in group.split(","))):
            if label not in allowed_labels:
                raise Unknown(f"no metric of this expression has a label {label}: {expression}")
