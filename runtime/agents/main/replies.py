"""The form of the policy's replies: read from what models really write, written in one canonical way.

The canonical form, demanded by the prompts and written by `render_reply`:

    Thought: reasoning, any number of lines
    Code:
    ```python
    ...
    ```

How a reply is read, in this order, so that the same text always gives the same code:

1. Line ends become LF, NUL bytes go. Thinking goes: `<think>…</think>` at the start, or everything up to the last
   stray `</think>` (chat templates strip the opening tag). Tags are only looked for in a reply that does not already
   open in our form, so code and thoughts may mention them.
2. Fences are CommonMark's backtick fences: three or more backticks at the start of a line (or right behind a label),
   closed by a line of at least as many.
3. Label lines (`Code:`, `Thought:`, `Observation…:`) outside fences cut the reply into sections. The first `Code:`
   section with a usable block counts: drafts and examples stand before it, and what follows the next label is a
   continuation that the model invented. Without such a section, the first section with a usable block counts.
4. Within the section, Python blocks count; if there is none, unlabelled ones; if there is none, JSON ones. All blocks
   of the kind that counts are joined in order, a blank line between them, since models split one program into cells.
5. Without any usable block, the text behind `<|python_tag|>` counts.

`parse_reply` never raises; for each thought and code that it returns without a problem,
`parse_reply(render_reply(thought, code))` returns them again exactly. Every pass is linear in the reply's length.
"""

from __future__ import annotations

import ast
import json
import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from runtime.errors import CsoError
from store.jsontypes import JsonValue

STATE_KEYS = ("completed_list", "todo_list", "experience", "information")

# A progress state goes into every later prompt of its trajectory; these keep it near 8,000 tokens at the worst.
MAX_ITEM_CHARACTERS = 2_000
MAX_LIST_CHARACTERS = 8_000
MAX_LITERAL_CHARACTERS = 100_000
MAX_LOG_CHARACTERS = 8_000
# Reading this much in short lines takes more than a second, in which nothing else can be done.
MAX_REPLY_CHARACTERS = 1_000_000
_MAX_NUMBER_BITS = 1_024
_QUIET = threading.Lock()

_FORMAT = (
    "Write `Thought:` and your reasoning, then a line `Code:`, then one block that opens with a line ```python "
    "and closes with a line ```."
)
_EMPTY_REPLY = f"The reply was empty. {_FORMAT}"
_ENDLESS_THINKING = f"The reply ended inside its thinking, before any code. Think less, then answer. {_FORMAT}"
_TOO_LONG = f"The reply has more than {MAX_REPLY_CHARACTERS} characters, so nothing of it was read. {_FORMAT}"
_NO_BLOCK = f"The reply has no code block, so nothing was run. {_FORMAT}"
_EMPTY_BLOCK = f"The code block of the reply is empty, so nothing was run. {_FORMAT}"
_CUT_OFF = f"The code block of the reply is not closed, so nothing was run: write less at once. {_FORMAT}"

_OPENING = re.compile(r"( {0,3})(`{3,})([^`]*)")
_CLOSING = re.compile(r" {0,3}(`{3,})[ \t]*")
_FENCE_LIKE = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_THINK_OPEN = re.compile(r"\s*<think(?:ing)?>", re.IGNORECASE)
_THINK_CLOSE = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_PYTHON_TAG = "<|python_tag|>"
_END_OF_TURN = re.compile(r"<\|(?:eom_id|eot_id|im_end)\|>")
_THOUGHT = re.compile(
    r"(?:#{1,6}[ \t]*)?(?:thought[ \t]*:|\*\*thought\*\*[ \t]*:|\*\*thought[ \t]*:[ \t]*\*\*)", re.IGNORECASE
)
_CODE_LABEL = re.compile(
    r" {0,3}(?:#{1,6}[ \t]*)?(?:code[ \t]*:|\*\*code\*\*[ \t]*:|\*\*code[ \t]*:[ \t]*\*\*)[ \t]*", re.IGNORECASE
)
_TURN_LABEL = re.compile(
    r" {0,3}(?:#{1,6}[ \t]*)?\*{0,2}(?:Thought|Observation)(?: of step)?(?: [0-9]+)?\*{0,2}[ \t]*:\*{0,2}[ \t]*"
)


