"""What a model takes and how it answers, declared once by its name instead of in ifs where requests are made.

Providers refuse parameters that a model does not take, and models of one provider differ in that. Names tell most
of it; what they do not tell, or tell wrongly, the user declares: `capabilities = { seed = false }`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_type_hints

from runtime.errors import ConfigError
from runtime.models.chat import ChatRequest
from store.messages import Message

Provider = Literal["openai", "azure", "anthropic", "bedrock"]
LimitName = Literal["max_tokens", "max_completion_tokens"]
Sampling = Literal["both", "temperature", "none"]
SystemRole = Literal["system", "developer", "none"]
Thoughts = Literal["apart", "tags", "open"]

SAMPLING_VERSION = "2023-06-01"
"""The version of the Messages API that still takes temperature and top_p; later ones refuse them for every model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What may be sent to a model, and where its reasoning is.

    `limit_name` is what the limit on a reply is called; `sampling` says whether temperature and top_p are taken,
    both at once or temperature alone. A `system` of none makes the system message part of the first user message.
    Where `thinking` is false, vLLM and SGLang are asked to have the model's template switch it off.
    `thoughts` may be `apart` (reported by the endpoint and nowhere else), in `<think>` `tags` that begin the reply,
    or `open`: as with tags, but the template that the server uses has written the first tag already.
    """

    limit_name: LimitName = "max_tokens"
    sampling: Sampling = "both"
    seed: bool = True
    stop: bool = True
    images: bool = True
    system: SystemRole = "system"
    thinking: bool = True
    thoughts: Thoughts = "tags"


_REASONING = Capabilities(limit_name="max_completion_tokens", sampling="none", stop=False, thoughts="apart")
# The first pattern that is found in a name decides. Vendors' prefixes and regions may stand before a family's name.
_FAMILIES: tuple[tuple[re.Pattern[str], Capabilities], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), capabilities)
    for pattern, capabilities in (
        (r"(?<![a-z0-9])o1-(mini|preview)", replace(_REASONING, system="none", images=False)),
        (r"(?<![a-z0-9])o[1-9]\d?-mini", replace(_REASONING, system="developer", images=False)),
        (r"(?<![a-z0-9])o[1-9]\d?(?![a-z0-9])", replace(_REASONING, system="developer")),
        (r"(?<![a-z0-9])gpt-[5-9][^/]*chat", Capabilities(limit_name="max_completion_tokens", thoughts="apart")),
        (r"(?<![a-z0-9])gpt-[5-9]", replace(_REASONING, system="developer")),
        (r"gpt-3\.5", Capabilities(images=False, thoughts="apart")),
        (r"deepseek-r\d|qwq|thinking", Capabilities(images=False, thoughts="open")),
        (r"deepseek|(?<![a-z0-9])qwen\d(?:\.\d)?-\d+b", Capabilities(images=False)),
    )
)
_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?", re.IGNORECASE)
_HINTS = {
    name: (bool,) if hint is bool else get_args(hint)
    for name, hint in get_type_hints(Capabilities, {"bool": bool, **globals()}).items()
}


def capabilities_of(
    model: str,
    *,
    provider: Provider = "openai",
    api_version: str = "",
    declared: Mapping[str, bool | str] | None = None,
) -> Capabilities:
    """What a model of this name takes from this provider, with what the user declares laid over it.

    Raises ConfigError for a declaration of something unknown.
    """
    found = next((each for pattern, each in _FAMILIES if pattern.search(model)), Capabilities())
    if claude := _CLAUDE.search(model):
        version = (int(claude[1]), int(claude[2] or 0))
        # A gateway that speaks OpenAI's protocol passes what a Claude model would refuse.
        found = replace(
            found, sampling="none" if version >= (4, 7) else "temperature" if version >= (4, 1) else "both"
        )
    if provider == "anthropic":
        found = replace(found, seed=False, thoughts="apart")
        if api_version != SAMPLING_VERSION:
            found = replace(found, sampling="none")
    elif provider == "bedrock":
        found = replace(found, seed=False)
    for name, value in (declared or {}).items():
        found = _declare(found, name, value)
    return found


def _declare(capabilities: Capabilities, name: str, value: bool | str) -> Capabilities:
    choices = _HINTS.get(name)
    if choices is None:
        known = ", ".join(field.name for field in fields(Capabilities))
        raise ConfigError(f"capabilities.{name}: there is no such capability; there are {known}")
    if choices == (bool,):
        if not isinstance(value, bool):
            raise ConfigError(f"capabilities.{name} must be true or false")
    elif value not in choices:
        raise ConfigError(f"capabilities.{name} must be " + " or ".join(f'"{choice}"' for choice in choices))
    return replace(capabilities, **{name: value})  # type: ignore[arg-type]  # checked above, by name


def fit(request: ChatRequest, capabilities: Capabilities) -> ChatRequest:
    """The request without what the model does not take; itself where it takes everything.

    A model that takes no images is told how many it was not shown.
    """
    changes: dict[str, object] = {}
    if request.top_p is not None and (capabilities.sampling == "none" or _has_both(request, capabilities)):
        changes["top_p"] = None
    if request.temperature is not None and capabilities.sampling == "none":
        changes["temperature"] = None
    if request.seed is not None and not capabilities.seed:
        changes["seed"] = None
    if request.stop and not capabilities.stop:
        changes["stop"] = ()
    messages = request.messages
    if not capabilities.images and any(message.images for message in messages):
        messages = tuple(_without_images(message) if message.images else message for message in messages)
    if capabilities.system == "none" and messages and messages[0].role == "system":
        messages = _without_system(messages)
    if messages is not request.messages:
        changes["messages"] = messages
    return replace(request, **changes) if changes else request  # type: ignore[arg-type]  # names and types from above


def _has_both(request: ChatRequest, capabilities: Capabilities) -> bool:
    return capabilities.sampling == "temperature" and request.temperature is not None


def _without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with the system message at the head of the first user message."""
    system, *rest = messages
    if rest and rest[0].role == "user":
        return (replace(rest[0], content=f"{system.content}\n\n{rest[0].content}", parts=()), *rest[1:])
    return (Message("user", system.content), *rest)


def _without_images(message: Message) -> Message:
    remark = f"({len(message.images)} images are not shown.)"
    return Message(message.role, f"{message.content}\n\n{remark}" if message.content else remark)


def part_thoughts(content: str, reasoning: str, how: Thoughts) -> tuple[str, str]:
    """Content and reasoning, with a block of thoughts that begins the content moved over to the reasoning.

    A block that never ends has used up the reply: what was meant to be said is then nothing.
    """
    if how == "apart" or "think>" not in content:
        return content, reasoning
    opening, separator, rest = content.partition("<think>")
    if separator and not opening.strip():
        thoughts, _, said = rest.partition("</think>")
    elif how == "open" and "</think>" in content:
        thoughts, _, said = content.partition("</think>")
    else:
        return content, reasoning
    return said.lstrip(), "\n".join(part for part in (reasoning, thoughts.strip()) if part)


def cut_at_stop(content: str, stop: tuple[str, ...]) -> str:
    """What comes before the first stop string, for models that are not told of them."""
    ends = [at for text in stop if (at := content.find(text)) >= 0]
    return content[: min(ends)] if ends else content
