"""Grafana boards, one for each question that an operator has. Every expression is held against the catalogue, and tests/charts runs all of them
on a Prometheus that scrapes a cluster under load."""
from __future__ import annotations

import dataclasses
import json

RATE = "$__rate_interval"
HERE = 'sluice_cluster=~"$cluster"'
OF_MODEL = HERE + ',model=~"$model"'


@dataclasses.dataclass
class Line:
    expr: str
    legend: str
    quiet: bool = False  # may have no series in a healthy cluster that serves


@dataclasses.dataclass
class Panel:
    title: str
    lines: list[Line]
    unit: str = "short"  # Grafana's name
    kind: str = "timeseries"
    about: str = ""
    most: float | None = None  # upper end of the axis
    width: int = 12


@dataclasses.dataclass
class Board:
    uid: str
    title: str
    about: str
    panels: list[Panel]


def quantiles(metric: str, by: str, matchers: str, legend: str, quiet: bool = False) -> list[Line]:
    grouping = f"le, {by}" if by else "le"
    return [Line(f"histogram_quantile({quantile}, sum by ({grouping}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))", f"{name} {legend}".strip(), quiet)
            for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))]


def rate(metric: str, by: str, matchers: str, legend: str, quiet: bool = False) -> Line:
    return Line(f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))", legend, quiet)


