"""What a daemon is doing at this moment, asked of it and put into words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runtime.api.token import api_token
from runtime.cli.report import counted
from runtime.clock import clock_time, time_until
from runtime.config.settings import Api
from runtime.errors import CsoError
from runtime.notice import living_notice
from store.jsontypes import JsonValue

_LIMITS = {
    "max-in-flight": "max_in_flight",
    "adaptive": "the capacity found so far",
    "rate-limit": "requests or tokens per minute",
    "retry-after": "a pause that it asked for",
}

_NAMED = 3  # of what lies in the spool folder

# JSON from the daemon, which may be of another release: what is missing is left out.
Facts = Mapping[str, Any]


async def look_at_daemon(folder: Path, settings: Api) -> dict[str, JsonValue] | None:
    """What the daemon of a data directory is doing, with `error` if it does not say; None if there is no daemon."""
    notice = living_notice(folder)
    if notice is None:
        return None
    # Imported here because without a daemon, which is nothing unusual, it would be half of the command's time.
    from runtime.api.client import connect

    try:
        token = api_token(settings, os.environ)
        async with connect(notice.url, token=token, token_env=settings.token_env) as remote:
            return await remote.look()
    except CsoError as error:
        return {"pid": notice.pid, "url": notice.url, "started": notice.started, "error": str(error)}


def daemon_rows(seen: Facts | None) -> Iterator[tuple[str, str]]:
    """Rows of the report, a name and a text each."""
    if seen is None:
        yield "daemon", "none at work: `cso serve` starts one"
        return
    since = f"process {seen['pid']} since {datetime.fromtimestamp(seen['started']):%Y-%m-%d %H:%M:%S}, {seen['url']}"
    if "error" in seen:
        yield "daemon", f"{since}: {seen['error']}"
        return
    yield "daemon", f"{seen['state']}, {since}"
    if seen.get("trouble"):
        yield "waiting for", str(seen["trouble"])
    if rollouts := seen.get("rollouts"):
        yield "rollouts", f"{rollouts['in_use']} of {rollouts['limit']} places in use"
    if work := seen.get("at_work"):
        yield from _at_work(work)
    yield from _spool(seen.get("spool") or {})
    for role, endpoint in seen.get("endpoints", {}).items():
        yield f"{role} endpoint", _endpoint(endpoint)
        for replica in endpoint.get("replicas", ()):
            yield f"  {replica['address']}", _replica(replica)
    if lag := seen.get("loop_lag"):
        yield (
            "event loop",
            f"late by {lag['p50_ms']:.1f} ms (p50), {lag['p99_ms']:.1f} (p99), {lag['max_ms']:.1f} (max)",
        )


def _spool(spool: Facts) -> Iterator[tuple[str, str]]:
    if trouble := spool.get("trouble"):
        yield "spool", f"{spool['folder']} cannot be used, and is tried again: {trouble}"
    if rejected := spool.get("rejected"):
        files = counted(rejected, "task file")
        yield "spool", f"{files} rejected: see what is wrong with each in {spool['folder']}/rejected"
    if ignored := spool.get("ignored"):
        named = [f"{one['name']}, because {one['reason']}" for one in spool["examples"][:_NAMED]]
        more = [f"and {ignored - len(named):,} more"] * (ignored > len(named))
        yield "spool", f"{ignored:,} in {spool['folder']} not taken: {'; '.join(named + more)}"


def _at_work(work: Facts) -> Iterator[tuple[str, str]]:
    if not work["handlers"]:
        yield "at work", "nothing"
        return
    oldest = work["oldest"][0]
    task = f" on task {oldest['task']}" if oldest["task"] else ""
    counts = ", ".join(f"{number} {handler}" for handler, number in work["handlers"].items())
    yield "at work", f"{counts}; longest: {oldest['handler']}{task}, {oldest['seconds']:.0f} s"


def _replica(replica: Facts) -> str:
    out = f"failed repeatedly, left alone for {replica['out_for']:.0f} s more; " if replica["out_for"] else ""
    return out + _endpoint(replica["endpoint"])


def _endpoint(endpoint: Facts) -> str:
    """How busy a role's endpoint is, and what keeps it from more."""
    if endpoint["stopped"]:
        return _stopped(endpoint)
    parts = [f"{endpoint['in_flight']} of {endpoint['limit']} requests on their way"]
    if endpoint["waiting"]:
        parts.append(f"{endpoint['waiting']} waiting")
    if endpoint["limiting"] != "none":
        parts.append(f"limited by {_LIMITS.get(endpoint['limiting'], endpoint['limiting'])}")
    parts += [f"{endpoint[name]:,} {name}" for name in ("refused", "retried") if endpoint[name]]
    load = ", ".join(parts)
    return f"{endpoint['reason']}; {load}" if endpoint.get("reason") else load


def _stopped(endpoint: Facts) -> str:
    """Why a role's endpoint is not asked, and until when."""
    if endpoint["limiting"] != "none" and "until" in endpoint["reason"]:  # it says until when
        return f"{endpoint['reason'].removeprefix('it ')}; `cso retry --all` has it asked at once"
    again = "asked again"
    if endpoint.get("until"):
        again += f" at {clock_time(endpoint['until'])}, in {time_until(endpoint['until'])}, or"
    return f"stopped: {endpoint.get('reason') or 'see what was set aside'}; {again} at once with `cso retry --all`"
