"""docs/daemon.md is true: its examples are asked of a daemon, and it names every route, metric and exit code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson
from aiohttp import hdrs
from prometheus_client.parser import text_string_to_metric_families

from runtime.api.app import make_app
from runtime.cli import exits
from tests.api.conftest import DEADLINE_S, Server

PAGE = (Path(__file__).parents[2] / "docs" / "daemon.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Example:
    """A request and its answer, as the page has them."""

    method: str
    path: str
    body: Any  # JSON
    status: int
    answer: Any


def examples() -> list[Example]:
    found = []
    for block in re.findall(r"```http\n(.*?)```", PAGE, re.DOTALL):
        asked, _, answered = block.partition("\n\n")
        head, _, body = asked.partition("\n")
        status, _, answer = answered.partition("\n")
        method, _, path = head.partition(" ")
        found.append(Example(method, path, orjson.loads(body) if body else None, int(status), orjson.loads(answer)))
    return found


def shape(value: Any) -> Any:  # JSON
    """A value with its fields and types alone."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


async def test_the_examples_are_what_a_daemon_answers(server: Server) -> None:
    first, *others = examples()
    assert len(others) > 8
    # The page speaks of the run that the settings name.
    named = server.work.daemon.run.name
    taken = await ask(server, first, named)
    assert (taken.status, taken.json) == (first.status, renamed(first.answer, named))
    with anyio.fail_after(DEADLINE_S):
        # Neither a list nor a measurement has an event.
        while len(server.models.asks) < 2 or server.work.live.lag.read() is None:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    for example in others:
        if example.path.endswith(("/cancel", "/pause")):
            server.may_answer.set()  # what is being paid for is waited for
        answer = await ask(server, example, named)
        assert answer.status == example.status
        if example.path == "/v1/daemon":
            seen = {**answer.json, "endpoints": {"policy": answer.json["endpoints"]["policy"]}}
            assert seen.keys() == example.answer.keys()
            for key in ("rollouts", "loop_lag", "endpoints", "data", "pid", "url", "started"):
                assert shape(seen[key]) == shape(example.answer[key]), key
        elif "cancel" not in example.path:
            assert answer.json == renamed(example.answer, named)
        else:
            assert answer.json.keys() == example.answer.keys()


def renamed(value: Any, run: str) -> Any:  # JSON
    return orjson.loads(orjson.dumps(value).replace(b'"default"', f'"{run}"'.encode()))


async def ask(server: Server, example: Example, run: str) -> Any:
    body = None if example.body is None else renamed(example.body, run)
    return await server.ask(example.method, example.path.replace("/default/", f"/{run}/"), body)


async def test_every_route_is_on_the_page_and_the_module_lists_them(server: Server) -> None:
    module = make_app.__globals__["__doc__"]
    for route in make_app(server.work.live, token=None, max_body=1).router.routes():
        assert route.resource is not None
        if route.method == hdrs.METH_HEAD:
            continue
        path = route.resource.canonical
        assert re.search(rf"^{route.method} +{re.escape(path)}[\s\[]", module, re.MULTILINE), path
        assert path.format(run="default", task="sum-2") in PAGE, path


async def test_every_metric_is_on_the_page_and_every_metric_of_the_page_is_there(server: Server) -> None:
    server.may_answer.set()
    await server.submit("a")
    await server.until("task-finished", 1)
    with anyio.fail_after(DEADLINE_S):
        while server.work.live.lag.read() is None:  # noqa: ASYNC110 - a measurement has no event
            await anyio.sleep(0.01)
    answer = await server.ask("GET", "/metrics")
    found = set()
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(sample.labels)
            found.add(f"{sample.name}{{{','.join(sorted(sample.labels))}}}" if labels else sample.name)
    ours = {name for name in found if name.startswith("cso_")}
    told = {
        re.sub(r"\{(.*)\}", lambda match: "{" + ",".join(sorted(match[1].split(","))) + "}", name)
        for name in re.findall(r"`(cso_[a-z_]+(?:\{[a-z,]+\})?)`", PAGE)
    }
    assert ours == told


def test_the_exit_codes_on_the_page_are_those_of_the_program() -> None:
    table = PAGE.partition("## Exit codes")[2].partition("##")[0]
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(", ")}
    assert told == {0, exits.EXIT_FAILED, exits.EXIT_USAGE, exits.EXIT_STORAGE, exits.EXIT_INTERRUPTED, 143}
