"""Task files as users have them: good lines, each kind of bad line, duplicates, odd encodings, real data sets."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from store.errors import StoreError, TaskFileError
from store.formats.task_files import MAX_LINE_BYTES, Problem, TaskRecord, read_tasks
from store.jsontypes import JsonValue

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes the lines, objects as JSON, to a task file."""

    def _write(*lines: object, name: str = "tasks.jsonl") -> Path:
        path = tmp_path / name
        encoded = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        path.write_bytes(b"\n".join(encoded) + b"\n")
        return path

    return _write


def only(path: Path) -> TaskRecord:
    """The one task of a file without problems."""
    found = read_tasks(path, strict=True)
    assert len(found.tasks) == 1
    return found.tasks[0]


def reason(path: Path) -> str:
    """The reason for which the file's one line is no good."""
    found = read_tasks(path)
    assert [problem.line for problem in found.problems] == [1]
    return found.problems[0].reason


def test_a_plain_record_becomes_a_task(write: Writer) -> None:
    record: dict[str, JsonValue] = {"id": "a", "question": "1+1?", "answer": "2", "level": 3}
    assert only(write(record)) == TaskRecord("a", "1+1?", "2", None, record)


@pytest.mark.parametrize("name", ["question", "task", "query", "ques", "instruction"])
@pytest.mark.parametrize("spelling", [str, str.capitalize])
def test_each_name_of_the_question_is_known(write: Writer, name: str, spelling: Callable[[str], str]) -> None:
    assert only(write({spelling(name): "why?", "answer": "so"})).question == "why?"


@pytest.mark.parametrize("name", ["answer", "Answer", "Final answer", "true_answer", "ground_truth"])
def test_each_name_of_the_answer_is_known(write: Writer, name: str) -> None:
    assert only(write({"question": "why?", name: "so"})).answer == "so"


def test_fields_are_read_inside_info_and_then_in_the_record(write: Writer) -> None:
    record = {"id": 7, "question": "outer", "answer": "outer", "info": {"query": "inner", "Final answer": "9"}}
    task = only(write(record))
    assert (task.name, task.question, task.answer) == ("7", "inner", "9")
    assert task.original == record


def test_an_info_that_is_no_object_is_left_alone(write: Writer) -> None:
    assert only(write({"question": "q", "answer": "a", "info": "see page 3"})).question == "q"


def test_a_question_goes_before_a_task_that_is_a_number(write: Writer) -> None:
    assert only(write({"task": 12, "task_id": 5, "question": "q", "true_answer": "a"})).name == "5"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (17, "17"),
        (0.5, "0.5"),
        (-3, "-3"),
        (["a", 2, "c d"], "a, 2, c d"),
        (["only"], "only"),
        (" kept ", " kept "),
        ("0", "0"),
        (0, "0"),
    ],
)
def test_answers_become_text(write: Writer, answer: object, text: str) -> None:
    assert only(write({"question": "q", "answer": answer})).answer == text


