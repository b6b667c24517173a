"""The API over a real daemon: what it takes, what it refuses and with which words, and who may ask."""

from __future__ import annotations

import base64
import gzip
import math

import anyio
import pytest
import structlog

import runtime.api.bodies
from runtime.api.app import make_app
from runtime.api.live import Live
from store.errors import StorageTroubleError
from store.writer import Write
from tests.api.conftest import DEADLINE_S, Server

TASK = {"record": {"id": "a", "question": "What is a?", "answer": "42"}}


async def test_tasks_are_taken_once_and_a_changed_one_is_a_conflict_that_takes_none(server: Server) -> None:
    first = await server.submit("a", "b")
    rest = {"run": "test", "serving": True, "set_aside": [], "given_up": []}
    assert (first.status, first.json) == (200, {**rest, "new": 2, "known": 0, "tasks": ["a", "b"]})
    assert (await server.submit("b", "c")).json == {**rest, "new": 1, "known": 1, "tasks": ["b", "c"]}
    again = await server.ask("POST", "/v1/tasks", {"tasks": [{"record": {"question": "q", "answer": "1"}}] * 2})
    assert (again.json["new"], again.json["known"]) == (1, 1)
    changed = {"record": {**TASK["record"], "answer": "43"}}
    clash = await server.ask(
        "POST", "/v1/tasks", {"tasks": [{"record": {"question": "new?", "answer": "1"}}, changed]}
    )
    assert clash.status == 409
    assert "task 'a' is already in this run with another question, answer or file" in clash.json["error"]
    rows = await server.work.daemon.database.fetch("SELECT name FROM tasks ORDER BY id")
    assert [row["name"] for row in rows] == ["a", "b", "c", again.json["tasks"][0]]


async def test_a_task_without_an_id_is_told_its_name_and_files_come_along(server: Server) -> None:
    content = base64.b64encode(b"1;2\n").decode()
    body = {
        "tasks": [{"record": {"question": "Sum?", "answer": "3", "file_name": "n.csv"}, "file": content}],
        "run": "r",
    }
    answer = await server.ask("POST", "/v1/tasks", body)
    assert (answer.status, answer.json["run"], answer.json["new"]) == (200, "r", 1)
    (name,) = answer.json["tasks"]
    server.may_answer.set()
    await server.until("task-finished", 1)
    status = (await server.ask("GET", "/v1/status?run=r")).json
    assert [run["run"] for run in status["runs"]] == ["r"]
    again = await server.ask("POST", f"/v1/tasks/r/{name}/cancel")
    assert (again.status, again.json) == (200, {"run": "r", "task": name, "deliveries": 0})


WRONG_BODIES: tuple[tuple[object, str], ...] = (
    (b"{", "the body is not JSON"),
    ([], "the body is not a JSON object"),
    ({"tasks": []}, '"tasks" must be a list of at least one'),
    ({"tasks": [TASK], "prio": 1}, "unknown field 'prio'; known are priority, run, tasks"),
    ({"tasks": [TASK], "priority": 1.5}, '"priority" must be a whole number'),
    ({"tasks": [TASK], "priority": True}, '"priority" must be a whole number'),
    ({"tasks": [TASK], "priority": 10**9}, '"priority" must be a whole number'),
    ({"tasks": [TASK], "run": "../x"}, '"run" must be 1 to 64 letters'),
    ({"tasks": [TASK], "run": 3}, '"run" must be text'),
    ({"tasks": [TASK, {"record": {"question": "?"}}]}, "tasks[1]: it has no answer"),
    ({"tasks": [{"record": {"answer": "1"}}]}, "tasks[0]: "),
    (b'{"tasks": [{"record": {"x": ' + b"[" * 300 + b"]" * 300 + b"}}]}", "tasks[0]: it is nested too deeply"),
    ({"tasks": [{"record": TASK["record"], "file": "AAAA"}]}, 'tasks[0]: "file" must hold the content'),
    ({"tasks": [{"record": {**TASK["record"], "file_name": "f"}}]}, 'tasks[0]: "file" must hold the content'),
    (
        {"tasks": [{"record": {**TASK["record"], "file_name": "f"}, "file": "no base64"}]},
        "must be text in base64",
    ),
    ({"tasks": [{**TASK, "more": 1}]}, "tasks[0] must be"),
    (
        {"tasks": [TASK, TASK, {"record": {**TASK["record"], "answer": "43"}}]},
        "task 'a' is in tasks[0] and in tasks[2] with another question, answer or file: give one of them an id",
    ),
)


