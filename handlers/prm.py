"""Asking the process reward model about the candidates of one step, all of them in the same context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from handlers.scoring import RecentStep, parse_score, score_messages
from runtime.agents.base import Action
from runtime.agents.shortening import shorten_oldest
from runtime.models.errors import ContentFiltered, ContextOverflow
from runtime.models.journal import Journal
from store.candidates import POLICY_ORDINAL
from store.messages import Message


@dataclass(slots=True, kw_only=True)
class StepScorer:
    """The context of one step, in which its candidates are scored; `attempts` is how often the PRM is asked for each.

    The policy's own action is scored first and decides in which form `recent` is shown: whole, or with observations
    shortened, where it is too long for the PRM. An alternative that does not fit into that form stays unscored, since
    a score in another context says nothing beside the policy's.
    """

    journal: Journal
    question: str
    state: str
    index: int
    recent: Sequence[RecentStep]
    attempts: int

    async def score_own(self, action: Action) -> float | None:
        """The score of the policy's own action in [0, 1], None for unscored.

        Raises:
            InfrastructureError: the PRM could not be reached.
        """
        recent, whole = self.recent, self._messages(action)
        shortened = self.recent = self._shortened(whole)
        # What is too long is an estimate that grows better: work that is done again must not decide anew.
        place = self.journal.place(
            role="prm", module="score", step=self.index, ordinal=POLICY_ORDINAL * self.attempts
        )
        if self.journal.has_instead(place, messages=self._messages(action), of=whole):
            return await self.score(action, POLICY_ORDINAL)
        self.recent = recent
        try:
            return await self._ask(action, POLICY_ORDINAL)
        except ContextOverflow:
            self.recent = shortened
            return await self.score(action, POLICY_ORDINAL)

    async def score(self, action: Action, ordinal: int) -> float | None:
        """The score of a candidate in [0, 1]; None if none is readable, a filter refuses, or it is too long.

        Raises:
            InfrastructureError: the PRM could not be reached.
        """
        try:
            return await self._ask(action, ordinal)
        except ContextOverflow:
            return None

    async def _ask(self, action: Action, ordinal: int) -> float | None:
        messages = self._messages(action)
        for attempt in range(self.attempts):
            try:
                reply = await self.journal.ask(
                    role="prm",
                    module="score",
                    step=self.index,
                    messages=messages,
                    ordinal=ordinal * self.attempts + attempt,
                )
            except ContentFiltered:
                return None
            score = parse_score(reply.content)
            if score is not None:
                return score
        return None

    def _shortened(self, messages: Sequence[Message]) -> Sequence[RecentStep]:
        """The recent steps half as long, as far as their observations allow, the oldest ones' first."""
        excess = sum(len(message.content) for message in messages) // 2
        shorter = shorten_oldest([step.observation for step in self.recent], excess)
        return [replace(step, observation=text) for step, text in zip(self.recent, shorter, strict=True)]

    def _messages(self, action: Action) -> tuple[Message, ...]:
        return score_messages(
            question=self.question,
            state=self.state,
            recent=self.recent,
            index=self.index,
            thought=action.thought,
            code=action.code,
        )
