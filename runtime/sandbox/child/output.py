"""The output of an execution: its beginning and its end, in bounded memory however much is printed."""

from __future__ import annotations


class Output:
    """Keeps at most `limit` bytes of a stream: the first half of them from its beginning, the rest from its end."""

    def __init__(self, limit: int) -> None:
        self._head_room = limit - limit // 2
        self._tail_room = limit // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take what was printed next."""
        self.total += len(data)
        room = self._head_room - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        # Cut rarely, so that a flood of small pieces costs no copy each.
        if len(self.tail) > 2 * self._tail_room + 65536:
            self._cut()

    def close(self) -> None:
        """Bring the end down to its final size."""
        self._cut()

    def _cut(self) -> None:
        del self.tail[: max(0, len(self.tail) - self._tail_room)]