@pytest.mark.parametrize("answer", [None, "", "  ", [], [None]])
def test_a_task_without_an_answer_is_taken_and_reported(write: Writer, answer: object) -> None:
    path = write({"question": "q", "answer": answer})
    found = read_tasks(path)
    assert [task.answer for task in found.tasks] == [None]
    assert found.problems == (
        Problem(path, 1, "it has no answer, so attempts at it cannot be judged", skipped=False),
    )
    with pytest.raises(TaskFileError, match="no answer"):
        read_tasks(path, strict=True)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"{not json}", "not JSON"),
        (b'{"question": "q"', "not JSON"),
        (b"plain words", "not JSON"),
        (b"3", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        ({"answer": "a"}, "no question"),
        ({"question": None}, "no question"),
        ({"question": 3}, "question is not text"),
        ({"question": ["q"]}, "question is not text"),
        ({"question": " \n"}, "question is empty"),
        ({"question": "a\0b"}, "NUL character"),
        ({"question": "q", "answer": "a\0b"}, "NUL character"),
        (b'{"question": "q", "answer": NaN}', "NaN"),
        (b'{"question": "q", "answer": -Infinity}', "-Infinity"),
        (b'{"question": "q", "answer": 1e999}', "too large"),
        (b'{"question": "q", "answer": 99999999999999999999}', "too large"),
        (b'{"question": "q", "answer": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"question": "q", "question": "r"}', "'question' twice"),
        (b'{"question": "q", "info": {"a": 1, "b": 1, "b": 2}}', "'b' twice"),
        (b'{"question": "q\0"}', "NUL byte"),
        (b'{"question": "\xff"}', "not UTF-8"),
        (b'{"question": "\\ud800"}', "surrogate"),
        (b'{"question": "q", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"question": "q", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b'{"question": "' + b"q" * MAX_LINE_BYTES + b'"}', "more than"),
        ({"question": "q", "answer": True}, "boolean"),
        ({"question": "q", "answer": {"a": 1}}, "neither text nor a number"),
        ({"question": "q", "answer": [["a"]]}, "neither text nor a number"),
        ({"question": "q", "answer": ["1,000"]}, "comma"),
        ({"question": "q", "id": 1.5}, "id is neither"),
        ({"question": "q", "id": True}, "id is neither"),
        ({"question": "q", "id": " "}, "id is empty"),
        ({"question": "q", "id": "a\nb"}, "not printable"),
        ({"question": "q", "id": "a" * 201}, "over 200"),
        ({"question": "q", "file_name": "absent.csv"}, "does not exist"),
        ({"question": "q", "file_name": "."}, "is a folder"),
        ({"question": "q", "file_name": 3}, "not a path"),
        ({"question": "q", "file_name": "a\0b"}, "not a path"),
        ({"question": "q", "file_name": "x" * 5000}, "cannot be read"),
        ({"question": "q", "file_name": "/etc/hostname"}, "outside"),
        ({"question": "q", "file_name": "a/../../tasks.jsonl"}, "outside"),
    ],
)
def test_a_bad_line_is_reported_with_its_reason(write: Writer, line: object, word: str) -> None:
    assert word in reason(write(line))


def test_good_lines_are_taken_between_bad_ones(write: Writer) -> None:
    path = write({"question": "a", "answer": "1"}, b"oops", b"", {"question": "b", "answer": "2"}, {"answer": "3"})
    found = read_tasks(path)
    assert [task.question for task in found.tasks] == ["a", "b"]
    assert [(problem.line, problem.skipped) for problem in found.problems] == [(2, True), (5, True)]
    assert str(found.problems[0]).startswith(f"{path}:2: it is not JSON")


def test_strict_refuses_the_file_and_lists_every_problem(write: Writer) -> None:
    path = write({"question": "a", "answer": "1"}, b"oops", {"answer": "3"})
    with pytest.raises(TaskFileError) as caught:
        read_tasks(path, strict=True)
    assert isinstance(caught.value, StoreError)
    assert [text.split(":")[0] for text in caught.value.reasons] == ["line 2", "line 3"]
    assert "line 2: it is not JSON" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_long_list_of_problems_is_cut_in_the_message_only(write: Writer) -> None:
    with pytest.raises(TaskFileError) as caught:
        read_tasks(write(*[b"oops"] * 500), strict=True)
    assert len(caught.value.reasons) == 500
    assert len(str(caught.value).splitlines()) == 22
    assert "480 more" in str(caught.value)


@pytest.mark.parametrize("strict", [False, True])
def test_one_id_for_tasks_that_differ_is_refused_with_both_lines(write: Writer, strict: bool) -> None:
    path = write({"id": 1, "question": "a", "answer": "x"}, b"", {"task_id": "1", "question": "b", "answer": "x"})
    with pytest.raises(TaskFileError, match=r"task '1' is in line 1 and in line 3 with another question"):
        read_tasks(path, strict=strict)


def test_a_task_that_is_there_again_is_one_task(write: Writer) -> None:
    named = {"id": 1, "question": "a", "answer": "x"}
    again = {"task_id": "1", "question": "a", "answer": "x", "source": "elsewhere"}
    unnamed = {"question": "b", "answer": "y"}
    assert [task.question for task in read_tasks(write(named, unnamed, again, unnamed), strict=True).tasks] == [
        "a",
        "b",
    ]


