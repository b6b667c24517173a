"""How an execution ended follows from what is known of it."""

from __future__ import annotations

import pytest

from runtime.errors import InfrastructureError
from runtime.sandbox import Ending
from runtime.sandbox.frames import ProtocolError
from runtime.sandbox.report import Report
from runtime.sandbox.verdict import Claim, Findings
from store.jsontypes import JsonValue

COMPLETED = Claim(Ending.COMPLETED, None)


def ending(findings: Findings, *, may_kill_supervisor: bool = True) -> Ending:
    findings.begun = True
    return findings.execution(1.0, may_kill_supervisor=may_kill_supervisor).ending


def test_a_claim_counts_where_nothing_speaks_against_it() -> None:
    assert ending(Findings(claim=COMPLETED, report=Report(status=0))) is Ending.COMPLETED


def test_without_a_claim_the_process_ended_itself() -> None:
    assert ending(Findings(report=Report(status=0))) is Ending.EXITED
    assert ending(Findings(report=Report(status=9))) is Ending.EXITED


def test_time_used_up_outweighs_what_followed_from_it() -> None:
    assert ending(Findings(report=Report(status=9, stopped=True), timeout=3.0)) is Ending.TIMEOUT
    assert ending(Findings(timeout=3.0)) is Ending.TIMEOUT


def test_an_attack_on_the_channel_outweighs_the_claim() -> None:
    findings = Findings(claim=COMPLETED, report=Report(status=0), attack="a message that is no JSON")
    assert ending(findings) is Ending.KILLED


def test_a_lost_supervisor_is_the_codes_doing_only_where_code_can_do_it() -> None:
    for findings in (Findings(), Findings(report=Report(stopped=True))):
        assert ending(findings) is Ending.KILLED
        with pytest.raises(InfrastructureError):
            ending(findings, may_kill_supervisor=False)


@pytest.mark.parametrize("report", [None, Report(status=9), Report(stopped=True)])
def test_what_ended_before_it_took_the_code_says_nothing_of_the_code(report: Report | None) -> None:
    with pytest.raises(InfrastructureError, match="before they took the code"):
        Findings(report=report).execution(0.0, may_kill_supervisor=True)


def test_a_problem_of_the_supervisor_is_no_evidence() -> None:
    with pytest.raises(InfrastructureError, match="no process"):
        ending(Findings(report=Report(problem="no process could be made")))


@pytest.mark.parametrize(
    "message",
    [
        {"end": "timeout", "error": "x"},
        {"end": "completed", "error": "x"},
        {"end": "exception", "error": None},
        {"end": "exception", "error": 1},
        {"end": None},
        {"end": []},
    ],
)
def test_a_runner_may_not_claim_just_anything(message: dict[str, JsonValue]) -> None:
    with pytest.raises(ProtocolError):
        Claim.parse(message)


@pytest.mark.parametrize("claim", [None, COMPLETED])
def test_without_a_report_the_supervisor_is_lost_whatever_the_runner_claimed(claim: Claim | None) -> None:
    assert Findings(claim=claim).supervisor_lost
    assert not Findings(claim=claim, report=Report(status=0)).supervisor_lost
