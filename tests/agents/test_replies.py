"""The reply format against what models write: fences, thinking, labels, garbage, and literals that are attacks."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.agents.main.replies import (
    MAX_ITEM_CHARACTERS,
    MAX_LIST_CHARACTERS,
    MAX_LITERAL_CHARACTERS,
    MAX_REPLY_CHARACTERS,
    STATE_KEYS,
    EndResult,
    Reply,
    ReplyError,
    parse_end,
    parse_literal,
    parse_plan,
    parse_reply,
    render_reply,
    without_thinking,
)
from runtime.errors import CsoError
from store.jsontypes import JsonValue


def fenced(code: str, label: str = "python", ticks: str = "```") -> str:
    return f"{ticks}{label}\n{code}\n{ticks}"


def test_the_canonical_form_is_read_and_written() -> None:
    text = "Thought: I add.\nAll of it.\nCode:\n```python\nprint(1 + 1)\n```"
    reply = parse_reply(text)
    assert reply == Reply("I add.\nAll of it.", "print(1 + 1)", None)
    assert render_reply(reply.thought, reply.code) == text


@pytest.mark.parametrize(
    "label", ["py", "python", "Python3", "", " python ", "python title=a.py", "{.python}", "tool_code"]
)
def test_fence_labels_of_python_are_taken(label: str) -> None:
    assert parse_reply(f"Thought: t\nCode:\n{fenced('x = 1', label)}").code == "x = 1"


@pytest.mark.parametrize("label", ["bash", "text", "output", "markdown", "html", "pycon"])
def test_fences_of_other_languages_are_not_code(label: str) -> None:
    reply = parse_reply(f"Thought: t\nCode:\n{fenced('x = 1', label)}")
    assert reply.code == ""
    assert reply.problem is not None
    assert "```python" in reply.problem


def test_python_goes_before_unlabelled_and_unlabelled_before_json() -> None:
    json_block, plain, python = fenced('{"a": 1}', "json"), fenced("plain", ""), fenced("python")
    assert parse_reply(f"Code:\n{json_block}\n{plain}\n{python}").code == "python"
    assert parse_reply(f"Code:\n{json_block}\n{plain}").code == "plain"
    assert parse_reply(f"Code:\n{json_block}").code == '{"a": 1}'


def test_cells_of_one_program_are_joined_in_order() -> None:
    text = f"Thought: t\nCode:\n{fenced('a = 1')}\nThen I print it.\n{fenced('print(a)')}"
    assert parse_reply(text) == Reply("t", "a = 1\n\nprint(a)")


def test_a_draft_before_the_code_label_belongs_to_the_thought() -> None:
    draft = fenced("draft()")
    reply = parse_reply(f"Thought: perhaps\n{draft}\nno, better:\nCode:\n{fenced('final()')}")
    assert reply == Reply(f"perhaps\n{draft}\nno, better:", "final()")


def test_steps_invented_after_the_code_are_dropped() -> None:
    text = (
        f"Thought: look\nCode:\n{fenced('look()')}\nObservation of step 3:\nfound 42\n"
        f"Thought: done\nCode:\n{fenced('stop(42)')}"
    )
    assert parse_reply(text) == Reply("look", "look()")


def test_an_invented_step_that_was_cut_off_does_not_spoil_the_real_one() -> None:
    text = f"Thought: look\nCode:\n{fenced('look()')}\nObservation: 42\nThought: done\nCode:\n```python\nstop("
    assert parse_reply(text) == Reply("look", "look()")


def test_expected_output_that_was_cut_off_does_not_spoil_the_code() -> None:
    assert parse_reply(f"Thought: t\nCode:\n{fenced('f()')}\nOutput:\n```\n42").code == "f()"


def test_a_stray_fence_after_the_code_is_ignored() -> None:
    assert parse_reply(f"Thought: t\nCode:\n{fenced('f()')}\n```").code == "f()"


def test_blocks_without_any_label_are_code() -> None:
    assert parse_reply(f"I will do this.\n{fenced('f()')}\nThat is all.") == Reply("I will do this.", "f()")


@pytest.mark.parametrize("label", ["Code:", "code :", "**Code:**", "**Code**:", "### Code:", "CODE:  "])
def test_spellings_of_the_code_label_are_taken(label: str) -> None:
    assert parse_reply(f"Thought: t\n{label}\n{fenced('f()')}") == Reply("t", "f()")


@pytest.mark.parametrize("label", ["Thought:", "thought :", "**Thought:**", "**Thought**:", "## Thought:"])
def test_spellings_of_the_thought_label_are_taken(label: str) -> None:
    assert parse_reply(f"{label} t\nCode:\n{fenced('f()')}") == Reply("t", "f()")


def test_a_fence_may_open_right_behind_the_label() -> None:
    assert parse_reply("Thought: t\nCode: ```python\nf()\n```") == Reply("t", "f()")
    assert parse_reply("Thought: ```python\nf()\n```") == Reply("", "f()")


def test_code_mentioned_in_a_thought_is_no_label() -> None:
    reply = parse_reply(f"Thought: the postal\nCode: 1234 is wrong\nCode:\n{fenced('f()')}")
    assert reply == Reply("the postal\nCode: 1234 is wrong", "f()")


def test_an_empty_code_section_is_part_of_the_thought() -> None:
    reply = parse_reply(f"Thought: a\nCode:\nThought: b\nCode:\n{fenced('f()')}")
    assert reply == Reply("a\nCode:\nThought: b", "f()")


def test_an_indented_fence_loses_its_indentation_from_each_line() -> None:
    assert parse_reply("1. so:\n   ```python\n   if x:\n       y()\n z()\n   ```").code == "if x:\n    y()\nz()"


def test_four_spaces_or_a_tab_open_no_fence() -> None:
    assert parse_reply("Code:\n    ```python\n    f()\n    ```").problem is not None
    assert parse_reply("Code:\n\t```python\n\tf()\n\t```").problem is not None


def test_a_longer_fence_holds_shorter_ones() -> None:
    code = 'md = """\n```\ntext\n```\n"""'
    text = f"Thought: t\nCode:\n{fenced(code, ticks='````')}"
    assert parse_reply(text) == Reply("t", code)
    assert render_reply("t", code) == text


def test_a_shorter_line_of_backticks_does_not_close_a_fence() -> None:
    assert parse_reply("Code:\n`````python\na\n````\nb\n``````  \n").code == "a\n````\nb"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        (" \n\t\r\n\0", "empty"),
        ("Thought:", "empty"),
        ("Thought: I do not know.", "no code block"),
        ("Thought: t\nCode:\nprint(1)", "no code block"),
        ('Thought: t\nCode:\n{"output": "1"}', "no code block"),
        ("Thought: t\nCode:\n```python\n\n  \n```", "is empty"),
        ("Thought: t\nCode:\n```python\nprint(1", "not closed"),
        ("Thought: t\nCode:\n```python", "not closed"),
        ("Thought: t\nCode:\n```python\na\n```\n```python\nb", "not closed"),
        ("Thought: t\nCode:\n```python\nprint(1)```", "not closed"),
        ("<think>I wonder\n```python\nf()\n```", "thinking"),
        ("<|python_tag|>", "is empty"),
        ("```" * 1000, "not closed"),
        ("}{][`\x00\x1b[31m\ud800 %s", "no code block"),
    ],
)
def test_a_reply_without_usable_code_says_what_is_wrong(text: str, word: str) -> None:
    reply = parse_reply(text)
    assert reply.code == ""
    assert reply.problem is not None
    assert word in reply.problem


def test_the_thought_of_a_reply_with_a_problem_is_kept() -> None:
    assert parse_reply("Thought: because\nCode:\n```python\nprint(").thought == "because"
    assert parse_reply("Thought: because").thought == "because"


@pytest.mark.parametrize(
    "thinking",
    [
        "<think>hm</think>",
        "<think>\n\n</think>\n\n",
        "<THINK>hm</THINK>\n",
        "<thinking>hm</thinking>\n",
        "<think>a</think>\n<think>b</think>",
        f"<think>\nThought: x\nCode:\n{fenced('wrong()')}\n</think>\n",
        "so I add</think>",
        f"maybe\n{fenced('wrong()')}\nyes.\n</think>\n\n",
        "maybe\n```python\nwrong(\n</think>\n\n",
        "one </think> two </think>\n",
        "<think>a</think> b </think>\n",
    ],
)
def test_thinking_is_no_part_of_the_reply(thinking: str) -> None:
    assert parse_reply(f"{thinking}Thought: t\nCode:\n{fenced('f()')}") == Reply("t", "f()")


@pytest.mark.parametrize("code", ["re.sub('<think>.*</think>', '', s)", "x = '''\n</think>\n'''", "# <|python_tag|>"])
def test_code_may_mention_the_marks_of_thinking_and_tools(code: str) -> None:
    assert parse_reply(f"Thought: t\nCode:\n{fenced(code)}").code == code
    assert parse_reply(f"<think>a</think>Code:\n{fenced(code)}").code == code


def test_a_tag_inside_a_line_of_fenced_code_ends_no_thinking() -> None:
    code = "s.split('</think>')"
    assert parse_reply(f"I cut it.\n{fenced(code)}") == Reply("I cut it.", code)


def test_code_behind_the_python_tag_is_taken_where_no_block_is() -> None:
    assert parse_reply("<|python_tag|>f()\ng()<|eom_id|>rest") == Reply("", "f()\ng()")
    assert parse_reply("Thought: t\nCode:\n<|python_tag|>\nf()") == Reply("t", "f()")
    assert parse_reply("Thought: t\nCode: <|python_tag|>f()") == Reply("t", "f()")
    assert parse_reply(f"<|python_tag|>\n{fenced('f()')}").code == "f()"


def test_line_ends_nul_bytes_and_surrogates_are_made_harmless() -> None:
    reply = parse_reply("Thought: a\0b\r\nCode:\r\n```python\r\nx = 1\ry = '\ud83d\ude00\ud800'\r\n```\r\n")
    assert reply == Reply("ab", "x = 1\ny = '\U0001f600\ufffd'")


def test_only_line_feeds_end_lines() -> None:
    code = "x = 'a\x0cb\x1cc\x85d\u2028```\u2028e'\n\tif_tab()"
    assert parse_reply(f"Thought: t\nCode:\n{fenced(code)}").code == code


def test_indentation_of_the_first_line_is_kept() -> None:
    assert parse_reply(f"Code:\n{fenced(chr(10) + '    f()' + chr(10) * 2)}").code == "    f()"


HUGE = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "`" * HUGE,
        "`" * HUGE + "x`",
        "```\n" * (HUGE // 4),
        "<think></think>" * (HUGE // 15),
        "x</think>\n" * (HUGE // 10),
        "<think>" * (HUGE // 7),
        "Code:\n" * (HUGE // 6),
        "Code:" + " " * HUGE + "x",
        "#" * HUGE,
        " " * HUGE + "x",
        "Thought:" * (HUGE // 8),
        "Observation\n" * (HUGE // 12),
        "*" * HUGE,
        "<|python_tag|>" * (HUGE // 14),
        "Code:\n```python\nx\n```\n" * (HUGE // 22),
    ],
)
def test_huge_replies_of_any_shape_are_read(text: str) -> None:
    # Each shape aims at one pass or pattern: were it quadratic, this would take hours.
    reply = parse_reply(text)
    assert (reply.problem is None) == (reply.code != "")


def test_a_huge_program_survives_the_round_trip() -> None:
    code = "\n".join(f"x{number} = '{'`' * (number % 7)}'" for number in range(50_000))
    assert parse_reply(render_reply("big", code)) == Reply("big", code)


LABELS = ["Thought:", "thought: ", "**Thought:** ", "Thought: Thought:", "Code:", "Code: ", "**Code**:", "### Code:"]
TURNS = ["Observation of step 2:", "Observation:", "<think>", "</think>", "<|python_tag|>", "<|eom_id|>"]
FENCES = [
    "```",
    "```python",
    "```py",
    "```json",
    "```bash",
    "````",
    "`````python",
    "   ```python",
    "  ```",
    "    ```",
]
ODDITIES = [
    "\t```",
    "```x`",
    "# ```",
    " ",
    "\t",
    "\x0c",
    "\x85",
    "\u2028",
    "\r",
    "\0",
    "\ufeff",
    "\ud83d",
    "\ude00",
    "",
]
WORDS = ["x = 1", "    y = 2", "{'a': 1}", "text", "** bold **", "#"]
PIECES = st.sampled_from(LABELS + TURNS + FENCES + ODDITIES + WORDS)
LINES = st.lists(PIECES, max_size=3).map("".join) | st.text(max_size=12)
REPLIES = st.lists(LINES, max_size=14).map("\n".join) | st.text()


@settings(max_examples=1_000, deadline=None)
@example("```<|python_tag|>```")
@example("Code:```<|python_tag|>print('`')")
@given(REPLIES)
def test_what_was_read_is_rendered_and_read_again_exactly(text: str) -> None:
    reply = parse_reply(text)
    assert (reply.problem is None) == (reply.code != "")
    if reply.problem is None:
        rendered = render_reply(reply.thought, reply.code)
        again = parse_reply(rendered)
        assert again == reply
        assert render_reply(again.thought, again.code) == rendered


@settings(max_examples=500, deadline=None)
@given(st.text(), LINES)
def test_replies_never_raise_and_hold_only_what_can_be_stored(text: str, more: str) -> None:
    reply = parse_reply(text + more)
    assert "\0" not in reply.thought + reply.code
    assert "\r" not in reply.thought + reply.code
    (reply.thought + reply.code).encode()


def test_literals_are_taken_in_either_spelling() -> None:
    code = "{'a': [1, -2.5, (True, None)], \"b\": {\"c\": true, 'd': null, 'e': false}, 'f': 'x' 'y', 3: {'z', 'y'}}"
    assert parse_literal(code) == {
        "a": [1, -2.5, [True, None]],
        "b": {"c": True, "d": None, "e": False},
        "f": "xy",
        "3": ["z", "y"],
    }


def test_comments_indentation_and_odd_escapes_do_no_harm() -> None:
    assert parse_literal("\n  {  # the plan\n 'a': '\\d',  # why\n   }\n") == {"a": "\\d"}


def test_surrogate_escapes_of_json_become_characters() -> None:
    assert parse_literal('{"a": "\\ud83d\\ude00 \\ud83d"}') == {"a": "\U0001f600 \ufffd"}


def test_the_last_of_duplicated_keys_counts() -> None:
    assert parse_literal("{'a': 1, 'a': 2}") == {"a": 2}


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('touch /tmp/owned')",
        "{'a': __import__('os').system('touch /tmp/owned')}",
        "{__import__('os'): 1}",
        "{**{'a': 1}}",
        "{'a': f'{1}'}",
        "{'a': [x for x in (1,)]}",
        "{'a': (lambda: 1)()}",
        "{'a': 'x' * 1000000000}",
        "{'a': 9 ** 9 ** 9}",
        "{'a': 1 + 2j}",
        "{'a': b'bytes'}",
        "{'a': ...}",
        "{'a': nan}",
        "{'a': NaN}",
        "{'a': 1e999}",
        "{'a': -1e999}",
        f"{{'a': 0x{'f' * 1000}}}",
        f"{{'a': {'9' * 5000}}}",
        "{1: 2, None: 3}",
        "{True: 1}",
        "{(1, 2): 3}",
        "{'a'}",
        "['a']",
        "'a'",
        "",
        "{'a': 1} {'b': 2}",
        "{'a': 1}\n\n{'b': 2}",
        "state = {'a': 1}",
        "{'a': ",
        "{'a': " + "[" * 10_000 + "]" * 10_000 + "}",
        "{'a': " + "-" * 50_000 + "1}",
        "{'a': " + "1+" * 40_000 + "1}",
        "{'a': x" + ".y" * 40_000 + "}",
        "{'a':" * 10_000 + "1" + "}" * 10_000,
        "{'a': '" + "x" * 10_000_000 + "'}",
    ],
)
def test_what_is_no_dict_literal_is_refused_with_a_message(code: str) -> None:
    with pytest.raises(ReplyError) as caught:
        parse_literal(code)
    assert isinstance(caught.value, CsoError)
    assert isinstance(caught.value, ValueError)
    assert 10 < len(str(caught.value)) < 500


def test_the_longest_literal_is_still_read() -> None:
    text = "x" * (MAX_LITERAL_CHARACTERS - len("{'a': ''}"))
    assert parse_literal(f"{{'a': '{text}'}}") == {"a": text}


def plan(code: str, previous: dict[str, JsonValue] | None = None) -> dict[str, JsonValue]:
    return parse_plan(Reply("t", code), repr(previous or {}))


def test_a_plan_has_four_lists_of_texts() -> None:
    state = plan("{'todo_list': ['a', ' b ', '', None, 3], 'experience': 'once', 'information': {'k': [1]}, 'x': 1}")
    assert state == {
        "completed_list": [],
        "todo_list": ["a", "b", "3"],
        "experience": ["once"],
        "information": ["k: [1]"],
    }
    assert tuple(state) == STATE_KEYS


def test_a_key_that_the_plan_leaves_out_keeps_its_value() -> None:
    previous: dict[str, JsonValue] = {"completed_list": ["old"], "information": ["known"], "more": ["dropped"]}
    state = plan("{'information': []}", previous)
    assert state == {"completed_list": ["old"], "todo_list": [], "experience": [], "information": []}


def test_a_state_rendered_as_a_literal_is_read_back_unchanged() -> None:
    state = plan(
        "{'completed_list': ['it\\'s', '\"q\"'], 'todo_list': ['a\\nb'], 'experience': [], 'information': ['é']}"
    )
    assert plan(repr(state)) == state


def test_what_a_plan_may_grow_to_is_bounded() -> None:
    long, many = "x" * 10_000, [f"note {number}" for number in range(2_000)]
    state = plan(repr({"experience": [long], "completed_list": many, "todo_list": many}))
    assert state["experience"] == ["x" * (MAX_ITEM_CHARACTERS - 1) + "…"]
    completed, todo = state["completed_list"], state["todo_list"]
    assert isinstance(completed, list)
    assert isinstance(todo, list)
    assert completed[-1] == "note 1999"
    assert todo[0] == "note 0"
    assert len(str(completed)) <= MAX_LIST_CHARACTERS + 2
    assert len(str(todo)) <= MAX_LIST_CHARACTERS + 2


@pytest.mark.parametrize("code", ["{}", "{'steps': []}", "print(1)"])
def test_a_plan_without_the_keys_of_a_state_is_refused(code: str) -> None:
    with pytest.raises(ReplyError):
        plan(code)


def test_a_reply_with_a_problem_is_neither_a_plan_nor_an_end() -> None:
    reply = parse_reply("no code here")
    with pytest.raises(ReplyError, match="no code block"):
        parse_plan(reply, "{}")
    with pytest.raises(ReplyError, match="no code block"):
        parse_end(reply)


@pytest.mark.parametrize(
    ("code", "output", "log"),
    [
        ("{'output': '42', 'log': 'counted'}", "42", "counted"),
        ('{"output": "yes", "log": null}', "yes", ""),
        ("{'output': 17}", "17", ""),
        ("{'output': 0.5, 'log': ['a', 'b']}", "0.5", "a\nb"),
        ("{'output': ['a', 2]}", "a, 2", ""),
        ("{'output': None}", "", ""),
        ("{'output': ' padded ', 'log': {'k': 'v'}}", "padded", "k: v"),
        ("{'output': 123456789012345678901234567890}", "123456789012345678901234567890", ""),
    ],
)
def test_the_end_gives_output_and_log(code: str, output: str, log: str) -> None:
    assert parse_end(Reply("t", code)) == EndResult(output, log)


@pytest.mark.parametrize("code", ["{'log': 'x'}", "{'output': {'a': 1}}", "{'output': [[1]]}", "stop('a', 'b')"])
def test_an_end_without_a_plain_output_is_refused(code: str) -> None:
    with pytest.raises(ReplyError):
        parse_end(Reply("t", code))


def test_a_reply_that_is_far_too_long_is_not_read() -> None:
    text = "Thought: x\n" * 100_000
    assert len(text) > MAX_REPLY_CHARACTERS
    assert "more than 1000000 characters" in (parse_reply(text).problem or "")
    assert without_thinking(text) is None
