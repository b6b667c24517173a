"""The main agent: plans, writes Python, and gives the final result.

Each step asks the policy twice: for the progress state, then for the code of the step. After the loop it asks once
more for the final result. Plans and results are read as literals and never evaluated; code runs in the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TypeVar

import orjson
from anyio.to_thread import run_sync

from runtime.agents.base import Acted, Action, Answer, Context, Decision, StopReason
from runtime.agents.main.asking import ask_policy
from runtime.agents.main.conversation import action_closing, end_closing, plan_closing
from runtime.agents.main.replies import EndResult, ReplyError, parse_end, parse_reply, render_reply
from runtime.agents.main.state import first_state, next_state, with_experience
from runtime.agents.main.tools import Toolbox
from runtime.agents.shortening import shorten
from runtime.errors import ConfigError
from runtime.models.errors import ContentFiltered
from runtime.sandbox import Execution
from store.calls import WHOLE_TRAJECTORY, JournalledReply
from store.messages import Message

T = TypeVar("T")
MODULES = ("plan", "action", "end")
# A reply that cannot be read is asked for once more, with another seed; a second bad one is the model's answer.
_END_ATTEMPTS = 2
# In characters. What is shorter is read within some milliseconds whatever it is; a thread for each would cost more.
_LONG_REPLY = 10_000
_UNREADABLE = "The final result could not be read."


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

    async def read(self, reply: str) -> Action:
        """The action that a reply to an action request holds, in canonical form if it can be read."""
        parsed = await _reading(reply, parse_reply)
        text = reply if parsed.problem else render_reply(parsed.thought, parsed.code)
        return Action(text=text, thought=parsed.thought, code=parsed.code, problem=parsed.problem)

    async def think(self, context: Context) -> Decision:
        """Bring the progress state up to date, then choose the action; neither is chosen against a content filter."""
        before = context.steps[-1].state if context.steps else first_state()
        try:
            plan = await self._ask(context, "plan", plan_closing(before, context.index))
        except ContentFiltered:
            return _refused("plan", before, context.index)
        state = await _reading(plan.content, partial(next_state, before=before))
        context.sandbox.expect(context.workspace.path, tools=Toolbox(context).tools(), limits=context.limits)
        try:
            reply = await self._ask(context, "action", action_closing(state, context.index))
        except ContentFiltered:
            return _refused("action", state, context.index, seconds=plan.latency)
        return Decision(
            action=await self.read(reply.content),
            state=state,
            call=reply.call,
            seconds=plan.latency + reply.latency,
        )

    async def act(self, decision: Decision, context: Context) -> Acted:
        """Run the code of an action; without code the observation tells the policy what was wrong."""
        if decision.action.problem is not None:
            return Acted(observation=decision.action.problem, failed=True)
        toolbox = Toolbox(context, seconds_left=context.seconds_left - decision.seconds)
        execution = await context.sandbox.run(
            decision.action.code, workspace=context.workspace.path, tools=toolbox.tools(), limits=context.limits
        )
        return Acted(
            observation=shorten(_observation(execution), self.observation_chars),
            failed=execution.error is not None,
            seconds=execution.seconds + toolbox.model_seconds,
            result=None if toolbox.result is None else orjson.dumps(toolbox.result).decode(),
        )

    async def conclude(self, context: Context, reason: StopReason) -> Answer:
        """Ask for the final result; if none can be read, it is what the run itself gave.

        Raises:
            ContentFiltered: a filter kept the policy from answering at all, of which nothing can be concluded.
        """
        given = _given_result(context)
        direct = await self._direct(context) if reason is not StopReason.STOPPED else None
        fallback = given or (Answer(output=direct, log=_UNREADABLE) if direct else None)
        state = context.steps[-1].state if context.steps else "{}"
        output = shorten(given.output, self.observation_chars) if given else None
        closing = end_closing(state, reason=reason, output=output, direct=direct)
        for attempt in range(_END_ATTEMPTS):
            try:
                reply = await self._ask(
                    context,
                    "end",
                    closing,
                    step=WHOLE_TRAJECTORY,
                    ordinal=attempt,
                    keep_refusal=fallback is not None,
                )
                end = await _reading(reply.content, _end)
            except ReplyError:
                continue
            except ContentFiltered:
                if fallback is None:
                    raise
                continue
            return Answer(output=end.output, log=end.log)
        return fallback or Answer(output="", log=_UNREADABLE)

    async def _direct(self, context: Context) -> str:
        """What the policy says to the bare task; nothing where a content filter refuses it."""
        messages = (Message("user", f"Task: {context.task.question}"),)
        try:
            reply = await context.journal.ask(
                role="policy", module="direct", step=WHOLE_TRAJECTORY, messages=messages
            )
        except ContentFiltered:
            return ""
        return reply.content.strip()

    async def _ask(
        self,
        context: Context,
        module: str,
        closing: tuple[str, ...],
        *,
        step: int | None = None,
        ordinal: int = 0,
        keep_refusal: bool = True,
    ) -> JournalledReply:
        return await ask_policy(
            context,
            module,
            step=context.index if step is None else step,
            ordinal=ordinal,
            system=self.prompts[module],
            recent_steps=self.recent_steps,
            closing=closing,
            keep_refusal=keep_refusal,
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


async def _reading(reply: str, read: Callable[[str], T]) -> T:
    """What is read in a reply; while a long one is, which may be made to take long, most else goes on."""
    return await run_sync(read, reply) if len(reply) > _LONG_REPLY else read(reply)


def _end(reply: str) -> EndResult:
    return parse_end(parse_reply(reply))


def _refused(module: str, state: str, index: int, *, seconds: float = 0.0) -> Decision:
    """The decision of a step for which a content filter let through no plan or no action: there is nothing to run."""
    told = f"The provider's content filter refused the {module} of step {index}"
    return Decision(
        action=Action(text="", thought="", code="", problem=f"{told}, so nothing was run."),
        state=with_experience(state, f"{told}. Go on in other words, and leave out what may have caused it."),
        call=None,
        seconds=seconds,
    )


def _given_result(context: Context) -> Answer | None:
    if not context.steps or context.steps[-1].result is None:
        return None
    result = orjson.loads(context.steps[-1].result)
    return Answer(output=str(result["output"]), log=str(result["log"]))


def _observation(execution: Execution) -> str:
    parts = [part.rstrip("\n") for part in (execution.output, execution.error) if part]
    return "\n".join(parts) or "(nothing was printed)"
