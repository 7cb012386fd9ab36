"""SluiceWorkersEjected on a real Prometheus: nobody is told while all workers work, and then of the one that fails what it gets."""
import pytest

import harness
from harness import LocalCluster, wait_until
from test_ejected_worker import SETTINGS, World
from test_live import Prometheus

pytestmark = pytest.mark.process


def test_somebody_is_told_of_a_worker_that_fails_what_it_gets(tmp_path):
    model = harness.make_slow_model(tmp_path)
    with LocalCluster(0, 0, 2, model=model, settings=[*SETTINGS, "scheduler.eject_ms=600000"]) as cluster:
        world = World(cluster.wait_ready())
        wait_until(lambda: world.workers("ready") == 2, "both have come", 120)
        targets = [f"127.0.0.1:{cluster.port}"] + [f"127.0.0.1:{cluster.admin_port(pid)}" for role, pid in cluster.pids() if role != "gateway"]
        with Prometheus(tmp_path, targets) as prometheus:
            wait_until(prometheus.is_up, f"Prometheus is up: {prometheus.output()}")
            wait_until(lambda: prometheus.query('sum(sluice_scheduler_workers{state="ready"}) == 2'), "it has seen both", 120)
            with world.failing() as failing:
                wait_until(lambda: world.workers("ready") == 3, f"the one that fails has come, too: {failing.output()}", 120)
                wait_until(lambda: prometheus.query('sum(sluice_scheduler_workers{state="ready"}) == 3'), "it has seen that one, too", 120)
                assert "SluiceWorkersEjected" not in prometheus.alerts()

                def is_told():
                    world.ask(8)
                    return "SluiceWorkersEjected" in prometheus.alerts()

                wait_until(is_told, "somebody is told", 240)
            wait_until(lambda: "SluiceWorkersEjected" not in prometheus.alerts(), "it is over when that one has gone", 120)
