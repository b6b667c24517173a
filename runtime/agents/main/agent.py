"""The main agent: plans, writes Python, and gives the final result.

Each step asks the policy twice: for the progress state, then for the code of the step. After the loop it asks once
more for the final result. Plans and results are read as literals and never evaluated; code runs in the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import orjson

from runtime.agents.base import Acted, Action, Answer, Context, Decision, StopReason
from runtime.agents.main.conversation import action_closing, conversation, end_closing, plan_closing
from runtime.agents.main.replies import (
    STATE_KEYS,
    ReplyError,
    parse_end,
    parse_literal,
    parse_plan,
    parse_reply,
    render_reply,
)
from runtime.agents.main.tools import Toolbox
from runtime.errors import ConfigError
from runtime.sandbox import Execution
from store.calls import WHOLE_TRAJECTORY
from store.jsontypes import JsonValue
from store.messages import Message

MODULES = ("plan", "action", "end")
# A reply that cannot be read is asked for once more, with another seed; a second bad one is the model's answer.
_END_ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MainAgent:
    """The agent named `main`.

    Args:
        recent_steps: how many of the last steps a prompt shows in full.
        observation_chars: what is kept of an observation, in characters.
        prompts: the system message of each module.
    """

    recent_steps: int = 5
    observation_chars: int = 8192
    prompts: Mapping[str, str] = field(default_factory=lambda: load_prompts({}))
    name: str = "main"

    def read(self, reply: str) -> Action:
        """The action that a reply to an action request holds, in canonical form if it can be read."""
        parsed = parse_reply(reply)
        text = reply if parsed.problem else render_reply(parsed.thought, parsed.code)
        return Action(text=text, thought=parsed.thought, code=parsed.code, problem=parsed.problem)

    async def think(self, context: Context) -> Decision:
        """Bring the progress state up to date, then choose the action."""
        before = context.steps[-1].state if context.steps else _literal({key: [] for key in STATE_KEYS})
        plan = await context.journal.ask(
            role="policy",
            module="plan",
            step=context.index,
            messages=self._messages(context, "plan", plan_closing(before, context.index)),
        )
        state = _next_state(plan.content, before)
        reply = await context.journal.ask(
            role="policy",
            module="action",
            step=context.index,
            messages=self._messages(context, "action", action_closing(state, context.index)),
        )
        return Decision(
            action=self.read(reply.content), state=state, call=reply.call, seconds=plan.latency + reply.latency
        )

    async def act(self, decision: Decision, context: Context) -> Acted:
        """Run the code of an action; without code the observation tells the policy what was wrong."""
        if decision.action.problem is not None:
            return Acted(observation=decision.action.problem, failed=True)
        toolbox = Toolbox(context)
        execution = await context.sandbox.run(
            decision.action.code, workspace=context.workspace.path, tools=toolbox.tools(), limits=context.limits
        )
        return Acted(
            observation=_shorten(_observation(execution), self.observation_chars),
            failed=execution.error is not None,
            seconds=execution.seconds + toolbox.model_seconds,
            result=None if toolbox.result is None else orjson.dumps(toolbox.result).decode(),
        )

    async def conclude(self, context: Context, reason: StopReason) -> Answer:
        """Ask for the final result; if none can be read, it is what the run itself gave."""
        given = _given_result(context)
        direct = None
        if reason is not StopReason.STOPPED:
            direct = (
                await self._ask_end(context, "direct", (Message("user", f"Task: {context.task.question}"),))
            ).strip()
        state = context.steps[-1].state if context.steps else "{}"
        closing = end_closing(state, reason=reason, output=given.output if given else None, direct=direct)
        messages = self._messages(context, "end", closing)
        for attempt in range(_END_ATTEMPTS):
            try:
                end = parse_end(parse_reply(await self._ask_end(context, "end", messages, attempt)))
            except ReplyError:
                continue
            return Answer(output=end.output, log=end.log)
        return given or Answer(output=direct or "", log="The final result could not be read.")

    async def _ask_end(self, context: Context, module: str, messages: tuple[Message, ...], ordinal: int = 0) -> str:
        reply = await context.journal.ask(
            role="policy", module=module, step=WHOLE_TRAJECTORY, messages=messages, ordinal=ordinal
        )
        return reply.content

    def _messages(self, context: Context, module: str, closing: tuple[str, ...]) -> tuple[Message, ...]:
        return conversation(
            system=self.prompts[module],
            question=context.task.question,
            files=context.files,
            steps=context.steps,
            recent_steps=self.recent_steps,
            closing=closing,
        )


def load_prompts(replacements: Mapping[str, Path]) -> dict[str, str]:
    """The system message of each module, from our own files or a user's.

    Raises:
        ConfigError: a replacement names no module, or its file cannot be read.
    """
    unknown = sorted(set(replacements) - set(MODULES))
    if unknown:
        raise ConfigError(
            f"agent.prompts.{unknown[0]}: the main agent has no such module; it has {', '.join(MODULES)}"
        )
    ours = resources.files(__package__) / "prompts"
    prompts = {module: (ours / f"{module}.txt").read_text(encoding="utf-8").strip() for module in MODULES}
    for module, path in replacements.items():
        try:
            prompts[module] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"agent.prompts.{module}: {path} cannot be read: {error}") from error
    return prompts


def _next_state(reply: str, before: str) -> str:
    """The state that a plan reply gives; one that cannot be read leaves it as it was."""
    try:
        return _literal(parse_plan(parse_reply(reply), parse_literal(before)))
    except ReplyError:
        return before


def _literal(state: Mapping[str, JsonValue]) -> str:
    """A progress state as a Python literal, one item a line. The standard library's pretty printer is slow."""
    lines = ["{"]
    for key, items in state.items():
        if isinstance(items, list) and items:
            lines += [f"    {key!r}: [", *(f"        {item!r}," for item in items), "    ],"]
        else:
            lines.append(f"    {key!r}: {items!r},")
    return "\n".join([*lines, "}"])


def _given_result(context: Context) -> Answer | None:
    if not context.steps or context.steps[-1].result is None:
        return None
    result = orjson.loads(context.steps[-1].result)
    return Answer(output=str(result["output"]), log=str(result["log"]))


def _observation(execution: Execution) -> str:
    parts = [part.rstrip("\n") for part in (execution.output, execution.error) if part]
    return "\n".join(parts) or "(nothing was printed)"


def _shorten(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long, with the number of characters left out between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
