"""What a model call may raise, one class for each way in which a caller reacts.

    InfrastructureError
    └── ModelError               any of the below; nobody reacted: an `error` outcome, never evidence
        ├── EndpointUnavailable  attempts or time used up: hand the delivery out again later
        ├── EndpointStopped      key, account, model or path refused: nothing is asked until it may be tried again
        │   └── EndpointPaused   it wants to be left alone for long, or is away for a while: wait, uncounted
        ├── RequestRefused       the request itself is wrong: never sent again, its delivery is set aside
        ├── ContextOverflow      too long for the model: shorten the observations and ask once more
        └── ContentFiltered      the provider's filter said no: tell the agent

No error holds a key, nor a reference to the SDK's request or response, and at most `BODY_CHARS` characters
of what the endpoint answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import InfrastructureError, UnrepeatableError

if TYPE_CHECKING:
    from runtime.models.chat import Usage

BODY_CHARS = 500


class ModelError(InfrastructureError):
    """Raised when a model call brought no reply; the attributes say where, why and what the endpoint said.

    `attempts` counts requests sent (0: none was), `status` is the HTTP status of the last one if it had any,
    `retry_after` the seconds that the endpoint asked for, `body` an excerpt of its answer, `usage` the tokens that it
    counted all the same, None where it did not say.
    """

    def __init__(
        self,
        reason: str,
        *,
        endpoint: str,
        attempts: int = 0,
        status: int | None = None,
        request_id: str = "",
        retry_after: float | None = None,
        body: str = "",
        usage: Usage | None = None,
    ) -> None:
        self.reason = reason
        self.endpoint = endpoint
        self.attempts = attempts
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body[:BODY_CHARS]
        self.usage = usage
        super().__init__(self._message())

    def _message(self) -> str:
        facts = [f"status {self.status}"] if self.status is not None else []
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        if self.request_id:
            facts.append(f"request {self.request_id}")
        message = f"endpoint {self.endpoint}: {self.reason}"
        if facts:
            message += f" ({', '.join(facts)})"
        return f"{message}; it said: {self.body}" if self.body else message


class EndpointUnavailable(ModelError):  # noqa: N818 - named for the state that callers react to
    """Raised when retries or the deadline of a call are used up."""


class EndpointStopped(ModelError):  # noqa: N818
    """Raised when the endpoint refuses key, account, model or path, then by later calls without asking again.

    `attempts` is 0 for a call whose own request was not refused. After `retry_after` seconds a single call may try.
    `raised` is when that was so, in loop time: somebody may have said since that it is to be asked.
    """

    raised = 0.0


class EndpointPaused(EndpointStopped):
    """Raised when the endpoint wants to be left alone for longer than a call may wait, or has replied and is gone.

    `lasting` is how many seconds it has been so without a reply in between, up to when the error was raised.
    """

    lasting = 0.0


class RequestRefused(ModelError, UnrepeatableError):  # noqa: N818
    """Raised when an endpoint calls the request wrong (unknown model or path, bad parameter)."""


class ContextOverflow(ModelError):  # noqa: N818
    """Raised when the messages, with the reply asked for, do not fit into the model's context."""


class ContentFiltered(ModelError):  # noqa: N818
    """Raised when a content filter refuses the request or cuts off the reply."""