async def test_a_body_that_is_wrong_is_a_400_that_says_where(server: Server) -> None:
    for body, said in WRONG_BODIES:
        answer = await server.ask("POST", "/v1/tasks", body)
        assert answer.status == 400
        assert said in answer.json["error"]
    assert await server.work.daemon.database.fetch("SELECT id FROM tasks") == []


async def test_what_is_not_there_and_what_is_not_so_asked_is_told_in_json(server: Server) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/tasks", 405),
        ("POST", "/v1/runs/nowhere/pause", 404),
        ("POST", "/v1/runs/nowhere/resume", 404),
        ("POST", "/v1/tasks/test/nobody/cancel", 404),
        ("GET", "/v1/status?run=nowhere", 404),
    ):
        answer = await server.ask(method, path)
        assert (answer.status, list(answer.json)) == (status, ["error"])
    for body in ({}, {"all": False}, {"all": True, "run": "test"}, {"task": "a"}, {"all": 1}, {"run": ""}):
        assert (await server.ask("POST", "/v1/retry", body)).status == 400
    assert (await server.ask("POST", "/v1/retry", {"run": "nowhere"})).status == 404
    large = await server.ask("POST", "/v1/tasks", b'{"tasks": "' + b"x" * (1 << 20) + b'"}')
    assert large.status == 413
    assert "api.max_body_mb is the limit" in large.json["error"]


async def test_pages_of_other_sites_and_other_names_of_this_machine_are_refused(server: Server) -> None:
    assert (await server.ask("GET", "/v1/status", Host="evil.example")).status == 403
    assert (await server.ask("GET", "/metrics", Host="evil.example")).status == 403
    assert (await server.ask("GET", "/v1/status", Origin="http://evil.example")).status == 403
    form = await server.ask("POST", "/v1/tasks", b"{}", Content_Type="text/plain")
    assert form.status == 415
    for bomb in (gzip.compress(bytes(10_000_000)), b"no gzip at all"):
        packed = await server.ask("POST", "/v1/tasks", bomb, Content_Encoding="gzip")
        assert (packed.status, packed.json["error"]) == (415, "send the body as it is: no Content-Encoding is taken")
    assert (await server.ask("GET", "/v1/status", Host="localhost", Origin="http://localhost")).status == 200


@pytest.mark.parametrize("server", ["secret"], indirect=True)
async def test_where_a_token_is_set_everything_but_healthz_wants_it(server: Server) -> None:
    routes = {
        (route.method, route.resource.canonical.format(run="test", task="a"))
        for route in make_app(server.work.live, token=None, max_body=1).router.routes()
        if route.resource is not None
    }
    assert len(routes) > 10
    for method, path in sorted(routes - {("GET", "/healthz"), ("HEAD", "/healthz")}):
        for given in ("", "Bearer wrong", "secret", "Bearer ", "Bearer secret2", "bearer secret\u00e9"):
            answer = await server.ask(method, path, Authorization=given)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await server.ask(method, path, Authorization="Bearer secret")).status != 401
    assert (await server.ask("GET", "/healthz")).status == 200


async def test_status_tells_what_the_daemon_is_doing_now(server: Server) -> None:
    await server.submit("a", "b", "c")
    with anyio.fail_after(DEADLINE_S):
        # Neither a list nor the meter has an event.
        while len(server.models.asks) < 3 or server.work.live.lag.read() is None:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    daemon = (await server.ask("GET", "/v1/daemon")).json
    assert (daemon["state"], daemon["trouble"], daemon["serving"]) == ("working", None, ["test"])
    assert daemon["rollouts"] == {"in_use": 3, "limit": 6}
    assert daemon["at_work"]["handlers"] == {"collect": 3}
    assert [work["task"] for work in daemon["at_work"]["oldest"]] == ["a", "b", "c"]
    policy = daemon["endpoints"]["policy"]
    assert (policy["in_flight"], policy["waiting"], policy["limiting"]) == (3, 0, "none")
    assert daemon["loop_lag"].keys() == {"p50_ms", "p99_ms", "max_ms"}
    whole = (await server.ask("GET", "/v1/status")).json
    assert whole["daemon"].keys() == daemon.keys()
    assert whole["runs"][0]["tasks"] == 3


