"""Tests of the endpoint over real HTTP: every fault alone, all of them mixed, cancellation, keys."""

from __future__ import annotations

import contextlib
import re
import resource
import traceback
from dataclasses import replace

import anyio
import orjson
import pytest
from aiohttp import web

from runtime.models.chat import ChatReply, ChatRequest, Usage
from runtime.models.endpoint import Endpoint
from runtime.models.errors import (
    ContentFiltered,
    ContextOverflow,
    EndpointPaused,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
    RequestRefused,
)
from runtime.models.limiter import Limiting
from runtime.models.settings import EndpointSettings
from store.messages import Message
from tests.models.server import (
    GOOD,
    HTML,
    KEY,
    REQUEST,
    Behaviour,
    answer,
    close_before,
    completion,
    drip,
    endpoint_for,
    failure,
    flood,
    garbage,
    reset_before,
    reset_during,
    serve,
    stall,
    stall_in_body,
    zeros,
)
from tests.models.simulated_server import seeded

TRANSIENT: dict[str, Behaviour] = {
    "429": failure(429, "slow down", "rate_limit_exceeded"),
    "429 with retry-after": failure(429, headers={"Retry-After": "0.01"}),
    "429 with retry-after-ms": failure(429, headers={"Retry-After-Ms": "5"}),
    "429 with a date in the past": failure(429, headers={"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}),
    "408": failure(408),
    "500": failure(500),
    "502 with HTML": answer(b"<html>bad gateway</html>", 502, content_type="text/html"),
    "503": failure(503),
    "504": failure(504),
    "529": failure(529, "overloaded"),
    "reset before the body": reset_before,
    "close before the body": close_before,
    "reset during the body": reset_during,
    "garbage instead of HTTP": garbage,
    "truncated JSON": answer(orjson.dumps(completion())[:-20]),
    "malformed JSON": answer(b'{"choices": [}'),
    "empty body": answer(b""),
    "HTML with status 200": HTML,
    "JSON that is no object": answer([1, 2]),
    "no choices": answer({"id": "x"}),
    "empty choices": answer({"id": "x", "choices": []}),
    "no message": answer({"choices": [{"finish_reason": "stop"}]}),
    "aborted by the server": answer(completion("half", finish_reason="abort")),
    "an overload error with status 200": answer({"error": {"message": "overloaded", "code": 503}}),
}

SLOW: dict[str, Behaviour] = {"stall": stall, "slow drip": drip, "stall in the body": stall_in_body}

OVERFLOWS = {
    "openai": failure(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
    "vllm": failure(400, "The decoder prompt (length 9000) is longer than the maximum model length of 8192"),
    "sglang": failure(400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
    "anthropic by proxy": failure(400, "prompt is too long: 200001 tokens > 200000 maximum"),
    "gemini by proxy": failure(400, "The input token count (9000) exceeds the maximum number of tokens allowed"),
    "llama.cpp": failure(400, "the request exceeds the available context size", "exceed_context_size_error"),
    "too large a body": failure(413, "Payload Too Large"),
}

FINAL: dict[str, tuple[Behaviour, type[ModelError]]] = {
    "400": (failure(400, "temperature must be below 2"), RequestRefused),
    "422": (failure(422, "bad"), RequestRefused),
    "content filter as a code": (failure(400, "filtered", "content_filter"), ContentFiltered),
    "content filter as a finish reason": (answer(completion("", "content_filter")), ContentFiltered),
    **{f"overflow as {name} says it": (behaviour, ContextOverflow) for name, behaviour in OVERFLOWS.items()},
}


LIMIT_USED_UP = {
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "6h0m0s",
}


async def test_a_reply_has_content_reasoning_usage_and_where_it_came_from() -> None:
    document = completion("Thought: x", reasoning_content="let me see")
    async with (
        serve(answer(document, headers={"x-request-id": "r-7"})) as server,
        endpoint_for(server.url) as endpoint,
    ):
        reply = await endpoint.complete(REQUEST, headers={"x-cso-role": "policy"})
    assert reply == ChatReply(
        content="Thought: x",
        reasoning="let me see",
        finish_reason="stop",
        usage=Usage(prompt=11, completion=7, cached=4),
        latency=reply.latency,
        attempts=1,
        endpoint="policy",
        request_id="r-7",
    )
    assert reply.latency > 0


async def test_the_server_gets_the_request_byte_for_byte_with_key_and_trace_headers() -> None:
    request = ChatRequest(
        model="m",
        messages=(Message("system", "Überlege"), Message("user", 'say "hi"\n')),
        temperature=0.2,
        top_p=0.95,
        max_tokens=100,
        seed=5,
        stop=("END",),
    )
    async with serve() as server, endpoint_for(server.url) as endpoint:
        await endpoint.complete(request, headers={"x-cso-task": "größe 1\r\nx: y", "x-cso-step": "3"})
    assert server.requests == [request.body()]
    assert orjson.loads(server.requests[0]) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Überlege"}, {"role": "user", "content": 'say "hi"\n'}],
        "temperature": 0.2,
        "top_p": 0.95,
        "max_tokens": 100,
        "seed": 5,
        "stop": ["END"],
    }
    headers = server.headers[0]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert (headers["x-cso-task"], headers["x-cso-step"]) == ("gr%C3%B6%C3%9Fe 1%0D%0Ax%3A y", "3")


async def test_without_a_key_a_placeholder_is_sent_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    async with serve() as server, endpoint_for(server.url, api_key=None) as endpoint:
        await endpoint.complete(REQUEST, headers={})
    assert server.headers[0]["authorization"] == "Bearer EMPTY"
    assert KEY not in str(server.headers)


@pytest.mark.parametrize("content", ["", None])
async def test_empty_content_is_a_reply(content: str | None) -> None:
    async with serve(answer(completion(content))) as server, endpoint_for(server.url) as endpoint:
        reply = await endpoint.complete(REQUEST, headers={})
    assert (reply.content, reply.finish_reason, reply.attempts) == ("", "stop", 1)


@pytest.mark.parametrize("behaviour", TRANSIENT.values(), ids=TRANSIENT.keys())
async def test_a_passing_fault_costs_an_attempt_and_nothing_else(behaviour: Behaviour) -> None:
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url) as endpoint:
        reply = await endpoint.complete(REQUEST, headers={})
        snapshot = endpoint.snapshot()
    assert (reply.content, reply.attempts) == ("hi", 2)
    assert (snapshot.in_flight, snapshot.waiting, snapshot.retried, snapshot.calls) == (0, 0, 1, 1)


@pytest.mark.parametrize("behaviour", TRANSIENT.values(), ids=TRANSIENT.keys())
async def test_a_lasting_fault_ends_after_the_last_attempt(behaviour: Behaviour) -> None:
    async with serve(behaviour) as server, endpoint_for(server.url, attempts=4) as endpoint:
        with pytest.raises(EndpointUnavailable) as caught:
            await endpoint.complete(REQUEST, headers={})
        assert endpoint.snapshot().in_flight == 0
    assert caught.value.attempts == len(server.requests) == 4
    assert "4 attempts" in str(caught.value)


@pytest.mark.parametrize(("behaviour", "error"), FINAL.values(), ids=FINAL.keys())
async def test_a_final_fault_is_never_retried(behaviour: Behaviour, error: type[ModelError]) -> None:
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(error) as caught:
            await endpoint.complete(REQUEST, headers={})
        assert type(caught.value) is error
        assert len(server.requests) == 1
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


@pytest.mark.parametrize(
    ("behaviour", "what", "step"),
    [
        (
            failure(404, "The model `m` does not exist.", "model_not_found"),
            "unknown model or path",
            "correct base_url, or the model .then start with `--accept-changes`.",
        ),
        (answer({}, 307, {"Location": "http://127.0.0.1:1/v1"}), "it redirects elsewhere", "the final address"),
    ],
    ids=["404", "redirect"],
)
async def test_a_wrong_model_or_address_stops_the_endpoint_with_what_to_do(
    behaviour: Behaviour, what: str, step: str
) -> None:
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url) as endpoint:
        for _ in range(3):
            with pytest.raises(EndpointStopped, match=f"{what}; .*{step}.*, then `cso retry --all`"):
                await endpoint.complete(REQUEST, headers={})
        assert len(server.requests) == 1
        endpoint.ask_again()
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


async def test_a_prompt_repeated_in_an_error_does_not_decide_what_the_error_is() -> None:
    echo = {"detail": [{"loc": ["body"], "msg": "bad", "input": "is the content_filter of context length 5?"}]}
    async with serve(answer(echo, 422)) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(ModelError) as caught:
            await endpoint.complete(REQUEST, headers={})
    assert type(caught.value) is RequestRefused


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW.keys())
async def test_a_slow_body_ends_with_its_attempt(behaviour: Behaviour) -> None:
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url, timeout=0.3) as endpoint:
        with anyio.fail_after(10):
            reply = await endpoint.complete(REQUEST, headers={})
    assert reply.attempts == 2


