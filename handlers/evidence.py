"""When branches make a step a verified critical step: the one rule that verify and prefer share."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.config.settings import Verify
from store.candidates import Candidate
from store.pairs import Evidence
from store.trajectories import Trajectory


def alternatives_to_verify(candidates: Sequence[Candidate], good_min: float) -> list[Candidate]:
    """The distinct alternatives that score above `good_min`, highest score first, then first proposed."""
    good = [
        candidate
        for candidate in candidates
        if not candidate.is_policys
        and candidate.usable
        and candidate.duplicate_of is None
        and candidate.score is not None
        and candidate.score > good_min
    ]
    return sorted(good, key=lambda candidate: (-(candidate.score or 0.0), candidate.ordinal))


def verified(
    settings: Verify, branches: Sequence[Trajectory], *, alternative: Candidate, own: Candidate
) -> Evidence | None:
    """The evidence that an alternative flips the outcome; None if it does not, or not all of it is in yet.

    Branches that ended in an error are no evidence: as long as one is missing, nothing is decided.
    """
    outcomes = [branch.outcome for branch in branches if branch.fork and branch.fork.candidate == alternative.id]
    controls = [branch.outcome for branch in branches if branch.fork and branch.fork.candidate == own.id]
    evidence = Evidence(
        successes=outcomes.count("success"),
        rollouts=outcomes.count("success") + outcomes.count("failure"),
        control_successes=controls.count("success"),
        controls=controls.count("success") + controls.count("failure"),
    )
    if evidence.rollouts < settings.rollouts or evidence.controls < settings.controls:
        return None
    return evidence if evidence.successes and evidence.gain > settings.margin else None
