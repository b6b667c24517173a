"""A guarded daemon's environment is out of reach of its code, also where both are the same user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio

DAEMON = """
import os, sys
from pathlib import Path
import anyio
from runtime.sandbox import Limits, ProcessSandbox, guard_own_process

guard_own_process()

CODE = f'''
import os, subprocess
for name in ("environ", "mem", "maps"):
    try:
        print(open("/proc/{os.getpid()}/" + name, "rb").read(10))
    except OSError as error:
        print(type(error).__name__)
'''

async def main() -> None:
    async with ProcessSandbox() as sandbox:
        execution = await sandbox.run(CODE, workspace=Path(sys.argv[1]), tools={}, limits=Limits())
        print(execution.output, execution.error, file=sys.stderr)

anyio.run(main)
"""


async def test_code_cannot_read_the_memory_or_environment_of_a_guarded_daemon(workspace: Path) -> None:
    daemon = await anyio.run_process(
        [sys.executable, "-c", DAEMON, str(workspace)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OPENAI_API_KEY": "sk-secret"},
    )
    assert daemon.stderr.decode() == "PermissionError\nPermissionError\nPermissionError\n None\n"
