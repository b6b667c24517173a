"""The HTTP API over a daemon. Bad input is a 400, an unknown name a 404, a conflict a 409, all `{"error": "…"}`.

GET  /healthz                            200 while the daemon works, 503 once it stops
GET  /metrics                            the daemon in numbers, for Prometheus
GET  /v1/daemon                          what the daemon is doing
GET  /v1/status[?run=NAME]               the same, and the runs in numbers: what `cso status --json` prints
POST /v1/tasks                           {"tasks": [{"record": {…}, "file": "base64"}], "run", "priority"}
POST /v1/tasks/{run}/{task}/cancel       give a task up
POST /v1/retry                           {"all": true}, {"run": "…"} or {"run": "…", "task": "…"}
POST /v1/runs/{run}/pause                leave a run alone
POST /v1/runs/{run}/resume               take it up again
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from anyio.to_thread import run_sync

from runtime.api.bodies import BadRequestError, read_retry_body, read_tasks_body
from runtime.api.guard import make_guard
from runtime.api.live import Live, live_status
from runtime.control import UnknownNameError
from runtime.daemon import Daemon
from runtime.errors import CsoError
from runtime.logs import get_logger
from runtime.runs import RunChangedError
from runtime.status import status_json
from store.errors import StorageError, StorageTroubleError
from store.jsontypes import JsonValue
from store.tasks import ChangedTaskError
from store.trouble import lacks_descriptors, storage_error

LIVE = web.AppKey("live", Live)
STOPPING = "the daemon is stopping and takes nothing new: try again once it is gone; commands then do without one"
_log = get_logger("api")


def make_app(live: Live, *, token: str | None, max_body: int) -> web.Application:
    """The application of a daemon.

    Args:
        live: the daemon, as it is at work.
        token: what requests must carry; None lets loopback in.
        max_body: the largest request body, in bytes.
    """
    app = web.Application(middlewares=[_tell_errors, make_guard(token=token)], client_max_size=max_body)
    app[LIVE] = live
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/metrics", metrics),
            web.get("/v1/daemon", daemon_status),
            web.get("/v1/status", status),
            web.post("/v1/tasks", submit),
            web.post("/v1/tasks/{run}/{task}/cancel", cancel),
            web.post("/v1/retry", retry),
            web.post("/v1/runs/{run}/pause", pause),
            web.post("/v1/runs/{run}/resume", resume),
        ]
    )
    return app


async def healthz(request: web.Request) -> web.Response:
    """Tell a supervisor that the daemon is alive; one that waits for the disk is, too."""
    live = request.app[LIVE]
    return _json({"status": live.state}, status=503 if live.stopping else 200)


async def metrics(request: web.Request) -> web.Response:
    """Tell a monitoring system how the daemon is."""
    # Imported here because no start should wait for what only some daemons are asked.
    from runtime.api.metrics import render_metrics

    body, content_type = await render_metrics(request.app[LIVE], request.headers.get(hdrs.ACCEPT, ""))
    # As a header, because the library's own parameter takes no parameters of the type.
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def daemon_status(request: web.Request) -> web.Response:
    """Tell what the daemon is doing at this moment."""
    return _json(await live_status(request.app[LIVE]))


async def status(request: web.Request) -> web.Response:
    """Tell how far each run is and what the daemon is doing."""
    live = request.app[LIVE]
    found = await status_json(live.daemon.database, request.query.get("run"))
    return _json({**found, "daemon": await live_status(live)})


async def submit(request: web.Request) -> web.Response:
    """Take tasks: all of the request, or on an error none."""
    daemon = _working(request)
    body = await run_sync(read_tasks_body, await request.read())
    taken = await daemon.control.take(body.parcels, run=body.run, priority=body.priority)
    _log.info("tasks submitted", run=taken.run, new=taken.new, known=taken.known)
    return _json({**asdict(taken), "tasks": [one.record.name for one in body.parcels]})


async def cancel(request: web.Request) -> web.Response:
    """Give a task up."""
    run, task = request.match_info["run"], request.match_info["task"]
    dropped = await _working(request).control.cancel(run=run, task=task)
    return _json({"run": run, "task": task, "deliveries": dropped})


async def retry(request: web.Request) -> web.Response:
    """Put what was set aside back into the queue."""
    body = read_retry_body(await request.read())
    revived = await _working(request).control.retry(run=body.run, task=body.task)
    _log.info("set-aside work put back", run=body.run, task=body.task, deliveries=revived)
    return _json({"run": body.run, "task": body.task, "deliveries": revived})


async def pause(request: web.Request) -> web.Response:
    """Leave a run alone, once replies that are being paid for have arrived."""
    run = request.match_info["run"]
    await _working(request).control.pause(run)
    _log.info("run paused", run=run)
    return _json({"run": run, "paused": True})


async def resume(request: web.Request) -> web.Response:
    """Take a run up again."""
    run = request.match_info["run"]
    serving = await _working(request).control.resume(run)
    _log.info("run resumed", run=run, serving=serving)
    return _json({"run": run, "paused": False, "serving": serving})


@web.middleware
async def _tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what is raised into JSON; what nobody expected is logged and told as ours."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept = (hdrs.WWW_AUTHENTICATE, hdrs.ALLOW)
        headers = {name: value for name, value in error.headers.items() if name in kept}
        said = error.reason
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            said = f"{said}: api.max_body_mb is the limit, send fewer tasks at once"
        return _json({"error": said}, status=error.status, headers=headers)
    except BadRequestError as error:
        return _json({"error": str(error)}, status=400)
    except UnknownNameError as error:
        return _json({"error": str(error)}, status=404)
    except (ChangedTaskError, RunChangedError) as error:
        return _json({"error": str(error)}, status=409)
    except ConnectionError:  # whoever asked has left before all of it had come, and hears nothing
        return _json({"error": "the request ended before its end"}, status=400)
    except StorageError as error:
        return _unusable(error)
    except CsoError as error:
        return _json({"error": str(error)}, status=400)
    except Exception as error:  # noqa: BLE001 - the border of the API: a defect must not show its insides
        # Of other errors of the system one of ours may be the reason, as a file that is missing.
        is_storage = isinstance(error, sqlite3.Error) or lacks_descriptors(error)
        if is_storage and (wrong := storage_error(error, request.app[LIVE].daemon.database.file)):
            return _unusable(wrong)
        _log.exception("request failed", method=request.method, path=request.path)
        return _json({"error": "the request failed for a reason of ours; the log says which"}, status=500)


def _unusable(error: StorageError) -> web.Response:
    """That the data directory cannot be used; `trouble` tells it from other reasons for a 503."""
    trouble = error.trouble if isinstance(error, StorageTroubleError) else "unusable"
    return _json({"error": str(error), "trouble": trouble}, status=503)


def _working(request: web.Request) -> Daemon:
    live = request.app[LIVE]
    if live.stopping:
        raise web.HTTPServiceUnavailable(reason=STOPPING)
    live.daemon.database.check_usable()
    return live.daemon


def _json(
    value: Mapping[str, JsonValue], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    body = orjson.dumps(dict(value), option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