def overview() -> Board:
    return Board("sluice-overview", "Sluice: overview and targets", "Is what was promised kept, and how long will the budget last?", [
        Panel("Goodput", [Line(f"sum by (model, slo_class) (sluice:goodput_requests:rate5m{{{OF_MODEL}}})", "{{model}} {{slo_class}}")], "reqps",
              about="Requests a second that met all their targets"),
        Panel("Requests by status", [rate("sluice_gateway_requests_total", "code", HERE + ',endpoint!~"health|live|metrics"', "{{code}}")], "reqps"),
        Panel("Burn of the budget, 1 h", [Line(f"sluice:slo_burn:rate1h{{{OF_MODEL}}}", "{{slo}} {{slo_class}}")], "short",
              about="1 uses up exactly the budget of 30 days in 30 days; a page comes at 14.4"),
        Panel("Budget left of 3 days", [Line(f"1 - sluice:slo_burn:rate3d{{{OF_MODEL}}}", "{{slo}} {{slo_class}}")], "percentunit", most=1),
        Panel("Time to first token", quantiles("sluice_gateway_time_to_first_token_seconds", "slo_class", OF_MODEL, "{{slo_class}}"), "s"),
        Panel("Time per output token", quantiles("sluice_gateway_time_per_output_token_seconds", "slo_class", OF_MODEL, "{{slo_class}}"), "s"),
        Panel("Share of bad requests", [Line(f"sluice:slo_bad:ratio_rate5m{{{OF_MODEL}}}", "{{slo}} {{slo_class}}")], "percentunit"),
        Panel("Requests in work", [Line(f"sum by (model) (sluice_gateway_inflight_requests{{{OF_MODEL}}})", "{{model}}")]),
        Panel("Tokens of tenants", [Line(f"topk(10, sum by (tenant) (rate(sluice_gateway_tenant_tokens_total{{{HERE}}}[{RATE}])))", "{{tenant}}")], "short",
              about="A second, of prompts and answers; the ten that use most"),
        Panel("Tokens", [rate("sluice_gateway_tokens_total", "kind", OF_MODEL, "{{kind}}"),
                         rate("sluice_gateway_goodput_tokens_total", "model", OF_MODEL, "goodput")], "short", about="A second, of answered requests"),
        Panel("Refused and given up", [rate("sluice_gateway_admission_total", "outcome", HERE + ',outcome!="admitted"', "{{outcome}}", quiet=True),
                                       rate("sluice_scheduler_decisions_total", "reason", OF_MODEL + ',path="refused"', "scheduler: {{reason}}", quiet=True),
                                       rate("sluice_gateway_retries_exhausted_total", "limit", OF_MODEL, "given up: {{limit}}", quiet=True)], "reqps"),
        Panel("Workers", [Line(f"sum by (role, state) (sluice_scheduler_workers{{{OF_MODEL}}}) > 0", "{{role}} {{state}}")]),
        Panel("Versions", [Line(f"count by (version, commit) (sluice_build_info{{{HERE}}})", "{{version}} {{commit}}")], about="Processes of each"),
        Panel("Clients", [Line(f"sum by (sluice_cluster) (sluice_gateway_connections{{{HERE}}})", "connections"),
                          Line(f"sum by (sluice_cluster) (sluice_gateway_slow_clients{{{HERE}}})", "slow")]),
        Panel("Memory of processes", [Line(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")], "bytes"),
        Panel("Processors of processes", [Line(f"rate(process_cpu_seconds_total{{{HERE}}}[{RATE}])", "{{instance}}")], "short"),
    ])


def prefill() -> Board:
    return Board("sluice-prefill", "Sluice: prefill", "How prompts are computed, and what is spared by prefixes.", [
        Panel("Prompt tokens computed", [rate("sluice_worker_prompt_tokens_total", "instance", OF_MODEL, "{{instance}}")], "short", about="A second"),
        Panel("Prompt tokens that wait", [Line(f'sum by (model) (sluice_scheduler_queue_tokens{{{OF_MODEL},stage="prefill"}})', "{{model}}")]),
        Panel("Requests that wait for memory", [Line(f'sum by (instance) (sluice_worker_requests_waiting{{{OF_MODEL},role=~"prefill|mixed"}})', "{{instance}}")]),
        Panel("Steps of prompts", quantiles("sluice_worker_step_duration_seconds", "phase", HERE + ',phase=~"prefill|mixed"', "{{phase}}"), "s"),
        Panel("Tokens of a step", quantiles("sluice_worker_step_tokens", "phase", HERE + ',phase=~"prefill|mixed"', "{{phase}}")),
        Panel("Share of prompt tokens found in prefixes",
              [Line(f"sum by (model) (rate(sluice_worker_prefix_hit_tokens_total{{{OF_MODEL}}}[{RATE}])) / "
                    f"(sum by (model) (rate(sluice_worker_prefix_query_tokens_total{{{OF_MODEL}}}[{RATE}])) > 0)", "{{model}}")], "percentunit", most=1),
        Panel("Engine stood still between steps", quantiles("sluice_worker_engine_idle_seconds", "phase", HERE + ',phase=~"prefill|mixed"', "{{phase}}", quiet=True), "s"),
        Panel("KV memory by state", [Line(f"sum by (state) (sluice_worker_kv_blocks{{{HERE}}})", "{{state}}")], about="Blocks of all workers"),
        Panel("KV memory in use", [Line(f"sluice_worker_kv_cache_usage_ratio{{{OF_MODEL}}}", "{{worker}}")], "percentunit", most=1),
    ])


def decode() -> Board:
    return Board("sluice-decode", "Sluice: decode", "How tokens are generated, and who is in the way.", [
        Panel("Tokens generated", [rate("sluice_worker_generation_tokens_total", "instance", OF_MODEL, "{{instance}}")], "short", about="A second"),
        Panel("Gap between tokens", quantiles("sluice_gateway_inter_token_seconds", "model", OF_MODEL, "{{model}}"), "s"),
        Panel("Time per output token", quantiles("sluice_gateway_time_per_output_token_seconds", "model", OF_MODEL, "{{model}}"), "s"),
        Panel("Steps", quantiles("sluice_worker_step_duration_seconds", "phase", HERE + ',phase=~"decode|mixed"', "{{phase}}"), "s"),
        Panel("Requests that run", [Line(f'sum by (instance) (sluice_worker_requests_running{{{OF_MODEL},role=~"decode|mixed"}})', "{{instance}}")]),
        Panel("KV memory in use", [Line(f"sluice_worker_kv_cache_usage_ratio{{{OF_MODEL}}}", "{{worker}}")], "percentunit", most=1),
        Panel("KV blocks", [Line(f"sum by (state) (sluice_worker_kv_blocks{{{HERE}}})", "{{state}}"),
                            Line(f"sum by (sluice_cluster) (sluice_worker_kv_blocks_capacity{{{HERE}}})", "capacity")]),
        Panel("Preemptions", [rate("sluice_worker_preemptions_total", "model", OF_MODEL, "{{model}}")], "short", about="Sequences a second that lost their KV memory to others"),
        Panel("Engine stood still between steps", quantiles("sluice_worker_engine_idle_seconds", "phase", HERE + ',phase=~"decode|mixed"', "{{phase}}"), "s"),
        Panel("Streams cut by clients or time", [rate("sluice_gateway_cancellations_total", "phase, cause", OF_MODEL, "{{phase}} {{cause}}", quiet=True)], "short"),
    ])


def kv() -> Board:
    wire = f"sum by (direction) (rate(sluice_kv_transfer_bytes_total{{{HERE}}}[{RATE}]))"
    raw = f"sum by (direction) (rate(sluice_kv_transfer_raw_bytes_total{{{HERE}}}[{RATE}]))"
    return Board("sluice-kv", "Sluice: KV on its way", "What moves between workers, how fast, and what went wrong on the way.", [
        Panel("Bytes", [Line(wire, "{{direction}}, on the wire"), Line(raw, "{{direction}}, before the codec")], "Bps"),
        Panel("Before the codec over on the wire", [Line(f"{raw} / ({wire} > 0)", "{{direction}}")], "short"),
        Panel("Hand-offs by how they ended", [rate("sluice_kv_transfers_total", "direction, outcome", HERE, "{{direction}} {{outcome}}")], "short"),
        Panel("Duration of a hand-off", quantiles("sluice_kv_transfer_duration_seconds", "transport", HERE, "{{transport}}"), "s"),
        Panel("Not yet acknowledged", [Line(f"sum by (instance) (sluice_kv_transfer_inflight_bytes{{{HERE}}})", "{{instance}}")], "bytes"),
        Panel("Computed again", [rate("sluice_kv_fallbacks_total", "action, cause", HERE, "{{action}}: {{cause}}"),
                                 rate("sluice_kv_leases_expired_total", "sluice_cluster", HERE, "room taken back: its sender fell silent")], "short"),
        Panel("Fetched from other workers", [rate("sluice_kv_fetches_total", "outcome", HERE, "{{outcome}}"),
                                             rate("sluice_kv_fetched_blocks_total", "sluice_cluster", HERE, "blocks came"),
                                             rate("sluice_kv_lent_blocks_total", "sluice_cluster", HERE, "blocks lent")], "short"),
        Panel("Duration of a fetch", quantiles("sluice_kv_fetch_duration_seconds", "", HERE, "", quiet=True), "s"),
        Panel("Stranded blocks", [Line(f'sum by (worker) (sluice_worker_kv_blocks{{{HERE},state="stranded"}})', "{{worker}}")], about="Held by a transfer that has not ended"),
        # Levels below the pool are off by default.
        Panel("Levels below the pool", [Line(f"sum by (tier, state) (sluice_kv_tier_blocks{{{HERE}}})", "{{tier}} {{state}}", quiet=True)], about="Blocks of all workers"),
        Panel("Bytes to and from levels", [rate("sluice_kv_tier_bytes_total", "tier, direction", HERE, "{{tier}} {{direction}}", quiet=True)], "Bps"),
        Panel("Saved to levels, and loaded", [rate("sluice_kv_tier_saves_total", "tier, outcome", HERE, "{{tier}} saved: {{outcome}}", quiet=True),
                                              rate("sluice_kv_tier_loads_total", "tier, outcome", HERE, "{{tier}} loaded: {{outcome}}", quiet=True)], "short"),
        Panel("Duration of a load", quantiles("sluice_kv_tier_load_seconds", "", HERE, "", quiet=True), "s"),
    ])


def caches() -> Board:
    asked = f"sum by (model) (rate(sluice_gateway_cache_requests_total{{{OF_MODEL}}}[{RATE}])) > 0"

    def share(kind: str) -> str:
        return f'sum by (model) (rate(sluice_gateway_cache_requests_total{{{OF_MODEL},outcome="hit",kind="{kind}"}}[{RATE}])) / ({asked})'

    # Answers in front of the models are cached where caching.enabled says so, examples with caching.in_context.enabled: all lines but those of prefixes may be empty.
    return Board("sluice-caches", "Sluice: caches", "What is not computed again: prefixes in KV memory, answers to equal and similar requests, examples of a large model.", [
        Panel("Share of prompt tokens found in prefixes",
              [Line(f"sum by (model) (rate(sluice_worker_prefix_hit_tokens_total{{{OF_MODEL}}}[{RATE}])) / "
                    f"(sum by (model) (rate(sluice_worker_prefix_query_tokens_total{{{OF_MODEL}}}[{RATE}])) > 0)", "{{model}}")], "percentunit", most=1),
        Panel("Prefixes in KV memory", [Line(f'sum by (sluice_cluster) (sluice_worker_kv_blocks{{{HERE},state="cached"}})', "blocks that nobody uses now")]),
        Panel("Requests by what the cache had", [rate("sluice_gateway_cache_requests_total", "outcome, kind", OF_MODEL, "{{outcome}} {{kind}}", quiet=True)], "reqps"),
        Panel("Share answered from the cache", [Line(share("exact"), "equal, {{model}}", quiet=True), Line(share("semantic"), "similar, {{model}}", quiet=True)], "percentunit", most=1),
        Panel("Tokens that no model computed", [rate("sluice_gateway_cache_saved_tokens_total", "kind", OF_MODEL, "{{kind}}", quiet=True)], "short", about="A second"),
        Panel("Passed by, and why", [rate("sluice_gateway_cache_bypassed_total", "reason", OF_MODEL, "{{reason}}", quiet=True)], "reqps"),
        Panel("Answers kept", [Line(f"sum by (sluice_cluster) (sluice_gateway_cache_entries{{{HERE}}})", "answers", quiet=True)]),
        Panel("Memory of answers and examples", [Line(f"sum by (sluice_cluster) (sluice_gateway_cache_bytes{{{HERE}}})", "answers", quiet=True),
                                                 Line(f"sum by (sluice_cluster) (sluice_gateway_in_context_bytes{{{HERE}}})", "examples", quiet=True)], "bytes"),
        Panel("New, pushed out, removed", [rate("sluice_gateway_cache_stored_total", "outcome", HERE, "new: {{outcome}}", quiet=True),
                                           rate("sluice_gateway_cache_evicted_total", "sluice_cluster", HERE, "pushed out", quiet=True),
                                           rate("sluice_gateway_cache_purged_total", "sluice_cluster", HERE, "removed by operators", quiet=True)], "short"),
        Panel("How alike similar questions were", quantiles("sluice_gateway_cache_similarity_ratio", "model", OF_MODEL, "{{model}}", quiet=True),
              "percentunit", most=1),
        Panel("Wrong by similarity, at the worst", [Line(f"max by (category) (sluice_gateway_cache_wrong_bound_ratio{{{HERE}}})", "{{category}}", quiet=True)], "percentunit",
              about="Upper bound, 95 %, of the answers served by similarity; a category that exceeds its budget goes back to equal questions"),
        Panel("Categories that may use similarity", [Line(f"min by (category) (sluice_gateway_cache_category_open{{{HERE}}})", "{{category}}", quiet=True)], most=1),
        Panel("The store on disk", [Line(f"min by (sluice_cluster) (sluice_gateway_cache_store_up{{{HERE}}})", "takes changes (1)", quiet=True),
                                    rate("sluice_gateway_cache_store_changes_total", "outcome", HERE, "changes: {{outcome}}", quiet=True)], "short"),
        Panel("Small or large", [rate("sluice_gateway_in_context_requests_total", "arm, reason", HERE, "{{arm}}: {{reason}}", quiet=True)], "reqps"),
        Panel("Examples", [Line(f"sum by (sluice_cluster) (sluice_gateway_in_context_examples{{{HERE}}})", "examples", quiet=True)]),
    ])


def scheduler() -> Board:
    return Board("sluice-scheduler", "Sluice: scheduler", "How it decides, how full the pools are, and how right its predictions were.", [
        Panel("Decisions", [rate("sluice_scheduler_decisions_total", "path, reason", OF_MODEL, "{{path}} {{reason}}")], "reqps"),
        Panel("Time of a decision", quantiles("sluice_scheduler_decision_duration_seconds", "", HERE, ""), "s"),
        Panel("Saturation", [Line(f"sluice_scheduler_pool_saturation_ratio{{{OF_MODEL}}}", "{{model}} {{stage}}")], "percentunit", about="Of the workers' limits; above 1 more waits than fits"),
        Panel("Queues", [Line(f"sum by (model, stage) (sluice_scheduler_queue_requests{{{OF_MODEL}}})", "{{model}} {{stage}}")], "short"),
        Panel("Tokens in queues", [Line(f"sum by (model, stage) (sluice_scheduler_queue_tokens{{{OF_MODEL}}})", "{{model}} {{stage}}")], "short"),
        Panel("Measured over predicted", quantiles("sluice_scheduler_prediction_ratio", "kind", OF_MODEL, "{{kind}}"), "short", about="1: as predicted"),
        Panel("Since when it leads", [Line(f"time() - (sluice_scheduler_epoch{{{HERE}}} > 0) / 1e6", "{{instance}}")], "s",
              about="By its epoch, the fencing token of its commands: microseconds of the clock when it began. Two lines: two lead"),
        Panel("Commands refused for an old epoch", [rate("sluice_worker_fenced_commands_total", "instance", HERE, "{{instance}}")], "short"),
        Panel("Workers that are late with reports", [Line(f"sum by (model) (sluice_scheduler_stale_workers{{{OF_MODEL}}})", "{{model}}")], "short"),
        Panel("Placements of tenants", [Line(f"topk(10, sum by (tenant) (sluice_scheduler_tenant_placements{{{OF_MODEL}}}))", "{{tenant}}", quiet=True)], "short"),
        Panel("Placed again", [rate("sluice_gateway_retries_total", "reason", OF_MODEL, "{{reason}}", quiet=True)], "short"),
    ])


def request() -> Board:
    return Board("sluice-request", "Sluice: where the time of a request goes", "A request's way in the order in which it goes, medians and tails.", [
        Panel("Where it goes, on average",
              [Line(f"sum by (stage) (rate(sluice_gateway_stage_duration_seconds_sum{{{OF_MODEL}}}[{RATE}])) / on () group_left () "
                    f'sum(rate(sluice_gateway_stage_duration_seconds_count{{{OF_MODEL},stage="prefill"}}[{RATE}]))', "{{stage}}")], "s",
              about="Seconds of a sequence in each stage; the stages add up to its whole time", width=24),
        *(Panel(f"{number}. {title}", quantiles("sluice_gateway_stage_duration_seconds", "", f'{OF_MODEL},stage="{stage}"', ""), "s", about=about)
          for number, (stage, title, about) in enumerate([
              ("prepare", "Read it, and make tokens of it", "On the gateway"),
              ("place", "Decide where", "Asked of the scheduler, with the way there and back"),
              ("queue_prefill", "Wait for a prefill worker", "For KV memory, or while it computes other prompts"),
              ("prefill", "Compute the prompt", "Until the first token is at the gateway"),
              ("handoff", "Wait for KV from another worker", "What of the transfer the computation does not hide"),
              ("queue_decode", "Wait for a decode worker", "For room, or for a place in its batch"),
              ("decode", "Compute the answer", "From the first token to the last")], 1)),
        Panel("First token by path", quantiles("sluice_gateway_time_to_first_token_seconds", "path", OF_MODEL, "{{path}}"), "s"),
        Panel("Each further token", quantiles("sluice_gateway_inter_token_seconds", "model", OF_MODEL, "{{model}}"), "s"),
        Panel("One step of a prompt", quantiles("sluice_worker_step_duration_seconds", "", HERE + ',phase="prefill"', ""), "s", about="A long prompt takes several"),
        Panel("One transfer of KV", quantiles("sluice_kv_transfer_duration_seconds", "", HERE, ""), "s", about="From the grant to the last acknowledgement; overlaps the prompt"),
        Panel("All of it", quantiles("sluice_gateway_request_duration_seconds", "slo_class", OF_MODEL, "{{slo_class}}"), "s"),
        Panel("Bytes that clients have not taken", [Line(f"sum by (sluice_cluster) (sluice_gateway_send_buffer_bytes{{{HERE}}})", "bytes")], "bytes"),
        Panel("Lines of the access log left out", [rate("sluice_gateway_access_lines_dropped_total", "instance", HERE, "{{instance}}")], "short",
              about="The log names single requests (request_id, status, tokens, milliseconds); these are missing in it"),
    ])


def processes() -> Board:
    days = f"(min by (instance) (sluice_certificate_expires_timestamp_seconds{{{HERE}}}) - time()) / 86400"
    return Board("sluice-processes", "Sluice: processes", "What each process takes of its machine, since when it runs, and whether its settings and certificate do.", [
        Panel("Answers Prometheus", [Line(f"up{{{HERE}}}", "{{instance}}")], most=1),
        Panel("Versions", [Line(f"count by (version, commit) (sluice_build_info{{{HERE}}})", "{{version}} {{commit}}")], about="Processes of each"),
        Panel("Processors", [Line(f"rate(process_cpu_seconds_total{{{HERE}}}[{RATE}])", "{{instance}}")], "short", about="Cores that it keeps busy"),
        Panel("Memory", [Line(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")], "bytes"),
        Panel("Open files and connections", [Line(f"process_open_fds{{{HERE}}}", "{{instance}}")]),
        Panel("Since when it runs", [Line(f"time() - process_start_time_seconds{{{HERE}}}", "{{instance}}")], "s"),
        Panel("Started again in an hour", [Line(f"changes(process_start_time_seconds{{{HERE}}}[1h])", "{{instance}}")]),
        Panel("Settings", [Line(f"min by (instance) (sluice_config_valid{{{HERE}}})", "{{instance}}")], about="1: as last read they are valid; 0: it keeps the old ones", most=1),
        Panel("Settings read again", [rate("sluice_config_reloads_total", "outcome", HERE, "{{outcome}}")]),
        Panel("Certificate between processes, days left", [Line(days, "{{instance}}")], about="Only where there are certificates"),
    ])


def boards() -> list[Board]:
    return [overview(), prefill(), decode(), kv(), scheduler(), caches(), request(), processes()]


def to_json(board: Board) -> str:
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels, x, y = [], 0, 0
    for number, panel in enumerate(board.panels, 1):
        if x + panel.width > 24:
            x, y = 0, y + 8
        defaults: dict = {"unit": panel.unit, "min": 0}
        if panel.most is not None:
            defaults["max"] = panel.most
        if panel.title.startswith("Budget left"):
            del defaults["min"]
        panels.append({
            "id": number, "title": panel.title, "description": panel.about, "type": panel.kind, "datasource": source,
            "gridPos": {"h": 8, "w": panel.width, "x": x, "y": y}, "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
            "targets": [{"refId": chr(ord("A") + i), "datasource": source, "expr": line.expr, "legendFormat": line.legend} for i, line in enumerate(panel.lines)],
        })
        x += panel.width

    def variable(name: str, query: str) -> dict:
        return {"name": name, "type": "query", "datasource": source, "query": query, "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*",
                "current": {"text": "All", "value": "$__all"}}

    return json.dumps({
        "uid": board.uid, "title": board.title, "description": board.about, "tags": ["sluice"], "timezone": "browser", "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"},
                                variable("cluster", "label_values(sluice_scheduler_decision_duration_seconds_count, sluice_cluster)"),
                                variable("model", 'label_values(sluice_gateway_tokens_total{sluice_cluster=~"$cluster"}, model)')]},
        "links": [{"type": "dashboards", "title": "Sluice", "tags": ["sluice"], "asDropdown": True, "includeVars": True, "keepTime": True}],
        "panels": panels}, indent=2) + "\n"
