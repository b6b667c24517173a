"""The functions that action code of the main agent can call. They run in the daemon, the code does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runtime.agents.base import Context
from runtime.errors import ToolError
from runtime.models.errors import ContentFiltered, ContextOverflow
from runtime.sandbox import Tool
from runtime.search import render_hits
from store.jsontypes import JsonValue
from store.messages import Message

# A loop that asks and asks would otherwise buy until the step's deadline, and then again.
MOST_ASKS = 100


class Toolbox:
    """The tools of one action, which has `seconds_left` for the models that it asks.

    `result` is what stop() was given last, None until it is called; `model_seconds` the time of the models asked.
    """

    def __init__(self, context: Context, *, seconds_left: float = math.inf) -> None:
        self._context = context
        self._seconds_left = seconds_left
        self._asked = 0
        self.result: dict[str, JsonValue] | None = None
        self.model_seconds = 0.0

    def tools(self) -> Mapping[str, Tool]:
        """The functions by the names under which the code calls them."""
        return {"stop": self.stop, "ask_llm": self.ask_llm, "simple_web_search": self.simple_web_search}

    async def stop(self, output: JsonValue = "", log: JsonValue = "") -> JsonValue:
        """End the run with an answer; the value goes back to the code."""
        self.result = {"output": _text(output), "log": _text(log)}
        return self.result

    async def ask_llm(self, query: JsonValue) -> JsonValue:
        """Ask the policy model a question outside of the conversation."""
        question = _text(query)
        if not question.strip():
            raise ToolError("ask_llm needs a query that is not empty")
        if self._asked == MOST_ASKS:
            raise ToolError(f"ask_llm can be called {MOST_ASKS} times in a step")
        if self.model_seconds >= self._seconds_left:
            raise ToolError("the time of the run is over")
        ordinal = self._asked
        self._asked += 1
        try:
            reply = await self._context.journal.ask(
                role="policy",
                module="ask",
                step=self._context.index,
                messages=(Message("user", question),),
                ordinal=ordinal,
            )
        # Both are the question's own doing and will be met again whenever the code asks it.
        except ContentFiltered as error:
            raise ToolError("the provider's content filter refused the question or its answer") from error
        except ContextOverflow as error:
            raise ToolError(f"the query of {len(question)} characters is too long for the model") from error
        self.model_seconds += reply.latency
        return reply.content

    async def simple_web_search(self, query: JsonValue) -> JsonValue:
        """Search the web."""
        question = _text(query)
        if not question.strip():
            raise ToolError("simple_web_search needs a query that is not empty")
        return render_hits(await self._context.search.search(question, self._context.search_limit))


def _text(value: JsonValue) -> str:
    """What the code gave, as text: models often hand over a number or a list where a text is meant."""
    try:
        return value if isinstance(value, str) else str(value)
    except RecursionError:
        raise ToolError("what was given is nested too deeply") from None
