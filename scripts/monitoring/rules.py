"""Recording and alerting rules, from the catalogue. What they are for: docs/monitoring.md; what to do: docs/runbooks/."""
from __future__ import annotations

import dataclasses

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Share of requests that must be good, of each promise. The chart sets its own (monitoring.rules.objectives).
OBJECTIVES = {"ttft": 0.95, "tpot": 0.95, "e2e": 0.95, "availability": 0.999, "all": 0.9}
# Those that a class has an aim for: `slo_classes.NAME.attainment`, the share that meets all targets, so at least as many meet each.
AIMED = "ttft|tpot|e2e|all"
MISSES_LEAST = 0.001  # of a class that may miss none
# Google's SRE workbook, chapter 5, table 5-8: so fast is the budget of 30 days used up, over a long and a short window.
BURNS = [("1h", "5m", 14.4, "page", "2m"), ("6h", "30m", 6, "page", "5m"), ("1d", "2h", 3, "ticket", "15m"), ("3d", "6h", 1, "ticket", "30m")]
# Fewer requests than this in the long window say nothing about a share.
REQUESTS_LEAST = 20
SECONDS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600, "1d": 86400, "3d": 259200}
RUNBOOKS = "docs/runbooks/"

SLO = "sluice_cluster, model, slo_class, slo"
CLASS = "sluice_cluster, model, slo_class"
MODEL = "sluice_cluster, model"


@dataclasses.dataclass
class Recording:
    record: str
    expr: str
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Alert:
    alert: str
    expr: str
    for_: str
    severity: str  # page: somebody gets up; ticket: in working hours
    summary: str
    runbook: str
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


def objectives() -> list[Recording]:
    return [Recording("sluice:slo_objective:ratio", f"vector({value})", {"slo": slo}) for slo, value in OBJECTIVES.items()]


def slo_windows() -> list[Recording]:
    rules = [Recording("sluice:slo_class_objective:ratio", "max by (sluice_cluster, slo_class) (sluice_gateway_slo_objective_ratio)")]
    for window in WINDOWS:
        counted = f'sum by ({SLO}) (rate(sluice_gateway_slo_requests_total{{outcome=~"good|bad"}}[{window}]))'
        bad = f'sum by ({SLO}) (rate(sluice_gateway_slo_requests_total{{outcome="bad"}}[{window}]))'
        rules += [
            Recording(f"sluice:slo_requests:rate{window}", counted),
            # Without a request there is no share, rather than one of nothing by nothing.
            Recording(f"sluice:slo_bad:ratio_rate{window}", f"({bad} or 0 * sluice:slo_requests:rate{window}) / (sluice:slo_requests:rate{window} > 0)"),
            # By the aim of its class, where that has one; else by the objective of all.
            Recording(f"sluice:slo_burn:rate{window}",
                      f'sluice:slo_bad:ratio_rate{window}{{slo=~"{AIMED}"}} / on (sluice_cluster, slo_class) group_left () clamp_min(1 - sluice:slo_class_objective:ratio, {MISSES_LEAST})'
                      f" or sluice:slo_bad:ratio_rate{window} / on (slo) group_left () (1 - sluice:slo_objective:ratio)"),
        ]
    return rules


def quantiles() -> list[Recording]:
    rules = [Recording("sluice:goodput_requests:rate5m",
                       f'sum by ({CLASS}) (rate(sluice_gateway_slo_requests_total{{slo="all",outcome="good"}}[5m]))')]
    for short, metric in (("ttft", "sluice_gateway_time_to_first_token_seconds"), ("tpot", "sluice_gateway_time_per_output_token_seconds")):
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            rules.append(Recording(f"sluice:{short}_seconds:{name}_5m",
                                   f"histogram_quantile({quantile}, sum by (le, {CLASS}) (rate({metric}_bucket[5m])))"))
    return rules


def burn_alerts() -> list[Alert]:
    alerts = []
    for long, short, factor, severity, for_ in BURNS:
        alerts.append(Alert(
            "SluiceSloBurn",
            f"sluice:slo_burn:rate{long} > {factor} and sluice:slo_burn:rate{short} > {factor}"
            f" and sluice:slo_requests:rate{long} * {SECONDS[long]} >= {REQUESTS_LEAST}",
            for_, severity,
            "{{ $labels.slo }} of class {{ $labels.slo_class }} of {{ $labels.model }} uses up its budget {{ $value | humanize }} times too fast (" + long + ")",
            "slo-burn.md", {"window": long}))
    return alerts


def ready(roles: str) -> str:
    return f'sum by ({MODEL}) (sluice_scheduler_workers{{role=~"{roles}",state="ready"}}) > 0'


DAY = 86400


