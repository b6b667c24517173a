"""Output keeps the beginning and the end of what was printed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.sandbox.child.output import Output
from runtime.sandbox.report import Report


@given(st.lists(st.binary(max_size=300)), st.integers(1, 200))
def test_what_is_kept_is_the_beginning_and_the_end(pieces: list[bytes], limit: int) -> None:
    output = Output(limit)
    for piece in pieces:
        output.add(piece)
    output.close()
    whole = b"".join(pieces)
    assert output.total == len(whole)
    assert len(output.head) + len(output.tail) == min(limit, len(whole))
    assert whole.startswith(output.head)
    assert whole.endswith(output.tail)


def test_memory_is_bounded_however_much_is_printed() -> None:
    output = Output(1000)
    for _ in range(1000):
        output.add(b"x" * 65536)
        assert len(output.head) + len(output.tail) < 1000 + 3 * 65536


def test_the_marker_tells_how_many_bytes_are_missing() -> None:
    report = Report(total=10_000, head="abcä".encode()[:-1], tail="ädef".encode()[1:])
    assert report.output() == f"abc\n[{10_000 - 8} bytes left out]\ndef"


def test_output_that_is_whole_has_no_marker() -> None:
    assert Report(total=6, head=b"abc", tail=b"def").output() == "abcdef"


def test_a_report_is_read_only_once_it_is_whole() -> None:
    data = b'{"status":0,"stopped":false,"total":5,"head":3,"tail":2}\nabcde'
    assert all(Report.parse(data[:end]) is None for end in range(len(data)))
    assert Report.parse(data) == Report(status=0, total=5, head=b"abc", tail=b"de")