async def test_what_was_set_aside_is_put_back_over_http(server: Server) -> None:
    server.may_answer.set()
    await server.submit("bad-1", "bad-2")
    await server.until("delivery-failed", 2)
    one = await server.ask("POST", "/v1/retry", {"run": "test", "task": "bad-1"})
    assert (one.status, one.json) == (200, {"run": "test", "task": "bad-1", "deliveries": 1})
    await server.until("delivery-failed", 3)
    assert (await server.ask("POST", "/v1/retry", {"all": True})).json["deliveries"] == 2


async def test_a_daemon_that_stops_takes_nothing_new_and_says_so_to_its_supervisor(server: Server) -> None:
    server.work.live.stopping = True
    assert ((await server.ask("GET", "/healthz")).status, (await server.submit("a")).status) == (503, 503)
    assert (await server.ask("GET", "/v1/daemon")).json["state"] == "stopping"


async def test_a_run_that_is_paused_while_tasks_are_being_taken_stays_paused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = server.work.daemon
    control, write = daemon.control, daemon.database.write

    async def paused_right_after(change: Write[object]) -> object:
        monkeypatch.undo()
        result = await write(change)
        await control.pause("test")
        return result

    monkeypatch.setattr(daemon.database, "write", paused_right_after)
    assert (await server.submit("a")).json["new"] == 1
    assert daemon.bus.runs == frozenset()
    assert (await server.ask("POST", "/v1/runs/test/resume")).json["serving"] is True
    server.may_answer.set()
    await server.until("task-finished", 1)


async def test_tasks_that_come_while_a_refused_key_is_left_alone_wait_with_the_others(server: Server) -> None:
    bus = server.work.daemon.bus
    (run,) = bus.runs
    await bus.withdraw(run=run)
    bus._held[run] = math.inf
    await server.submit("a", "b")
    assert (set(bus.runs), set(bus.held)) == (set(), {run})
    await server.ask("POST", "/v1/retry", {"all": True})
    server.may_answer.set()
    await server.until("task-finished", 2)


async def test_a_defect_that_meets_the_system_is_ours_and_not_the_data_directory_s(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing(_live: Live) -> None:
        raise FileNotFoundError(2, "No such file or directory", "ours")

    monkeypatch.setattr("runtime.api.app.live_status", missing)
    with structlog.testing.capture_logs() as said:
        answer = await server.ask("GET", "/v1/daemon")
    assert (answer.status, list(answer.json)) == (500, ["error"])
    assert [line["event"] for line in said] == ["request failed"]


async def test_while_the_disk_cannot_be_written_requests_that_change_something_are_told_so(server: Server) -> None:
    standing = server.work.daemon.database._standing
    standing.begin("test", StorageTroubleError("full", "the disk of DIR is full", "free some space there"))
    for path in ("/v1/runs/test/pause", "/v1/retry", "/v1/tasks/test/a/cancel"):
        answer = await server.ask("POST", path, {"all": True})
        assert answer.status == 503
        assert "the disk of DIR is full: free some space there" in answer.json["error"]
        assert answer.json["trouble"] == "full"
    assert (await server.submit("a")).status == 503
    assert (await server.ask("GET", "/healthz")).json == {"status": "waiting"}
    standing.end("test")
    assert (await server.submit("a")).json["new"] == 1


async def test_a_request_has_a_most_of_tasks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.api.bodies, "MOST_TASKS", 2)
    answer = await server.submit("a", "b", "c")
    assert (answer.status, answer.json["error"]) == (400, '"tasks" has 3 of them: send at most 2 at once')
    assert (await server.submit("a", "b")).json["new"] == 2