def certificate_alerts() -> list[Alert]:
    """Of those between processes (peers) and the one that clients see (https)."""
    by = "sluice_cluster, instance"
    alerts = []
    for which, name in (("peers", "sluice_certificate"), ("https", "sluice_gateway_certificate")):
        ends = f"min by ({by}) ({name}_expires_timestamp_seconds)"
        life = f"({ends} - min by ({by}) ({name}_starts_timestamp_seconds))"
        # Of its life, since some live for a day and some for years; whoever renews in time does so when a third is left. Never weeks ahead.
        for severity, share, days in (("ticket", 0.2, 14), ("page", 0.05, 2)):
            alerts.append(Alert(
                "SluiceCertificateExpires", f"{ends} - time() < {share} * {life} and {ends} - time() < {days * DAY}", "10m", severity,
                "the certificate of {{ $labels.instance }} (" + which + ") has {{ $value | humanizeDuration }} left: then others refuse it",
                "certificates.md", {"certificate": which}))
        alerts.append(Alert("SluiceCertificateInvalid", f"min by ({by}) ({name}_valid) == 0", "5m", "ticket",
                            "{{ $labels.instance }} keeps its old certificate (" + which + "): the files that it read do not do", "certificates.md",
                            {"certificate": which}))
    return alerts


def cause_alerts() -> list[Alert]:
    served = f'group by ({MODEL}) (sluice_gateway_inflight_requests{{model!~"none|other"}})'
    leaders = "sum by (sluice_cluster) (sluice_scheduler_leads)"
    damage = 'sluice_kv_transfers_total{outcome=~"checksum_mismatch|oversize|wrong_request|no_capability"}'
    failed = '{outcome="failed"}'

    def level(way: str, matchers: str = "") -> str:
        return f"sum by (sluice_cluster, instance, tier) (rate(sluice_kv_tier_{way}_total{matchers}[10m]))"

    return [
        Alert("SluiceNoPrefill", f"{served} unless on ({MODEL}) ({ready('prefill|mixed|encode')})", "1m", "page",
              "no worker that can compute prompts of {{ $labels.model }} is ready", "no-ready-workers.md"),
        Alert("SluiceNoDecode", f"{served} unless on ({MODEL}) ({ready('decode|mixed|encode')})", "1m", "page",
              "no worker that can generate for {{ $labels.model }} is ready", "no-ready-workers.md"),
        Alert("SluiceNoScheduler", f"group by (sluice_cluster) (sluice_gateway_connections) unless on (sluice_cluster) {leaders} > 0",
              "1m", "page", "no scheduler of {{ $labels.sluice_cluster }} leads: new requests are refused, streams go on", "no-scheduler.md"),
        Alert("SluiceTwoSchedulers", f"{leaders} > 1", "5m", "ticket",
              "{{ $value }} schedulers of {{ $labels.sluice_cluster }} lead at once", "no-scheduler.md"),
        Alert("SluiceConfigInvalid", "min by (sluice_cluster, instance) (sluice_config_valid) == 0", "5m", "ticket",
              "{{ $labels.instance }} keeps its old settings: those that it read are invalid", "config-invalid.md"),
        Alert("SluiceTargetDown", 'up{sluice_cluster!=""} == 0', "3m", "ticket", "{{ $labels.instance }} does not answer Prometheus", "target-down.md"),
        Alert("SluiceRestarts", 'changes(process_start_time_seconds{sluice_cluster!=""}[30m]) > 3', "1m", "ticket",
              "{{ $labels.instance }} has started {{ $value }} times in half an hour", "target-down.md"),
        Alert("SluiceKvDamaged", f"sum by (sluice_cluster, instance, outcome) (increase({damage}[10m])) > 0", "0s", "page",
              "{{ $labels.instance }} refused KV: {{ $labels.outcome }}", "kv-damaged.md"),
        Alert("SluiceKvRecomputed",
              "sum by (sluice_cluster) (rate(sluice_kv_fallbacks_total[10m])) / "
              '(sum by (sluice_cluster) (rate(sluice_kv_transfers_total{direction="receive"}[10m])) > 0) > 0.05', "10m", "ticket",
              "{{ $value | humanizePercentage }} of the hand-offs of {{ $labels.sluice_cluster }} are computed again", "kv-recomputed.md"),
        Alert("SluiceKvStranded",
              'sum by (sluice_cluster, worker) (sluice_worker_kv_blocks{state="stranded"}) / '
              "sum by (sluice_cluster, worker) (sluice_worker_kv_blocks_capacity > 0) > 0.05", "10m", "ticket",
              "{{ $value | humanizePercentage }} of the KV memory of worker {{ $labels.worker }} waits for transfers to end", "kv-memory.md"),
        Alert("SluiceKvFull", "max by (sluice_cluster, model, worker) (sluice_worker_kv_cache_usage_ratio) > 0.95", "15m", "ticket",
              "the KV memory of worker {{ $labels.worker }} is full", "kv-memory.md"),
        # How full a level is says nothing: it is a cache, and best when it is full.
        Alert("SluiceKvLevelFails", f"({level('saves', failed)} + {level('loads', failed)}) / ({level('saves')} + {level('loads')} > 0) > 0.05", "10m", "ticket",
              "{{ $value | humanizePercentage }} of what the level {{ $labels.tier }} of {{ $labels.instance }} was to take or to give failed", "kv-memory.md"),
        # A pool of encoders alone reads 1, having neither stage.
        Alert("SluiceSaturated", "max by (sluice_cluster, model, stage) (sluice_scheduler_pool_saturation_ratio) > 0.95"
              f' and on ({MODEL}) sum by ({MODEL}) (sluice_scheduler_workers{{role!="encode"}}) > 0', "10m", "ticket",
              "the workers of {{ $labels.model }} are at their limits ({{ $labels.stage }})", "saturated.md"),
        Alert("SluiceRefusing",
              f'sum by ({MODEL}) (rate(sluice_gateway_requests_total{{code=~"429|503"}}[5m])) / '
              f"(sum by ({MODEL}) (rate(sluice_gateway_requests_total[5m])) > 0) > 0.05", "10m", "ticket",
              "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} are refused", "saturated.md"),
        Alert("SluiceStaleWorkers", f"sum by ({MODEL}) (sluice_scheduler_stale_workers) > 0", "2m", "ticket",
              "{{ $value }} workers of {{ $labels.model }} are late with their reports", "stale-workers.md"),
        Alert("SluiceWorkersEjected", f'sum by ({MODEL}) (sluice_scheduler_workers{{state="ejected"}}) > 0', "5m", "ticket",
              "{{ $value }} workers of {{ $labels.model }} fail what they are given, and get nothing new", "stale-workers.md"),
        Alert("SluiceWorkerStuck",
              # The gateway leaves a worker that stalls: then no request is its own any more, but the step that hangs still has their memory.
              "sum by (sluice_cluster, instance) (sluice_worker_requests_running) + on (sluice_cluster, instance) "
              'sum by (sluice_cluster, instance) (sluice_worker_kv_blocks{state="used"}) > 0 and on (sluice_cluster, instance) '
              "sum by (sluice_cluster, instance) (rate(sluice_worker_step_duration_seconds_count[3m])) == 0", "3m", "page",
              "{{ $labels.instance }} holds KV memory of requests and has computed no step for minutes", "stale-workers.md"),
        Alert("SluiceRetriesExhausted",
              # A series that is new has not grown, for Prometheus: it counts for what it has.
              f"sum by ({MODEL}, limit) ((increase(sluice_gateway_retries_exhausted_total[5m]) > 0) "
              "or (sluice_gateway_retries_exhausted_total unless sluice_gateway_retries_exhausted_total offset 5m)) > 0", "0s", "ticket",
              "sequences of {{ $labels.model }} were given up after a failure (limit: {{ $labels.limit }})", "retries-exhausted.md"),
        Alert("SluicePredictionsOff",
              f"abs(log2(histogram_quantile(0.5, sum by (le, {MODEL}, kind) ("
              'rate(sluice_scheduler_prediction_ratio_bucket{kind=~"ttft|tpot"}[30m]))))) > 1', "30m", "ticket",
              "half of the predicted {{ $labels.kind }} of {{ $labels.model }} are wrong by more than a factor of two", "predictions-off.md"),
        *certificate_alerts(),
    ]


