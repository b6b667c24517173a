"""Keys do not reach what is stored, whoever repeats them in an error."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runtime.bus import Bus, Retries
from runtime.config.settings import Settings
from runtime.handler import Result
from runtime.redaction import configured_secrets, redactor
from store.database import Database
from store.events import DeliveryFailed, Event, TaskSubmitted
from tests.story import tell_story


class Indiscreet:
    """A handler whose error repeats a key."""

    name = "indiscreet"
    consumes: tuple[type[Event], ...] = (TaskSubmitted,)
    workers = 1

    async def handle(self, event: Event) -> Result:
        """Fail and tell too much."""
        raise ValueError(f"sk-secret-{event.seq} was refused, as was sk-secret")


def test_the_values_of_all_variables_that_settings_name_are_secrets() -> None:
    settings = Settings.model_validate(
        {"models": {"expert": {"api_key_env": "EXPERT_KEY"}, "prm": {"api_key_env": ""}}}
    )
    environ = {"OPENAI_API_KEY": "one", "EXPERT_KEY": "two", "CSO_API_TOKEN": "three", "HOME": "four", "": "five"}
    assert configured_secrets(settings, environ) == {"one", "two", "three"}


@pytest.mark.parametrize(
    ("secrets", "text", "redacted"),
    [
        ([], "all as it was", "all as it was"),
        (["abcd"], "xabcdabcd abc", "x[redacted][redacted] abc"),
        (["abcd", "abcdefgh"], "abcdefgh abcd", "[redacted] [redacted]"),
        (["a.c*(", " key1\n"], "a.c*( key1", "[redacted] [redacted]"),
        (["x", ""], "x y", "x y"),
    ],
)
def test_secrets_are_replaced_wherever_they_stand(secrets: list[str], text: str, redacted: str) -> None:
    assert redactor(secrets)(text) == redacted


async def test_a_failed_delivery_is_stored_without_the_key(tmp_path: Path) -> None:
    bus = Bus(retries=Retries(attempts=1), capacity=4, redact=redactor(["sk-secret-2"]))
    failed: list[DeliveryFailed] = []
    done = anyio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, DeliveryFailed) and event.handler == "indiscreet":
            failed.append(event)
            done.set()

    bus.watch(watch)
    bus.admit([1])
    async with Database(
        tmp_path, subscriptions={"task-submitted": ["indiscreet"]}, on_commit=bus.on_commit
    ) as database:
        await database.write(tell_story())
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.run, database, [Indiscreet()])
                await done.wait()
                tasks.cancel_scope.cancel()
        (row,) = await database.fetch("SELECT error FROM deliveries")
    assert failed[0].error == row["error"] == "ValueError: [redacted] was refused, as was sk-secret"
