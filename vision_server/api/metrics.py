"""What GET /metrics says, in Prometheus' text format: names as the field has them, base units, few label values.

Counted here is what only the HTTP side sees: requests, failures, and the figures that come with answers. Whatever has
an owner elsewhere (queue, worker, memory) is read from its snapshot at the time of a scrape, and not kept twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import psutil
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from .. import __version__
from ..jobs import Outcome, Status

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CANCELLED = "cancelled"  # the reason, and
CLIENT_GONE = 499  # the code (nginx' word for it), of a request whose client left before its answer
UNKNOWN_ROUTE = "unknown"  # of a request whose path is none of ours, or that was none
_STATES = ("unloaded", "loading", "ready", "unloading", "failed")
_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
_STAGES = {
    "queue": ("vision_queue_wait_seconds", "Time that answered requests waited for the worker, loading aside."),
    "decode": ("vision_decode_seconds", "Time to decode the picture of an answered request."),
    "encode": ("vision_encode_seconds", "Time in the vision tower and the encoder."),
    "generate": ("vision_generate_seconds", "Time from the first token to the last."),
}
_GAUGES = {  # of the snapshot's fields that are numbers, or None
    "vision_queue_depth": ("queue_depth", "Requests that wait."),
    "vision_queue_capacity": ("queue_capacity", "Requests that may wait; one more gets 429."),
    "vision_queue_bytes": ("queue_bytes", "Bytes of the pictures that are here, and of bodies that arrive."),
    "vision_queue_capacity_bytes": ("queue_capacity_bytes", "Bytes that may be here; a request beyond gets 429."),
    "vision_requests_arriving": ("arriving", "Requests whose body is being read."),
    "vision_requests_in_flight": ("in_flight", "Requests the worker holds."),
    "vision_draining": ("draining", "1 while the server leaves and takes nothing new."),
    "vision_idle_unload_seconds": ("idle_unload_in_s", "Time until the idle worker ends."),
    "vision_worker_resident_memory_bytes": ("worker_rss_bytes", "Main memory the worker's process holds."),
    "vision_worker_device_memory_bytes": ("worker_device_bytes", "GPU memory the worker says it holds."),
}


class Metrics:
    """The counters of one application, in a registry of its own. `status` gives the snapshot that a scrape reads."""

    def __init__(self, status: Callable[[], Status]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series; `up` tells of restarts
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vision_requests_total",
            "Requests by registered route and HTTP code; 499: the client left before the answer.",
            ["route", "code"],
            registry=registry,
        )
        self._failures = Counter(
            "vision_request_failures_total",
            "Requests that failed, by registered route and error code.",
            ["route", "reason"],
            registry=registry,
        )
        self._duration = Histogram(
            "vision_request_duration_seconds",
            "Time from a request's headers to its response.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._stages = {
            stage: Histogram(name, text, buckets=_BUCKETS_S, registry=registry)
            for stage, (name, text) in _STAGES.items()
        }
        self._prompt_tokens = Counter(
            "vision_prompt_tokens_total", "Tokens of the prompts answered.", registry=registry
        )
        self._new_tokens = Counter("vision_generation_tokens_total", "Tokens generated.", registry=registry)
        registry.register(_Snapshot(status))

    def finished(self, route: str, code: int, seconds: float, failure: str | None, outcomes: Iterable[Outcome]) -> None:
        """A request is over: `route` as registered, `failure` the error's code, `outcomes` what the model said."""
        self._requests.labels(route, str(code)).inc()
        self._duration.labels(route).observe(seconds)
        if failure is not None:
            self._failures.labels(route, failure).inc()
        for outcome in outcomes:
            for stage, histogram in self._stages.items():
                histogram.observe(outcome.timings_ms[stage] / 1000)
            self._prompt_tokens.inc(outcome.prompt_tokens)
            self._new_tokens.inc(outcome.new_tokens)

    def text(self) -> bytes:
        """The body of GET /metrics, of the type CONTENT_TYPE."""
        return generate_latest(self._registry)


class _Snapshot(Collector):
    """What others own, read at the time of a scrape. A figure that does not apply now has no sample."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._daemon = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        now = self._status()
        yield InfoMetricFamily("vision_build", "The version of vision-server.", {"version": __version__})
        yield _by_label("vision_state", "1 for the state the server is in.", "state", _one_of(_STATES, now.state))
        loaded = now.model if now.state == "ready" else None
        yield _by_label("vision_model_loaded", "1 while the model is loaded.", "model", _one_of(now.models, loaded))
        failed = {model: float(model in now.failures) for model in now.models}
        yield _by_label("vision_model_load_failed", "1 when the model's last load failed.", "model", failed)
        for name, (field, text) in _GAUGES.items():
            yield _gauge(name, text, getattr(now, field))
        yield SummaryMetricFamily(
            "vision_load_seconds", "Loads of a model, and the time they took.", now.loads, now.loading_s
        )
        yield _counter("vision_worker_restarts", "Deaths of the worker.", "cause", now.restarts_by_cause)
        yield _counter("vision_unloads", "Loaded models given up in good order.", "cause", now.unloads_by_cause)
        yield from self._of_the_daemon()

    def _of_the_daemon(self) -> Iterator[Metric]:
        """Under the names that every client library of Prometheus has for them."""
        with self._daemon.oneshot():
            rss_bytes, cpu = self._daemon.memory_info().rss, self._daemon.cpu_times()
        yield _gauge("process_resident_memory_bytes", "Main memory the daemon's process holds.", rss_bytes)
        yield _gauge(
            "process_start_time_seconds", "When the daemon started, in seconds since 1970.", self._daemon.create_time()
        )
        yield CounterMetricFamily(
            "process_cpu_seconds", "Processor time the daemon has used, without its worker.", cpu.user + cpu.system
        )


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family


def _by_label(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _one_of(names: Iterable[str], present: str | None) -> dict[str, float]:
    return {name: float(name == present) for name in names}