class ReplyError(CsoError, ValueError):
    """Raised when the code of a plan or end reply cannot be used; the message is meant for the model."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the policy, as read; `code` is empty exactly when a `problem` tells the model what was wrong."""

    thought: str
    code: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class EndResult:
    """The final result: `output` is what a judge sees (empty: no answer), `log` how it was reached."""

    output: str
    log: str


class _Kind(IntEnum):
    """What a fence's label says of its content; the lowest kind in a section counts."""

    PYTHON = 0
    UNLABELLED = 1
    JSON = 2
    OTHER = 3


_KINDS = {
    **dict.fromkeys(("python", "py", "python3", "py3", "ipython", "ipython3", "tool_code"), _Kind.PYTHON),
    **dict.fromkeys(("json", "json5", "jsonc"), _Kind.JSON),
    "": _Kind.UNLABELLED,
}


@dataclass(slots=True)
class _Fence:
    """A fenced block: the line on which it opens, its content, and whether its end was found."""

    line: int
    indent: int
    length: int
    kind: _Kind
    content: list[str] = field(default_factory=list)
    closed: bool = False

    def ends_at(self, line: str) -> bool:
        """Whether a line of the block is its closing one."""
        closing = _CLOSING.fullmatch(line)
        return closing is not None and len(closing[1]) >= self.length

    def take(self, lines: Sequence[str]) -> int:
        """Take the content from a reply's lines; the number of the first line behind the block."""
        rest = range(self.line + 1, len(lines))
        end = next((number for number in rest if "```" in lines[number] and self.ends_at(lines[number])), len(lines))
        self.closed = end < len(lines)
        content = lines[self.line + 1 : end]
        self.content = list(map(self._unindented, content)) if self.indent else list(content)
        return end + 1

    def _unindented(self, line: str) -> str:
        leading = len(line) - len(line.lstrip(" "))
        return line[min(leading, self.indent) :]


@dataclass(slots=True)
class _Section:
    """What stands between two labels: the first line (the label's own) and the fences that open in it."""

    line: int
    is_code: bool
    fences: list[_Fence] = field(default_factory=list)

    def counting(self) -> list[_Fence]:
        """The fences whose content is the section's code."""
        usable = [fence for fence in self.fences if fence.kind < _Kind.OTHER and any(map(str.strip, fence.content))]
        kind = min((fence.kind for fence in usable), default=_Kind.OTHER)
        return [fence for fence in usable if fence.kind == kind]


def parse_reply(text: str) -> Reply:
    """Reads a reply by the rules of this module; a reply without usable code has a problem and no code."""
    if len(text) > MAX_REPLY_CHARACTERS:
        return Reply("", "", _TOO_LONG)
    answer = without_thinking(_normalised(text))
    if answer is None:
        return Reply("", "", _ENDLESS_THINKING)
    answer = answer.lstrip()
    label = _THOUGHT.match(answer)
    body = answer[label.end() :].strip() if label else answer.rstrip()
    if not body:
        return Reply("", "", _EMPTY_REPLY)
    lines = body.split("\n")
    sections, tag_line = _scan(lines)
    for section in sorted(sections, key=lambda section: not section.is_code):
        fences = section.counting()
        if fences:
            thought = "\n".join(lines[: section.line if section.is_code else fences[0].line]).strip()
            if not all(fence.closed for fence in fences):
                return Reply(thought, "", _CUT_OFF)
            return Reply(thought, "\n\n".join(_trimmed(fence.content) for fence in fences))
    if tag_line is not None:
        return _tagged(lines, tag_line)
    return Reply(body, "", _missing_code(sections))