def test_a_question_repeated_without_ids_is_taken_once(write: Writer) -> None:
    path = write({"question": "a", "answer": "x"}, {"question": "a", "answer": "y"})
    found = read_tasks(path)
    assert [task.answer for task in found.tasks] == ["x"]
    assert found.problems[0].reason == "it asks the same question as line 1, and neither has an id"


def test_names_without_ids_survive_lines_added_before_and_after(write: Writer) -> None:
    old = only(write({"question": "a", "answer": "x"}))
    new = read_tasks(write({"question": "0", "answer": "x"}, {"question": "a", "answer": "corrected"}, b""))
    assert new.tasks[1].name == old.name
    assert new.tasks[0].name != old.name


def test_byte_order_marks_blank_lines_and_line_ends_of_windows_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf\r\n\r\n{"question": "a", "answer": "1"}\r\n   \r\n{"question": "b", "answer": "2"}'
    )
    assert [task.question for task in read_tasks(path, strict=True).tasks] == ["a", "b"]


def test_the_file_of_a_task_is_found_beside_the_task_file(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a b.csv").write_text("1,2")
    task = only(write({"question": "q", "answer": "3", "file_name": "files/./a b.csv"}))
    assert task.file == tmp_path / "files" / "a b.csv"
    assert only(write({"question": "q", "answer": "3", "file_name": ""})).file is None


@pytest.mark.parametrize(
    ("content", "name", "word"),
    [
        (b"id,question\n1,why", "tasks.csv", r"\.csv file; expected JSON lines"),
        (b'[{"question": "q"}]', "tasks.json", "JSON array; expected JSON lines"),
        (b'\n  [\n{"question": "q"}]', "tasks.jsonl", "JSON array"),
        (b'{\n  "question": "q"\n}', "tasks.json", "over several lines"),
        ('{"question": "q"}'.encode("utf-16"), "tasks.jsonl", "UTF-16"),
    ],
)
def test_another_format_is_refused_with_what_is_expected(
    tmp_path: Path, content: bytes, name: str, word: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TaskFileError, match=word):
        read_tasks(path)


def test_what_cannot_be_opened_is_a_task_file_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(TaskFileError, match=str(path)):
            read_tasks(path)


def test_an_empty_file_holds_no_tasks(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"\n\n")
    assert read_tasks(path, strict=True).tasks == ()


def test_a_line_at_the_limit_is_read_and_the_line_after_a_longer_one_too(write: Writer) -> None:
    frame = len(b'{"question":"","answer":"1"}')
    at_limit = b'{"question":"' + b"q" * (MAX_LINE_BYTES - frame) + b'","answer":"1"}'
    longer = at_limit.replace(b"qq", b"qqq", 1)
    found = read_tasks(write(at_limit, longer, at_limit.replace(b"q" * 9, b"r" * 9, 1)))
    assert len(found.tasks) == 2
    assert [problem.line for problem in found.problems] == [2]


def test_the_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    with path.open("wb") as handle:
        for _ in range(60):
            handle.write(b'{"filler": "' + b"x" * 1_000_000 + b'"}\n')
        handle.write(b"y" * 40_000_000)
    tracemalloc.start()
    try:
        found = read_tasks(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.problems) == 61
    assert peak < 40_000_000


def shared(name: str) -> Path:
    """A real task file in a folder `shared/data` beside the repository or above it."""
    for folder in Path(__file__).resolve().parents:
        path = folder / "shared" / "data" / name
        if path.is_file():
            return path
    pytest.skip(f"no shared/data/{name} beside the repository")


def test_the_web_tasks_of_gaia_are_read_whole() -> None:
    found = read_tasks(shared("GAIA_web.jsonl"), strict=True)
    assert len(found.tasks) == 90
    assert found.tasks[0].name == "level1-0"
    assert found.tasks[0].answer == "17"


def test_the_tasks_of_webvoyager_are_read_without_answers() -> None:
    found = read_tasks(shared("WebVoyager_data.jsonl"))
    assert len(found.tasks) == 643
    assert {task.answer for task in found.tasks} == {None}
    assert len(found.problems) == 643
    assert not any(problem.skipped for problem in found.problems)
