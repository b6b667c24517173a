"""Asking the policy in a conversation that may be too long for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runtime.agents.base import Context
from runtime.agents.main.conversation import conversation, shorten_observations
from runtime.models.errors import ContextOverflow
from store.calls import JournalledReply
from store.messages import Message
from store.trajectories import Step


async def ask_policy(
    context: Context,
    module: str,
    *,
    step: int,
    ordinal: int,
    system: str,
    recent_steps: int,
    closing: tuple[str, ...],
    keep_refusal: bool,
) -> JournalledReply:
    """The policy's reply. What is too long for it is asked once more, with observations shortened, the oldest first.

    The journal has what the policy was asked in the end, so that is what the expert is asked and what a pair shows.

    Raises:
        ContentFiltered: the provider's filter refused.
        ContextOverflow: it is still too long, or there was nothing to shorten; the message says what helps.
        InfrastructureError: the policy could not be reached.
    """

    def messages_over(steps: Sequence[Step]) -> tuple[Message, ...]:
        return conversation(
            system=system,
            question=context.task.question,
            files=context.files,
            steps=steps,
            recent_steps=recent_steps,
            closing=closing,
        )

    def shortened() -> tuple[Message, ...]:
        # Not every endpoint tells by how much it is too long. Half as long is worth the one more try.
        excess = sum(len(message.content) for message in messages) // 2
        return messages_over(shorten_observations(context.steps, recent_steps=recent_steps, excess=excess))

    journal = context.journal
    ask = partial(journal.ask, role="policy", module=module, step=step, ordinal=ordinal, keep_refusal=keep_refusal)
    place = journal.place(role="policy", module=module, step=step, ordinal=ordinal)
    messages = messages_over(context.steps)
    # What is too long is an estimate that grows better: work that is done again must not decide anew.
    shorter = shortened() if journal.is_replay else messages
    if not journal.has_instead(place, messages=shorter, of=messages):
        try:
            return await ask(messages=messages)
        except ContextOverflow as error:
            shorter = shortened()
            if shorter == messages:
                raise _too_long(error) from error
    try:
        return await ask(messages=shorter)
    except ContextOverflow as error:
        raise _too_long(error) from error


def _too_long(error: ContextOverflow) -> ContextOverflow:
    return ContextOverflow(
        f"{error.reason}, with observations as short as they get: give the policy a longer context "
        "(models.policy.max_input_tokens, if it is set), or begin a new run with a lower agent.recent_steps",
        endpoint=error.endpoint,
        attempts=error.attempts,
        status=error.status,
        body=error.body,
    )