def render_reply(thought: str, code: str) -> str:
    """The canonical reply; its fence is longer than any that the code holds."""
    longest = max((len(run) for run in _FENCE_LIKE.findall(code)), default=2)
    fence = "`" * max(3, longest + 1)
    first = f"Thought: {thought}" if thought else "Thought:"
    return f"{first}\nCode:\n{fence}python\n{code}\n{fence}"


def without_thinking(text: str) -> str | None:
    """What of any model's reply follows its thinking, or None when that never ends or the reply is far too long."""
    if len(text) > MAX_REPLY_CHARACTERS:
        return None
    position = 0
    while opened := _THINK_OPEN.match(text, position):
        closed = _THINK_CLOSE.search(text, opened.end())
        if closed is None:
            return None
        position = closed.end()
    answer = text[position:]
    first_line = answer.lstrip().partition("\n")[0]
    if _THOUGHT.match(first_line) or _label(first_line)[0] or _OPENING.fullmatch(first_line):
        return answer
    return answer[_stray_end(answer) :]


def _normalised(text: str) -> str:
    """The text with LF line ends and without what neither UTF-8 nor Python source can hold."""
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    return _without_surrogates(text)


def _without_surrogates(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced: models write both as JSON escapes."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _stray_end(text: str) -> int:
    """Where the thinking before the last stray `</think>` ends, 0 without one; inside a fence it must fill a line."""
    end = start = 0
    fence: _Fence | None = None
    for line in text.split("\n"):
        rest = line
        tags = list(_THINK_CLOSE.finditer(line))
        if tags and (fence is None or line.strip() == tags[0][0]):
            end = start + tags[-1].end()
            rest = line[tags[-1].end() :]
            fence = None
        if fence is None:
            fence = _opened(rest, 0)
        elif fence.ends_at(rest):
            fence = None
        start += len(line) + 1
    return end


def _label(line: str) -> tuple[bool, bool, str]:
    """Whether the line is a label, whether it is that of code, and what of the line is left."""
    turn = _TURN_LABEL.match(line)
    if turn:
        return True, False, line[turn.end() :]
    code = _CODE_LABEL.match(line)
    if code:
        rest = line[code.end() :]
        if not rest.strip() or _OPENING.fullmatch(rest):
            return True, True, rest
    return False, False, line


def _opened(line: str, number: int) -> _Fence | None:
    """The fence that the line opens, if it opens one."""
    opening = _OPENING.fullmatch(line)
    if not opening:
        return None
    indent, ticks, info = opening.groups()
    words = info.strip().lower().lstrip("{.").replace("{", " ").rstrip("}").split()
    return _Fence(number, len(indent), len(ticks), _KINDS.get(words[0] if words else "", _Kind.OTHER))


def _scan(lines: Sequence[str]) -> tuple[list[_Section], int | None]:
    """The sections of a reply, and the line of the first `<|python_tag|>` outside fences."""
    sections = [_Section(0, is_code=False)]
    tag_line: int | None = None
    number = 0
    while number < len(lines):
        line, here = lines[number], number
        number += 1
        is_label, is_code, rest = _label(line)
        if is_label:
            sections.append(_Section(here, is_code))
        fence = _opened(rest, here)
        if fence is not None:
            sections[-1].fences.append(fence)
            number = fence.take(lines)
        elif tag_line is None and _PYTHON_TAG in rest:
            # What stands before the tag becomes the thought's last line, which must not open a fence there.
            *_, last = _label(rest.partition(_PYTHON_TAG)[0].rstrip())
            tag_line = here if _opened(last, here) is None else None
    return sections, tag_line


def _trimmed(lines: Sequence[str]) -> str:
    """The lines without blank ones at either end; indentation stays, as it is part of a program."""
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    last = next((number for number in reversed(range(len(lines))) if lines[number].strip()), first)
    return "\n".join(lines[first : last + 1])


def _tagged(lines: Sequence[str], number: int) -> Reply:
    """The reply whose code stands behind `<|python_tag|>` on the line of this number."""
    before, _, after = lines[number].partition(_PYTHON_TAG)
    thought = "\n".join([*lines[:number], before]).rstrip()
    head, _, last = thought.rpartition("\n")
    if _CODE_LABEL.fullmatch(last):
        thought = head
    rest = "\n".join([after, *lines[number + 1 :]])
    code = _trimmed(_END_OF_TURN.split(rest, maxsplit=1)[0].split("\n"))
    return Reply(thought.strip(), code, None if code else _EMPTY_BLOCK)


def _missing_code(sections: Sequence[_Section]) -> str:
    """The problem of a reply in which no fence counts."""
    fences = [fence for section in sections for fence in section.fences if fence.kind < _Kind.OTHER]
    if not fences:
        return _NO_BLOCK
    return _EMPTY_BLOCK if fences[-1].closed else _CUT_OFF


@contextmanager
def quiet_parsing() -> Iterator[None]:
    """Keeps the parser's warnings of what a model wrote (odd escapes) off the user's terminal; keep the block short.

    Warning filters belong to the process, so two threads that change and restore them at once would leave them
    changed: one at a time.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parse_literal(code: str) -> dict[str, JsonValue]:
    """Reads ONE dict literal without evaluating anything.

    Python's spelling and JSON's (`true`, `false`, `null`) are both taken, also mixed. Tuples and sets become lists in
    the order in which they are written; number keys become text; of a key written twice the last value counts.

    Raises:
        ReplyError: anything else, including names, calls, non-finite numbers, and nesting or sizes out of bounds.
    """
    if len(code) > MAX_LITERAL_CHARACTERS:
        raise ReplyError(f"The dict has {len(code)} characters; write at most {MAX_LITERAL_CHARACTERS}.")
    try:
        with quiet_parsing():
            tree = ast.parse(_normalised(code).strip(), mode="eval").body
        value = _literal(tree)
    except SyntaxError as error:
        raise ReplyError(f"The code is not one Python dict literal: {error.msg} (line {error.lineno}).") from error
    except (RecursionError, MemoryError, SystemError) as error:
        raise ReplyError("The dict is nested too deeply; write it flat.") from error
    if not isinstance(value, dict):
        raise ReplyError(f"The code must be one Python dict literal, not {_described(tree)}.")
    return value


def _literal(node: ast.expr) -> JsonValue:
    """The value of a literal's syntax tree."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _without_surrogates(node.value)
    match node:
        case ast.Dict():
            return {_key(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
        case ast.List() | ast.Tuple() | ast.Set():
            return [_literal(item) for item in node.elts]
        case ast.Name(id="true" | "false" | "null" as name):
            return {"true": True, "false": False, "null": None}[name]
        case ast.Constant(value=None | bool() as value):
            return value
    number = _number(node)
    if number is None:
        raise ReplyError(
            f"The dict may only hold literals (text, numbers, True, False, None, lists, dicts), "
            f"not {_described(node)}."
        )
    return number


def _number(node: ast.expr) -> int | float | None:
    """The finite number that the tree spells, with its sign; None when it spells none."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            number = -value
        case ast.UnaryOp(op=ast.UAdd(), operand=ast.Constant(value=int() | float() as value)):
            number = value
        case ast.Constant(value=int() | float() as value):
            number = value
        case _:
            return None
    if isinstance(number, int) and number.bit_length() > _MAX_NUMBER_BITS:
        raise ReplyError("The dict holds a number of too many digits; write it as text.")
    if isinstance(number, float) and not math.isfinite(number):
        raise ReplyError("The dict holds a number that is not finite; write it as text.")
    return number


def _key(node: ast.expr | None) -> str:
    """The text of a dict's key; None stands for `**mapping`."""
    key = _literal(node) if node is not None else None
    if isinstance(key, str):
        return key
    if node is not None and isinstance(key, int | float) and not isinstance(key, bool):
        return str(key)
    raise ReplyError("The keys of the dict must be text in quotes.")


def _described(node: ast.expr) -> str:
    """A syntax tree in words that a model can act on."""
    if isinstance(node, ast.Name):
        return f"the name {node.id[:80]!r}"
    if isinstance(node, ast.Call):
        return "a call"
    return f"this expression: {type(node).__name__}"


def parse_plan(reply: Reply, previous_state: str) -> dict[str, JsonValue]:
    """The progress state that a plan reply gives: the keys of STATE_KEYS, each a list of texts.

    `previous_state` is the literal of the state before. A key that the plan leaves out keeps its previous value;
    other keys are dropped. Text or a number becomes a list of one, null an empty list, a dict a list of `key:
    value`; nested values become JSON text. Items are cut at MAX_ITEM_CHARACTERS and lists at MAX_LIST_CHARACTERS,
    from the end of the to-do list and the start of the others.

    Raises:
        ReplyError: the reply has a problem, its code is no dict literal, or the dict has none of the four keys.
    """
    plan = _dict_of(reply)
    if not any(key in plan for key in STATE_KEYS):
        raise ReplyError(f"The dict has none of the keys of a progress state: {', '.join(STATE_KEYS)}.")
    previous = {} if all(key in plan for key in STATE_KEYS) else parse_literal(previous_state)
    return bounded_state(plan, previous)


def bounded_state(plan: Mapping[str, JsonValue], previous_state: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The progress state that a plan's dict gives, see `parse_plan`; its literal can always be read again."""
    return {key: _bounded(key, _texts(plan.get(key, previous_state.get(key)))) for key in STATE_KEYS}


def parse_end(reply: Reply) -> EndResult:
    """The final result that an end reply gives; numbers become text, a list a comma-separated one, null nothing.

    Raises:
        ReplyError: the reply has a problem, its code is no dict literal, or `output` is missing or no plain value.
    """
    result = _dict_of(reply)
    if "output" not in result:
        raise ReplyError('The dict needs the key "output" (and "log"): {"output": "...", "log": "..."}.')
    output = result["output"]
    parts = output if isinstance(output, list) else [output]
    if any(isinstance(part, list | dict) for part in parts):
        raise ReplyError('The value of "output" must be text.')
    log = "\n".join(_texts(result.get("log")))
    return EndResult(output=", ".join(map(_text, parts)).strip(), log=log[:MAX_LOG_CHARACTERS])


def _dict_of(reply: Reply) -> dict[str, JsonValue]:
    """The dict literal that is the reply's code."""
    if reply.problem is not None:
        raise ReplyError(reply.problem)
    return parse_literal(reply.code)


def _texts(value: JsonValue) -> list[str]:
    """A value of a progress state as a list of texts, without blank ones."""
    if isinstance(value, dict):
        texts = [f"{key}: {_text(item)}" for key, item in value.items()]
    elif isinstance(value, list):
        texts = [_text(item) for item in value]
    else:
        texts = [_text(value)]
    return [text.strip() for text in texts if text.strip()]


def _text(value: JsonValue) -> str:
    """A value as text: itself, or the JSON of what is nested."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _bounded(key: str, texts: Sequence[str]) -> list[JsonValue]:
    """The items of a state's list that fit; what is done first or learnt last is kept."""
    newest_last = key != "todo_list"
    kept: list[JsonValue] = []
    room = MAX_LIST_CHARACTERS
    for text in reversed(texts) if newest_last else texts:
        item = text if len(text) <= MAX_ITEM_CHARACTERS else text[: MAX_ITEM_CHARACTERS - 1] + "…"
        room -= len(repr(item)) + len(", ")  # as a state is written, in which some characters take ten
        if room < 0:
            break
        kept.append(item)
    return kept[::-1] if newest_last else kept
