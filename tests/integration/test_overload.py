"""Ten times as much asked of a cluster as it can do, for a minute, by clients that obey Retry-After and by clients that do not. Takes minutes; figures: scripts/bench-overload."""
from __future__ import annotations

import pytest

import harness
import overload

pytestmark = pytest.mark.nightly

BOUND = 128  # requests in work at the gateway


@pytest.mark.timeout(900)
@pytest.mark.parametrize("on_refusal", ["obey", "hurry"])
def test_a_flood_is_refused_and_over_when_it_is_over(on_refusal):
    kind = overload.slower(4, on_refusal=on_refusal)
    with overload.Cluster(8, 4, [f"gateway.inflight_requests_max={BOUND}"]) as cluster:
        run = overload.flood(cluster, kind, 10, 60, 30, 1)
        print(run)
        # Everybody is answered: in whole, or told to come back.
        assert run["errors"] == [] and set(run["statuses"]) <= {"200", "429"}, run
        assert run["waited_most"]["sluice_gateway_inflight_requests"] <= BOUND, run
        # Far from the aims of scripts/bench-overload, so that a busy machine does not matter: what is let in is mostly in time, and the calm load has its place back.
        assert run["goodput_flood"] >= cluster.peak / 2, run
        assert run["after_good"] >= run["after"] / 2, run
        harness.wait_until(lambda: cluster.queues()["sluice_gateway_inflight_requests"] == 0, "nothing is left")
