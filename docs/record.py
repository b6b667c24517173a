"""Makes docs/demo.svg from a real run: `.venv/bin/python docs/record.py`."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 108
PICTURE = Path(__file__).with_name("demo.svg")
_MOVES = re.compile(r"(?:\x1b\[\d*[AK])+")
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    """Run the demo on a terminal of its own and keep what stands at its end."""
    with tempfile.TemporaryDirectory() as folder:
        program = [str(Path(sys.executable).with_name("cso")), "demo"]
        progress, result = record(program, Path(folder))
    text = Text("$ cso demo\n", style="bold")
    for part in (progress, "\n", result):
        text.append_text(Text.from_ansi(part))
        text.append("\n")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text)
    svg = console.export_svg(title="cso demo")
    # The picture is to need nothing from elsewhere: any fixed-width font will do.
    PICTURE.write_text(
        _WEB_FONTS.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"), encoding="utf-8"
    )


def record(program: list[str], folder: Path) -> tuple[str, str]:
    """The last state of the progress display, and the table that ends the output."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    with subprocess.Popen(program, cwd=folder, stdout=theirs, stderr=theirs, env=environment) as process:  # noqa: S603
        os.close(theirs)
        output = b""
        while chunk := _read(ours):
            output += chunk
        if process.wait() != 0:
            raise SystemExit(f"the demo ended with status {process.returncode}")
    # Each redraw of the bars goes back up over the last one; here it begins a line instead.
    lines = _MOVES.sub("\n", output.decode().replace("\r", "")).splitlines()
    bars = [line for line in lines if "━" in line][-5:]
    table = next(number for number, line in enumerate(lines) if "tasks" in line and "finished" in line)
    return "\n".join(bars), "\n".join(lines[table:])


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux tells that the other side of a terminal is closed
        return b""


if __name__ == "__main__":
    main()