@pytest.mark.parametrize("behaviour", [*SLOW.values(), failure(500), reset_before])
async def test_no_call_outlives_its_deadline(behaviour: Behaviour) -> None:
    async with (
        serve(behaviour) as server,
        endpoint_for(server.url, attempts=10**6, timeout=0.2, deadline=0.7) as endpoint,
    ):
        with anyio.fail_after(10), pytest.raises(EndpointUnavailable, match=r"deadline of 0\.7 s"):
            await endpoint.complete(REQUEST, headers={})


async def test_the_deadline_covers_waiting_for_a_slot() -> None:
    async with (
        serve(stall) as server,
        endpoint_for(server.url, timeout=60, deadline=0.3, max_in_flight=1) as endpoint,
        anyio.create_task_group() as group,
    ):
        permit = await endpoint._limiter.acquire(deadline=anyio.current_time() + 60)
        assert permit is not None
        with anyio.fail_after(10), pytest.raises(EndpointUnavailable, match="no slot"):
            await endpoint.complete(REQUEST, headers={})
        permit.release()
        group.cancel_scope.cancel()
    assert server.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "600"},
        {"Retry-After-Ms": "600000", "Retry-After": "1"},
        {"Date": "Mon, 02 Nov 2026 10:00:00 GMT", "Retry-After": "Mon, 02 Nov 2026 10:10:00 GMT"},
    ],
    ids=["seconds", "milliseconds", "date"],
)
async def test_a_pause_that_no_call_can_wait_for_stops_the_endpoint_until_it_is_over(headers: dict[str, str]) -> None:
    behaviour = failure(429, "Daily quota reached.", headers=headers)
    async with serve(behaviour) as server, endpoint_for(server.url, deadline=30) as endpoint:
        attempts = []
        for _ in range(3):
            with (
                anyio.fail_after(10),
                pytest.raises(
                    EndpointPaused, match=r"left alone until .*: rate limited .Daily quota reached.;"
                ) as one,
            ):
                await endpoint.complete(REQUEST, headers={})
            assert one.value.retry_after == pytest.approx(600, abs=20)
            attempts.append(one.value.attempts)
        snapshot = endpoint.snapshot()
    assert attempts == [1, 0, 0], "only the first call has asked"
    assert (snapshot.stopped, snapshot.limiting, snapshot.refused) == (True, Limiting.RETRY_AFTER, 1)
    assert len(server.requests) == 1