def groups() -> dict[str, list[Recording | Alert]]:
    """Groups by name, in the order in which Prometheus is given them."""
    return {"sluice-objectives": list(objectives()), "sluice-slo": list(slo_windows()), "sluice-latency": list(quantiles()),
            "sluice-burn-alerts": list(burn_alerts()), "sluice-cause-alerts": list(cause_alerts())}


def recorded_names() -> set[str]:
    return {rule.record for rules in groups().values() for rule in rules if isinstance(rule, Recording)}


def to_yaml() -> str:
    """All groups as a file of rules. The texts hold no newline, so a quoted scalar each is enough."""
    def quoted(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    lines = ["# Written by scripts/make-monitoring from configs/metrics.toml and scripts/monitoring/rules.py: change those.", "groups:"]
    for name, rules in groups().items():
        lines += [f"  - name: {name}", "    interval: 30s", "    rules:"]
        for rule in rules:
            if isinstance(rule, Recording):
                lines += [f"      - record: {rule.record}", f"        expr: {quoted(rule.expr)}"]
                labels = rule.labels
            else:
                lines += [f"      - alert: {rule.alert}", f"        expr: {quoted(rule.expr)}"]
                if rule.for_ != "0s":
                    lines.append(f"        for: {rule.for_}")
                labels = {"severity": rule.severity, **rule.labels}
            if labels:
                lines.append("        labels:")
                lines += [f"          {label}: {quoted(value)}" for label, value in labels.items()]
            if isinstance(rule, Alert):
                lines += ["        annotations:", f"          summary: {quoted(rule.summary)}", f"          runbook_url: {RUNBOOKS}{rule.runbook}"]
    return "\n".join(lines) + "\n"
