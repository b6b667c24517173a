"""Prefer: a verified critical step becomes a preference pair."""

from __future__ import annotations

from typing import ClassVar

from handlers.evidence import alternatives_to_verify, verified
from runtime.handler import Result
from runtime.services import Services
from store.candidates import load_candidates
from store.events import BranchCompleted, Event
from store.pairs import Evidence, add_pair
from store.trajectories import load_branches
from store.transaction import Transaction


class Prefer:
    """Turns the branches of a step into pairs: one for each alternative whose branches flip the outcome."""

    name = "prefer"
    consumes: ClassVar[tuple[type[Event], ...]] = (BranchCompleted,)
    workers = 2

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(self, event: Event) -> Result:
        """Look at all branches of the step; whichever ends last finds the evidence complete."""
        assert isinstance(event, BranchCompleted)  # the only kind that it consumes
        database, settings = self._services.database, self._services.settings
        candidates = await load_candidates(database, event.parent, event.step)
        branches = await load_branches(database, event.parent, event.step)
        found: list[tuple[int, Evidence]] = []
        for alternative in alternatives_to_verify(candidates, settings.critical.good_min):
            evidence = verified(settings.verify, branches, alternative=alternative, own=candidates[0])
            if evidence is not None:
                found.append((alternative.id, evidence))

        def write(transaction: Transaction) -> None:
            for candidate, evidence in found:
                add_pair(
                    transaction,
                    run=event.run,
                    task=event.task,
                    trajectory=event.parent,
                    step=event.step,
                    candidate=candidate,
                    evidence=evidence,
                )

        return write