class Told:
    """What people have been told of an endpoint, and an event for the next of it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)


async def test_calls_that_wait_learn_of_a_long_pause_without_asking_and_people_are_told_of_it_once() -> None:
    told, answered = Told(), anyio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await answered.wait()
        return await failure(429, headers={"Retry-After": "7200"})(request)

    async with serve(late) as server, endpoint_for(server.url, max_in_flight=2, tell=told) as endpoint:
        attempts: list[int] = []

        async def call() -> None:
            with pytest.raises(EndpointPaused) as caught:
                await endpoint.complete(REQUEST, headers={})
            attempts.append(caught.value.attempts)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                answered.set()
    assert sorted(attempts) == [0] * 18 + [1, 1]
    assert len(server.requests) == 2
    (text,) = told.texts
    assert text.startswith(f"the policy endpoint at {server.url} wants to be left alone until ")


async def test_a_long_pause_ends_for_whoever_has_the_endpoint_asked_again() -> None:
    told, daily = Told(), failure(429, headers={"Retry-After": "7200"})
    async with serve(daily, daily, GOOD) as server, endpoint_for(server.url, tell=told) as endpoint:
        for _ in range(2):
            endpoint.ask_again()
            with pytest.raises(EndpointPaused):
                await endpoint.complete(REQUEST, headers={})
        endpoint.ask_again()
        assert not endpoint.snapshot().stopped
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"
    began, again, over = told.texts
    assert began.partition(" until ")[0] == again.partition(" until ")[0]
    assert over == f"the policy endpoint at {server.url} answers again"


async def test_after_a_long_pause_a_single_call_asks_and_another_pause_adds_to_it() -> None:
    pause, asked, go_on = 0.3, anyio.Event(), anyio.Event()
    again = failure(429, headers={"Retry-After": f"{pause}"})

    async def gated(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await GOOD(request)

    async with (
        serve(again, again, gated, GOOD) as server,
        endpoint_for(server.url, timeout=pause, deadline=pause / 2) as endpoint,
    ):
        lasting = []
        for _ in range(2):
            with pytest.raises(EndpointPaused) as caught:
                await endpoint.complete(REQUEST, headers={})
            lasting.append(caught.value.lasting)
            endpoint._stop._until = anyio.current_time()  # it is over
            endpoint._limiter.go_on()
        endpoint.settings = replace(endpoint.settings, timeout=5.0, deadline=5.0)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(lambda: endpoint.complete(REQUEST, headers={}))
                await asked.wait()
                await anyio.wait_all_tasks_blocked()
                assert len(server.requests) == 3
                go_on.set()
        assert not endpoint.snapshot().stopped
    assert lasting[0] < lasting[1]


@pytest.mark.parametrize(
    "behaviour", [failure(429, headers=LIMIT_USED_UP), answer(completion(), headers=LIMIT_USED_UP)]
)
async def test_a_limit_that_is_used_up_for_hours_is_such_a_pause(behaviour: Behaviour) -> None:
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url, deadline=30) as endpoint:
        with contextlib.suppress(EndpointPaused):
            await endpoint.complete(REQUEST, headers={})
        assert endpoint.snapshot().limiting is Limiting.RATE_LIMIT
        with anyio.fail_after(10), pytest.raises(EndpointPaused, match="left alone until") as caught:
            await endpoint.complete(REQUEST, headers={})
        assert caught.value.retry_after == pytest.approx(3600, abs=20)
        assert len(server.requests) == 1
        endpoint.ask_again()
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


async def test_what_else_goes_wrong_while_it_is_left_alone_is_what_it_is() -> None:
    answers = {"a": failure(429, headers={"Retry-After": "7200"}), "b": failure(400), "c": GOOD}
    paused = anyio.Event()

    async def by_module(request: web.Request) -> web.StreamResponse:
        if (name := request.headers["x-cso-module"]) != "a":
            await paused.wait()
        return await answers[name](request)

    async with serve(by_module) as server, endpoint_for(server.url) as endpoint:
        ends: dict[str, object] = {}

        async def call(name: str) -> None:
            try:
                ends[name] = (await endpoint.complete(REQUEST, headers={"x-cso-module": name})).content
            except ModelError as error:
                ends[name] = type(error)
                paused.set()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for name in answers:
                    group.start_soon(call, name)
        assert ends == {"a": EndpointPaused, "b": RequestRefused, "c": "hi"}
        assert endpoint.snapshot().stopped
    assert len(server.requests) == 3


async def test_retry_after_holds_every_call_of_the_endpoint() -> None:
    behaviour = failure(429, headers={"Retry-After": "0.5"})
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url, attempts=1) as endpoint:
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(REQUEST, headers={})
        refused_at = anyio.current_time()
        ends: list[float] = []

        async def call() -> None:
            await endpoint.complete(REQUEST, headers={})
            ends.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call)
        assert (endpoint.snapshot().refused, endpoint.snapshot().calls) == (1, 6)
    assert min(ends) >= refused_at + 0.4
    assert len(server.requests) == 6


async def test_a_refused_key_stops_the_endpoint_with_one_message() -> None:
    async with serve(failure(401, f"Incorrect API key provided: {KEY}"), GOOD) as server:
        async with endpoint_for(server.url) as endpoint:
            messages = set()
            for _ in range(3):
                with pytest.raises(EndpointStopped) as caught:
                    await endpoint.complete(REQUEST, headers={})
                messages.add(str(caught.value))
            assert endpoint.snapshot().stopped
        (message,) = messages
        assert "endpoint policy" in message
        assert "POLICY_KEY" in message
        assert len(server.requests) == 1
        async with endpoint_for(server.url) as endpoint:
            assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


async def test_calls_that_wait_learn_of_the_refused_key_without_asking() -> None:
    async with serve(failure(403)) as server, endpoint_for(server.url, max_in_flight=1) as endpoint:
        stopped = 0

        async def call() -> None:
            nonlocal stopped
            with pytest.raises(EndpointStopped):
                await endpoint.complete(REQUEST, headers={})
            stopped += 1

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
    assert (stopped, len(server.requests)) == (20, 1)


async def test_a_call_that_had_failed_of_something_else_is_not_the_one_whose_key_was_refused() -> None:
    ill, refused = anyio.Event(), anyio.Event()

    async def fails_late(request: web.Request) -> web.StreamResponse:
        ill.set()
        await refused.wait()
        return await failure(500)(request)

    async with serve(fails_late, failure(401)) as server, endpoint_for(server.url) as endpoint:
        errors: list[EndpointStopped] = []

        async def call() -> None:
            with pytest.raises(EndpointStopped) as caught:
                await endpoint.complete(REQUEST, headers={})
            errors.append(caught.value)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await ill.wait()
                await call()
                refused.set()
    assert [error.attempts for error in errors] == [1, 0]
    assert len(server.requests) == 2


async def test_once_the_pause_is_over_a_single_call_tries_the_key_and_the_others_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 0.0)
    asked, go_on = anyio.Event(), anyio.Event()

    async def gated(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await GOOD(request)

    async with serve(failure(401), gated, GOOD) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(EndpointStopped):
            await endpoint.complete(REQUEST, headers={})
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(lambda: endpoint.complete(REQUEST, headers={}))
                await asked.wait()
                await anyio.wait_all_tasks_blocked()
                assert (len(server.requests), endpoint.snapshot().stopped) == (2, True)
                go_on.set()
        assert (len(server.requests), endpoint.snapshot().stopped) == (21, False)


async def test_a_key_that_is_refused_again_costs_one_request_and_a_longer_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 0.0)
    async with serve(failure(401)) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(EndpointStopped):
            await endpoint.complete(REQUEST, headers={})
        monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 60.0)
        refusals: list[EndpointStopped] = []

        async def call() -> None:
            with pytest.raises(EndpointStopped) as caught:
                await endpoint.complete(REQUEST, headers={})
            refusals.append(caught.value)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(call)
    assert len(server.requests) == 2
    assert sorted(error.attempts for error in refusals) == [0] * 19 + [1]
    assert {error.retry_after is not None and 60 < error.retry_after <= 120 for error in refusals} == {True}


async def test_whoever_has_mended_a_key_has_it_taken_at_once() -> None:
    async with serve(failure(401), GOOD) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(EndpointStopped):
            await endpoint.complete(REQUEST, headers={})
        endpoint.ask_again()
        assert not endpoint.snapshot().stopped
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


async def test_a_call_that_tries_the_key_and_is_cancelled_leaves_that_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 0.0)
    async with serve(failure(401), GOOD) as server, endpoint_for(server.url, max_in_flight=1) as endpoint:
        with pytest.raises(EndpointStopped):
            await endpoint.complete(REQUEST, headers={})
        permit = await endpoint._limiter.acquire(deadline=anyio.current_time() + 60)
        assert permit is not None
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: endpoint.complete(REQUEST, headers={}))
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            permit.release()
            assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


async def test_an_empty_account_stops_the_endpoint() -> None:
    behaviour = failure(429, "You exceeded your current quota", "insufficient_quota")
    async with serve(behaviour) as server, endpoint_for(server.url) as endpoint:
        with pytest.raises(EndpointStopped, match="credit"):
            await endpoint.complete(REQUEST, headers={})


async def test_nobody_listening_is_unavailable() -> None:
    async with serve() as server:
        url = server.url
    async with endpoint_for(url) as endpoint:
        with pytest.raises(EndpointUnavailable, match=r"cannot connect: connection refused \(3 attempts\)"):
            await endpoint.complete(REQUEST, headers={})


async def test_people_are_told_once_that_an_endpoint_cannot_be_reached_and_once_that_it_can() -> None:
    told = Told()
    async with serve() as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
    async with endpoint_for(server.url, tell=told) as endpoint:
        # Only what has replied once is waited for, and that is said once more.
        for number, kind in ((2, EndpointUnavailable), (5, EndpointPaused)):
            for _ in range(2):
                with pytest.raises(kind):
                    await endpoint.complete(REQUEST, headers={})
            seen = endpoint.snapshot()
            assert seen.stopped == (kind is EndpointPaused)
            endpoint.ask_again()
            assert re.fullmatch(r"cannot be reached since \d\d:\d\d: connection refused", seen.reason or "")
            async with serve(failure(500), GOOD, port=port):
                await endpoint.complete(REQUEST, headers={})
                await endpoint.complete(REQUEST, headers={})
            assert endpoint.snapshot().reason is None
            assert len(told.texts) == number
    lost, found, _, alone, _ = told.texts
    assert lost == (
        f"the policy endpoint at {server.url} cannot be reached: connection refused. "
        "Next: start the server there, or correct host and port in base_url; it is tried again meanwhile"
    )
    assert found == f"the policy endpoint at {server.url} can be reached again"
    assert alone == (
        f"the policy endpoint at {server.url} is asked again in 30 s, then less and less often, "
        "as `cso status` shows. Its work waits and counts no failure; `cso retry --all` has it asked at once"
    )


@pytest.mark.parametrize("late", [GOOD, failure(500)])
async def test_what_was_on_its_way_when_the_connection_was_lost_does_not_tell_that_there_is_one_again(
    late: Behaviour,
) -> None:
    told, asked, go_on = Told(), anyio.Event(), anyio.Event()

    async def gated(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await late(request)

    async with serve(gated, GOOD) as server, endpoint_for(server.url, attempts=1, tell=told) as endpoint:

        async def call() -> None:
            with contextlib.suppress(EndpointUnavailable):
                await endpoint.complete(REQUEST, headers={})

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await asked.wait()
                await server.stop_listening()
                with pytest.raises(EndpointUnavailable, match="connection refused"):
                    await endpoint.complete(REQUEST, headers={})
                go_on.set()
        (lost,) = told.texts
        assert "cannot be reached: connection refused" in lost
        assert (endpoint.snapshot().reason or "").startswith("cannot be reached since")
        await endpoint.complete(REQUEST, headers={})  # over the connection that was left
        assert told.texts[1:] == [f"the policy endpoint at {server.url} can be reached again"]
        assert endpoint.snapshot().reason is None


async def test_whoever_looks_learns_that_an_endpoint_fails_once_it_has_several_times_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    troubles = (failure(500), failure(400), failure(500), failure(503), failure(500))
    async with serve(*troubles, failure(429), GOOD) as server, endpoint_for(server.url, attempts=1) as endpoint:
        for _ in troubles:
            assert endpoint.snapshot().reason is None
            with pytest.raises(ModelError):
                await endpoint.complete(REQUEST, headers={})
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(REQUEST, headers={})
        assert endpoint.snapshot().reason is None, "a burst is no failing endpoint"
        monkeypatch.setattr("runtime.models.trouble._SECONDS_TO_TELL", 0.0)
        seen = endpoint.snapshot()
        assert re.fullmatch(r"no reply since \d\d:\d\d: rate limited \(status 429\)", seen.reason or "")
        assert not seen.stopped
        await endpoint.complete(REQUEST, headers={})
        assert endpoint.snapshot().reason is None


async def test_an_endpoint_that_has_replied_and_is_gone_is_asked_by_single_calls_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = r"endpoint policy: cannot be reached since \d\d:\d\d: connection refused; start the server there"
    passed, waits = 0.0, []
    monkeypatch.setattr("runtime.models.stop.loop_time", lambda: anyio.current_time() + passed)
    async with contextlib.AsyncExitStack() as while_it_lasts:
        server = await while_it_lasts.enter_async_context(serve(GOOD))
        async with endpoint_for(server.url) as endpoint:
            await endpoint.complete(REQUEST, headers={})
            await while_it_lasts.aclose()
            for attempts in (3, 1, 1, 1, 1, 1, 1):  # a call that finds out whether it is back does so once
                with pytest.raises(EndpointPaused, match=gone) as caught:
                    await endpoint.complete(REQUEST, headers={})
                assert caught.value.attempts == attempts
                waits.append(caught.value.retry_after or 0.0)
                with pytest.raises(EndpointPaused, match=gone) as caught:
                    await endpoint.complete(REQUEST, headers={})
                assert caught.value.attempts == 0
                passed += waits[-1]
            async with serve(failure(503), GOOD, port=int(server.url.rpartition(":")[2].partition("/")[0])):
                assert (await endpoint.complete(REQUEST, headers={})).attempts == 2
            assert not endpoint.snapshot().stopped
    assert waits == pytest.approx([30, 30, 60, 120, 240, 300, 300], abs=5)


@pytest.mark.parametrize("status", [502, 503, 504, 529])
async def test_a_proxy_before_a_server_that_is_gone_is_asked_by_single_calls_too(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.trouble._SECONDS_TO_TELL", 0.0)
    told = Told()
    away = rf"no reply since \d\d:\d\d: the endpoint failed \(status {status}\)"
    async with (
        serve(GOOD, *[failure(status)] * 6, GOOD) as server,
        endpoint_for(server.url, attempts=5, tell=told) as endpoint,
    ):
        await endpoint.complete(REQUEST, headers={})
        for attempts in (5, 0):
            with pytest.raises(EndpointPaused, match=away) as caught:
                await endpoint.complete(REQUEST, headers={})
            assert caught.value.attempts == attempts
        assert "look at the server there" in str(caught.value)
        assert caught.value.retry_after == pytest.approx(30, abs=5)
        endpoint.ask_again()
        assert (await endpoint.complete(REQUEST, headers={})).attempts == 2
        assert not endpoint.snapshot().stopped
    begun, over = told.texts
    assert re.search(
        rf"has given {away}; it is asked again at \d\d:\d\d\. Its work waits and counts no failure", begun
    )
    assert over.endswith("answers again")


@pytest.mark.parametrize("fault", [failure(500), failure(400)])
async def test_failures_that_may_be_about_the_request_are_counted_however_long_they_last(
    fault: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.trouble._SECONDS_TO_TELL", 0.0)
    async with serve(GOOD, fault) as server, endpoint_for(server.url) as endpoint:
        await endpoint.complete(REQUEST, headers={})
        for _ in range(4):
            with pytest.raises(ModelError) as caught:
                await endpoint.complete(REQUEST, headers={})
            assert not isinstance(caught.value, EndpointPaused)


async def test_what_has_replied_before_this_process_is_waited_for_and_what_never_has_may_be_a_wrong_address() -> None:
    for known, error in ((True, EndpointPaused), (False, EndpointUnavailable)):
        settings = EndpointSettings(
            name="policy", base_url="http://127.0.0.1:9/v1", backoff=0.001, backoff_max=0.001, attempts=2
        )
        async with Endpoint(settings, has_replied=known) as endpoint:
            with pytest.raises(error) as caught:
                await endpoint.complete(REQUEST, headers={})
            assert type(caught.value) is error


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (KEY, "check the environment variable POLICY_KEY (another one takes a new start), then `cso retry --all`"),
        (None, "no key is set: set the environment variable POLICY_KEY, start again, then `cso retry --all`"),
    ],
)
async def test_a_refused_key_comes_with_the_steps_that_help_a_process_at_work(key: str | None, advice: str) -> None:
    async with serve(failure(401)) as server, endpoint_for(server.url, api_key=key) as endpoint:
        with pytest.raises(EndpointStopped) as caught:
            await endpoint.complete(REQUEST, headers={})
    assert f"the key was refused; {advice}" in str(caught.value)


async def test_tokens_of_a_request_that_was_refused_for_its_length_are_there_for_the_next() -> None:
    long = ChatRequest(model="m", messages=(Message("user", "word " * 40_000),), temperature=0.0)

    async def by_length(request: web.Request) -> web.StreamResponse:
        return await (OVERFLOWS["openai"] if len(await request.read()) > 100_000 else GOOD)(request)

    async with serve(by_length) as server:
        settings = EndpointSettings(
            name="policy", base_url=server.url, tokens_per_minute=600, deadline=20, timeout=20
        )
        async with Endpoint(settings) as endpoint:
            with anyio.fail_after(10):  # or the next call would wait for more than an hour
                with pytest.raises(ContextOverflow):
                    await endpoint.complete(long, headers={})
                assert (await endpoint.complete(REQUEST, headers={})).content == "hi"


@pytest.mark.parametrize("behaviour", [flood, zeros])
async def test_a_reply_without_end_is_broken_off_before_it_fills_the_memory(behaviour: Behaviour) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serve(behaviour, GOOD) as server, endpoint_for(server.url, attempts=1) as endpoint:
        with pytest.raises(EndpointUnavailable, match="the reply is longer than 16 MiB"):
            await endpoint.complete(REQUEST, headers={})
        assert (await endpoint.complete(REQUEST, headers={})).content == "hi"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10, "kilobytes"


async def test_a_connection_that_breaks_or_an_answer_of_failure_is_no_trouble_of_reaching_it() -> None:
    told = Told()
    async with (
        serve(reset_before, close_before, failure(500), failure(503), GOOD) as server,
        endpoint_for(server.url, attempts=5, tell=told) as endpoint,
    ):
        await endpoint.complete(REQUEST, headers={})
    assert told.texts == []


async def test_a_connection_closed_while_idle_costs_no_back_off() -> None:
    async with (
        serve(GOOD, close_before, close_before, GOOD) as server,
        Endpoint(
            EndpointSettings(name="policy", base_url=server.url, backoff=10**6, backoff_max=10**6, deadline=20)
        ) as endpoint,
    ):
        await endpoint.complete(REQUEST, headers={})
        with anyio.fail_after(10):
            reply = await endpoint.complete(REQUEST, headers={})
    assert reply.attempts == 3


async def test_all_faults_mixed_end_in_a_reply_or_a_classified_error() -> None:
    random = seeded(7)
    final = [behaviour for behaviour, _ in FINAL.values()]
    faults = [*TRANSIENT.values(), *SLOW.values(), *final]

    def choose() -> Behaviour:
        return random.choice(faults) if random.random() < 0.3 else GOOD

    ends: list[ChatReply | ModelError] = []
    calls = 400
    async with (
        serve(choose=choose) as server,
        endpoint_for(server.url, attempts=6, timeout=0.5, deadline=15, max_in_flight=40) as endpoint,
    ):

        async def call(number: int) -> None:
            try:
                ends.append(await endpoint.complete(REQUEST, headers={"x-cso-step": str(number)}))
            except ModelError as error:
                ends.append(error)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(calls):
                    group.start_soon(call, number)
        snapshot = endpoint.snapshot()
    replies = [end for end in ends if isinstance(end, ChatReply)]
    kinds = {type(end) for end in ends}
    assert len(ends) == calls
    assert len(replies) > calls / 2
    assert {reply.content for reply in replies} == {"hi"}
    assert kinds >= {ChatReply, RequestRefused, ContentFiltered, ContextOverflow}
    assert not [end for end in ends if KEY in str(end)]
    assert (snapshot.in_flight, snapshot.waiting) == (0, 0)


async def test_cancelling_calls_anywhere_leaves_the_limiter_balanced() -> None:
    random = seeded(3)
    behaviours: list[Behaviour] = [GOOD, stall, drip, failure(500), reset_during]
    async with (
        serve(choose=lambda: random.choice(behaviours)) as server,
        endpoint_for(server.url, attempts=50, timeout=0.2, max_in_flight=8) as endpoint,
    ):

        async def call(scope: anyio.CancelScope) -> None:
            with scope:
                await endpoint.complete(REQUEST, headers={})

        async with anyio.create_task_group() as group:
            scopes = [anyio.CancelScope() for _ in range(60)]
            for scope in scopes:
                group.start_soon(call, scope)
            random.shuffle(scopes)
            for scope in scopes:
                await anyio.sleep(0.002 * random.random())
                scope.cancel()
        snapshot = endpoint.snapshot()
        assert (snapshot.in_flight, snapshot.waiting) == (0, 0)
        server.behaviours = iter([GOOD] * 8)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(call, anyio.CancelScope())


async def test_a_reply_on_its_way_is_kept_though_its_caller_is_cancelled() -> None:
    kept: list[ChatReply] = []
    asked = anyio.Event()
    go_on = anyio.Event()

    async def behave(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await GOOD(request)

    async with serve(behave) as server, endpoint_for(server.url) as endpoint:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: endpoint.complete(REQUEST, headers={}, keep=kept.append))
            await asked.wait()
            group.cancel_scope.cancel()
            go_on.set()
        assert endpoint.snapshot().in_flight == 0
    assert [reply.content for reply in kept] == ["hi"]


async def test_a_cancelled_call_sends_nothing_more() -> None:
    scope = anyio.CancelScope()

    async def cancel_and_reset(request: web.Request) -> web.StreamResponse:
        scope.cancel()
        return await reset_before(request)

    async with serve(cancel_and_reset) as server, endpoint_for(server.url) as endpoint:
        with scope:
            await endpoint.complete(REQUEST, headers={})
        with anyio.CancelScope() as cancelled_before:
            cancelled_before.cancel()
            await endpoint.complete(REQUEST, headers={})
        assert endpoint.snapshot().in_flight == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        failure(401, f"bad key {KEY}"),
        failure(400, "x" * 490 + KEY),
        failure(500, f"Bearer {KEY}"),
        answer(f"<html>{KEY}</html>".encode()),
        reset_before,
        stall,
    ],
)
async def test_no_error_holds_the_key_or_leads_to_it(behaviour: Behaviour) -> None:
    async with serve(behaviour) as server, endpoint_for(server.url, attempts=2, timeout=0.2) as endpoint:
        with pytest.raises(ModelError) as caught:
            await endpoint.complete(REQUEST, headers={})
        shown = [repr(endpoint), repr(endpoint.settings), repr(endpoint.snapshot()), str(vars(caught.value))]
        error: BaseException | None = caught.value
        while error is not None:
            shown += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
            assert not hasattr(error, "request")
            error = error.__cause__ or error.__context__
    assert not [text for text in shown if KEY in text or KEY[:12] in text]
    assert len(caught.value.body) <= 500


def reported(what: str, *, limit: float, remaining: float, reset: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": f"{limit:g}",
        f"x-ratelimit-remaining-{what}": f"{remaining:g}",
        f"x-ratelimit-reset-{what}": reset,
    }


@pytest.mark.parametrize(
    ("headers", "passing"),
    [
        (reported("requests", limit=1000, remaining=0, reset="60s"), 1),
        (reported("requests", limit=4, remaining=1, reset="45s"), 2),
        (reported("tokens", limit=10, remaining=1, reset="54s"), 2),
    ],
    ids=["nothing left", "requests a minute", "tokens a minute"],
)
async def test_what_an_endpoint_reports_of_its_limits_holds_the_next_call(
    headers: dict[str, str], passing: int
) -> None:
    async with (
        serve(answer(completion(), headers=headers)) as server,
        endpoint_for(server.url, deadline=90) as endpoint,
        anyio.create_task_group() as group,
    ):
        for _ in range(passing):
            await endpoint.complete(REQUEST, headers={})
        group.start_soon(lambda: endpoint.complete(REQUEST, headers={}))
        await anyio.wait_all_tasks_blocked()
        assert endpoint.snapshot().limiting is Limiting.RATE_LIMIT
        group.cancel_scope.cancel()
    assert len(server.requests) == passing


async def test_a_reply_that_is_being_paid_for_is_waited_for_though_the_deadline_of_its_call_passes() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await anyio.sleep(0.7)
        return await GOOD(request)

    async with serve(slow) as server:
        settings = EndpointSettings(name="policy", base_url=server.url, max_in_flight=1, timeout=1.0, deadline=1.0)
        replies, failures = list[str](), list[str]()
        async with Endpoint(settings) as endpoint, anyio.create_task_group() as tasks:

            async def ask() -> None:
                try:
                    replies.append((await endpoint.complete(REQUEST, headers={})).content)
                except EndpointUnavailable as error:
                    failures.append(str(error))

            for _ in range(4):
                tasks.start_soon(ask)
        assert len(server.requests) == len(replies) == 2
        assert ["no slot within the call's deadline of 1 s" in failure for failure in failures] == [True, True]
