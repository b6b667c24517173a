"""Chat completions as OpenAI's protocol writes them, with a usage estimated from the texts' lengths."""

from __future__ import annotations

from typing import Any

from runtime.simulation.record import Entry

_TOKEN_CHARACTERS = 4


def _tokens(text: object) -> int:
    return len(text) // _TOKEN_CHARACTERS + 1 if isinstance(text, str) else 0


def estimated_usage(body: Any, text: str) -> dict[str, Any]:
    """Token counts by length; what stands before the last two messages counts as cached."""
    counts = [_tokens(message.get("content")) for message in body["messages"]]
    prompt, completion = sum(counts), _tokens(text)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(counts[:-2])},
    }


def completion(entry: Entry, body: Any, text: str, usage: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": f"chatcmpl-{entry.digest[:16]}-{entry.attempt}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }
