"""A model endpoint that costs as little as it can, in a process of its own: canned replies after a fixed time.

It writes all replies before it listens, one for each step and module of each task, so that what is measured is the
client. Calls tell by their trace headers where they belong.

    python -m benchmarks.server --latency 0.1 --tasks 256 --steps 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import orjson

from benchmarks.figures import pin
from benchmarks.texts import Texts

REPLY_CHARACTERS = 1500
ANSWER = "42"
_KEPT_ITEMS = 6
_NO_SUCH_REPLY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def plan_reply(texts: Texts, done: list[str], step: int) -> str:
    """A plan: the last things done, which come back step after step, and what is new."""
    state = {
        "completed_list": [f"Step {step - len(done) + number}: {item}" for number, item in enumerate(done)],
        "todo_list": texts.phrases(150),
        "experience": texts.phrases(80),
        "information": texts.phrases(200),
    }
    code = "{\n" + "\n".join(f"    {key!r}: {value!r}," for key, value in state.items()) + "\n}"
    return _reply(texts, code)


def action_reply(texts: Texts) -> str:
    """An action: some reasoning and a program."""
    return _reply(texts, texts.code(1000))


def end_reply(texts: Texts) -> str:
    """A final result."""
    return _reply(texts, repr({"output": ANSWER, "log": texts.prose(300)}))


def _reply(texts: Texts, code: str) -> str:
    frame = "Thought: {}\nCode:\n```python\n{}\n```"
    room = max(80, REPLY_CHARACTERS - len(code) - len(frame) + 4)
    return frame.format(texts.prose(room), code)


def write_replies(tasks: int, steps: int) -> dict[tuple[str, str, str], bytes]:
    """Complete HTTP responses by task, step and module, as the trace headers name them."""
    found: dict[tuple[str, str, str], bytes] = {}
    for task in range(tasks):
        texts, done = Texts(f"replies of {task}"), list[str]()
        for step in range(steps):
            found[f"task-{task}", str(step), "plan"] = _response(plan_reply(texts, done, step))
            found[f"task-{task}", str(step), "action"] = _response(action_reply(texts))
            done = [*done, texts.prose(70)][-_KEPT_ITEMS:]
        found[f"task-{task}", "-1", "end"] = _response(end_reply(texts))
    return found


def _response(content: str) -> bytes:
    body = orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5000, "completion_tokens": 380, "total_tokens": 5380},
        }
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One kept-alive connection, on which a client waits for a reply before it asks again."""

    def __init__(self, replies: dict[tuple[str, str, str], bytes], latency: float) -> None:
        self._replies = replies
        self._latency = latency
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in lines}
        if len(body) < int(headers["content-length"]):
            return
        self._received = b""
        place = headers["x-cso-task"], headers["x-cso-step"], headers["x-cso-module"]
        reply = self._replies.get(place, _NO_SUCH_REPLY)
        asyncio.get_running_loop().call_later(self._latency, self._answer, reply)

    def _answer(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


async def _serve(replies: dict[tuple[str, str, str], bytes], latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(replies, latency), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        # Our parent holds the other end of standard input, however it ends.
        await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def serving(*, latency: float, tasks: int, steps: int) -> Iterator[str]:
    """Run the server on the last core while the block runs; gives its base URL."""
    command = [sys.executable, "-m", "benchmarks.server"]
    command += ["--latency", str(latency), "--tasks", str(tasks), "--steps", str(steps)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.stdin.close()


def main() -> None:
    """Parse the command line and serve until standard input closes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--latency", type=float, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    pin((os.cpu_count() or 1) - 1)
    asyncio.run(_serve(write_replies(options.tasks, options.steps), options.latency))


if __name__ == "__main__":
    main()
