"""The numbers of /metrics, in the text format of Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from flows.serving.delivery import Answers
from flows.serving.registry import Registry

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of HTTP requests and seconds of answers; those of the engines are read when they are asked for."""

    def __init__(self, registry: Registry) -> None:
        self._models = registry
        self._registry = CollectorRegistry()
        self.http = Counter("athanor_http_requests", "HTTP requests.", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "athanor_answer_seconds", "Seconds until the answers of a request were complete or canceled.", ["model"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def observe(self, answers: Answers) -> None:
        """Count the seconds of a request that has ended."""
        if answers.requests and answers.requests[0].arrival:
            self.seconds.labels(answers.served.name).observe(time.monotonic() - answers.requests[0].arrival)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """The numbers of the engines, by model."""
        served = self._models.all()
        families: list[CounterMetricFamily | GaugeMetricFamily] = []
        for name in served[0].engine.counts if served else ():
            family = CounterMetricFamily(f"athanor_{name}", f"Total of {name.replace('_', ' ')}.", labels=["model"])
            for one in served:
                family.add_metric([one.name], one.engine.counts[name])
            families.append(family)
        for name, text in (("running", "Answers that are being written."), ("waiting", "Requests that wait.")):
            gauge = GaugeMetricFamily(f"athanor_requests_{name}", text, labels=["model"])
            for one in served:
                gauge.add_metric([one.name], one.engine.num_running if name == "running" else one.engine.num_waiting)
            families.append(gauge)
        return families
