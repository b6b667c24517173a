"""`GET /metrics`: a daemon in numbers, in the text format of Prometheus.

Labels are roles, handlers, outcomes and the like, whose number is fixed by the program and its configuration: never a
task, a run or an address. Counters begin with the daemon, gauges tell what is; what is in the database is asked of
indices, so that a scrape costs the same after a million calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from runtime.api.live import STATES, Live
from store.database import Reader

_PROCESS = ProcessCollector(registry=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the database of a daemon holds: deliveries by handler in each state, tasks and pairs."""

    owed: Mapping[str, int]  # with those put off, and those at work
    put_off: Mapping[str, int]
    set_aside: Mapping[str, int]
    resting: Mapping[str, int]
    tasks: int
    open_tasks: int
    pairs: int


async def render_metrics(live: Live, accept: str) -> tuple[bytes, str]:
    """The metrics of a daemon in the form that an Accept header asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(_Families(live, await count_stored(live.daemon.database))), content_type


async def count_stored(reader: Reader) -> Stored:
    """Count what is in the database."""
    rows = await reader.fetch(
        "SELECT handler, dead, attempts > 0 AS failed, count(*) AS n FROM deliveries GROUP BY 1, 2, 3"
    )
    found = {name: Counter[str]() for name in ("owed", "put_off", "set_aside", "resting")}
    for row in rows:
        found[("owed", "set_aside", "resting")[row["dead"]]][row["handler"]] += row["n"]
        if row["failed"] and not row["dead"]:
            found["put_off"][row["handler"]] += row["n"]
    sums = await reader.fetch_one(
        "SELECT (SELECT count(*) FROM tasks) AS tasks, (SELECT count(DISTINCT task) FROM deliveries) AS open,"
        " (SELECT count(*) FROM pairs) AS pairs"
    )
    assert sums is not None  # a query without FROM has one row
    return Stored(**found, tasks=sums["tasks"], open_tasks=sums["open"], pairs=sums["pairs"])


class _Families(Collector):
    """All metrics of a daemon at one moment."""

    def __init__(self, live: Live, stored: Stored) -> None:
        self._live = live
        self._stored = stored

    def collect(self) -> Iterator[Metric]:
        """The families in the order in which they are written."""
        yield from self._daemon()
        yield from self._work()
        yield from self._endpoints()
        yield from self._bought()
        yield from self._done()
        yield from _PROCESS.collect()

    def _daemon(self) -> Iterator[Metric]:
        live = self._live
        yield _gauge(
            "cso_state",
            "What the daemon is doing: 1 for the state that it is in.",
            "state",
            {state: float(state == live.state) for state in STATES},
        )
        if lag := live.lag.read():
            yield _gauge(
                "cso_event_loop_lag_seconds",
                "Lateness of the event loop over the last minute.",
                "quantile",
                {"0.5": lag.p50_ms / 1000, "0.99": lag.p99_ms / 1000, "1": lag.max_ms / 1000},
            )
        slots = live.daemon.slots
        yield GaugeMetricFamily("cso_rollouts_in_use", "Rollouts that run, branches included.", value=slots.in_use)
        yield GaugeMetricFamily("cso_rollouts_limit", "Rollouts that may run at once.", value=slots.total)

    def _work(self) -> Iterator[Metric]:
        stored, daemon = self._stored, self._live.daemon
        at_work = Counter(work.handler for work in daemon.bus.at_work)
        for name, counts, help_text in (
            ("owed", stored.owed, "Deliveries that are owed to a handler, those at work and put off among them."),
            ("at_work", at_work, "Deliveries that a handler is working on."),
            ("put_off", stored.put_off, "Deliveries that failed and are owed again."),
            ("set_aside", stored.set_aside, "Deliveries that failed too often and wait for `cso retry`."),
            ("resting", stored.resting, "Deliveries of tasks that have spent their budget."),
        ):
            every = {
                handler: float(counts.get(handler, 0)) for handler in sorted(daemon.classes.keys() | counts.keys())
            }
            yield _gauge(f"cso_deliveries_{name}", help_text, "handler", every)
        yield GaugeMetricFamily("cso_tasks", "Tasks in the database.", value=stored.tasks)
        yield GaugeMetricFamily(
            "cso_tasks_open", "Tasks of which something is owed or set aside.", value=stored.open_tasks
        )
        yield GaugeMetricFamily("cso_pairs", "Preference pairs in the database.", value=stored.pairs)

    def _endpoints(self) -> Iterator[Metric]:
        seen = {role: pool.snapshot() for role, pool in self._live.daemon.endpoints.items()}
        for name, help_text in (
            ("in_flight", "Requests on their way to a role's endpoints."),
            ("limit", "Requests that may be on their way at once; the limit may be adaptive."),
            ("waiting", "Requests that wait until they may be sent."),
        ):
            yield _gauge(
                f"cso_endpoint_{name}", help_text, "role", {role: getattr(one, name) for role, one in seen.items()}
            )
        stopped = {role: float(one.stopped) for role, one in seen.items()}
        yield _gauge(
            "cso_endpoint_stopped",
            "1 where key, account, model or path is wrong, or it wants to be left alone for long: nothing is asked.",
            "role",
            stopped,
        )
        limiting = GaugeMetricFamily(
            "cso_endpoint_limiting", "1 for what keeps the next request of a role waiting.", labels=["role", "reason"]
        )
        for role, one in seen.items():
            for reason in type(one.limiting):
                limiting.add_metric([role, reason.value], float(reason is one.limiting))
        yield limiting
        for name, help_text in (
            ("calls", "Calls made of a role."),
            ("retried", "Attempts beyond the first."),
            ("refused", "Answers with which the server shed load (429, 503, 529)."),
        ):
            yield _counter(
                f"cso_endpoint_{name}", help_text, "role", {role: getattr(one, name) for role, one in seen.items()}
            )

    def _bought(self) -> Iterator[Metric]:
        counts, roles = self._live.counts, sorted(self._live.daemon.endpoints)
        yield _counter(
            "cso_model_calls",
            "Replies that were paid for and journalled.",
            "role",
            {role: counts.calls[role] for role in roles},
        )
        tokens = CounterMetricFamily("cso_model_tokens", "Tokens of those replies.", labels=["role", "kind"])
        for role in roles:
            tokens.add_metric([role, "prompt"], counts.prompt_tokens[role])
            tokens.add_metric([role, "completion"], counts.completion_tokens[role])
        yield tokens
        yield _counter(
            "cso_model_cost",
            "Cost of those replies, in the currency of [prices].",
            "role",
            {role: counts.cost(role) for role in roles},
        )
        yield _counter(
            "cso_model_unpriced_calls",
            "Replies whose cost is not known.",
            "role",
            {role: counts.unpriced[role] for role in roles},
        )

    def _done(self) -> Iterator[Metric]:
        counts = self._live.counts
        for name, value, help_text in (
            ("tasks_submitted", counts.tasks_submitted, "Tasks taken into the queue."),
            ("tasks_finished", counts.tasks_finished, "Times that a task had nothing left to do."),
            ("tasks_cancelled", counts.tasks_cancelled, "Tasks given up."),
            ("steps_scored", counts.steps_scored, "Steps whose candidates were scored."),
            ("pairs_verified", counts.pairs, "Preference pairs made."),
        ):
            yield CounterMetricFamily(f"cso_{name}", help_text, value=value)
        rollouts = CounterMetricFamily("cso_rollouts_ended", "Rollouts that ended.", labels=["sort", "outcome"])
        for (sort, outcome), number in sorted(counts.rollouts.items()):
            rollouts.add_metric([sort, outcome], number)
        yield rollouts
        yield _counter(
            "cso_deliveries_failed",
            "Deliveries that failed, each time.",
            "handler",
            {handler: counts.failures[handler] for handler in sorted(self._live.daemon.classes)},
        )


def _gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counter(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
