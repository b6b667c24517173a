"""`/metrics` is what Prometheus reads, tells the truth, and has a number of series that no task or run adds to."""

from __future__ import annotations

import anyio
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import DEADLINE_S, Answer, Server

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
NUMBERS = {"0.5", "0.99", "1"}


def series(answer: Answer) -> Series:
    """The samples of an answer by name and labels."""
    assert answer.status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def when_measured(server: Server) -> Answer:
    """What `/metrics` answers once the loop's lag is among it, which is measured some times a second."""
    with anyio.fail_after(DEADLINE_S):
        answer = await server.ask("GET", "/metrics")
        while b"cso_event_loop_lag_seconds{" not in answer.body:
            answer = await server.ask("GET", "/metrics")
    return answer


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_metrics_tell_what_is_at_work_and_what_limits_it(server: Server) -> None:
    await server.submit("a", "b", "c")
    with anyio.fail_after(DEADLINE_S):
        while len(server.models.asks) < 3:  # noqa: ASYNC110 - a list has no event
            await anyio.sleep(0.01)
    answer = await when_measured(server)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = series(answer)
    assert value(found, "cso_state", state="working") == 1
    assert value(found, "cso_state", state="stopping") == 0
    assert {dict(labels)["quantile"] for name, labels in found if name == "cso_event_loop_lag_seconds"} == NUMBERS
    assert (value(found, "cso_rollouts_in_use"), value(found, "cso_rollouts_limit")) == (3, 6)
    assert value(found, "cso_deliveries_owed", handler="collect") == 3
    assert value(found, "cso_deliveries_at_work", handler="collect") == 3
    assert value(found, "cso_endpoint_in_flight", role="policy") == 3
    assert value(found, "cso_endpoint_limiting", role="policy", reason="none") == 1
    assert value(found, "cso_endpoint_limiting", role="policy", reason="adaptive") == 0
    assert (value(found, "cso_tasks"), value(found, "cso_tasks_open")) == (3, 3)
    assert value(found, "process_resident_memory_bytes") > 0


async def test_metrics_count_what_was_done_and_bought_and_no_task_or_run_adds_a_series(server: Server) -> None:
    server.may_answer.set()
    await server.submit("a")
    await server.until("task-finished", 1)
    await server.submit("bad-1", "bad-2")
    await server.until("delivery-failed", 2)
    before = series(await when_measured(server))
    calls = sum(ask.task == "a" and ask.role == "policy" for ask in server.models.asks)
    assert value(before, "cso_model_calls_total", role="policy") == calls
    assert value(before, "cso_endpoint_calls_total", role="policy") == len(server.models.asks)
    assert value(before, "cso_model_tokens_total", role="policy", kind="prompt") > 0
    assert value(before, "cso_model_unpriced_calls_total", role="policy") == calls
    assert value(before, "cso_tasks_submitted_total") == 3
    assert value(before, "cso_tasks_finished_total") == 1
    assert value(before, "cso_rollouts_ended_total", sort="trajectory", outcome="success") == 1
    assert value(before, "cso_deliveries_failed_total", handler="collect") == 2
    assert value(before, "cso_deliveries_set_aside", handler="collect") == 2
    assert value(before, "cso_deliveries_owed", handler="collect") == 0
    await server.submit("x", "y", run="another")
    await server.until("task-finished", 3)
    assert series(await server.ask("GET", "/metrics")).keys() == before.keys()


async def test_a_server_that_asks_for_openmetrics_gets_it(server: Server) -> None:
    answer = await server.ask("GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")
