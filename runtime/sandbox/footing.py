"""As whom code runs on this machine, and with which interpreter.

A privileged daemon runs each execution under a user id of its own, which then must be able to reach the interpreter
and the workspace. Any other daemon runs code as its own user.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError, InfrastructureError
from runtime.logs import get_logger

_log = get_logger("sandbox")

# CHOWN, DAC_OVERRIDE, KILL, SETGID and SETUID.
_CAPABILITIES = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7
# Ids that systemd's list of uid ranges calls unused; then, for containers that know 65,536 ids only, high ones.
_RANGES = (range(1_900_000_000, 1_900_065_536), range(32_768, 60_416))
_OTHER_PYTHONS = (Path("/usr/local/bin/python3"), Path("/usr/bin/python3"))


@dataclass(frozen=True, slots=True)
class Footing:
    """The interpreter that runs code, and the user ids it may run under, None for the daemon's own."""

    python: Path
    uids: range | None

    def reaches(self, path: Path) -> bool:
        """Whether code can get as far as the folder that a path is in."""
        return self.uids is None or closed_folder(path) is None

    def check_workspace(self, workspace: Path) -> None:
        """Make sure that code can reach a folder by its path.

        Raises:
            ConfigError: it cannot; the message says what to do.
        """
        if not self.reaches(workspace):
            closed = closed_folder(workspace)
            raise ConfigError(
                f"code runs as a user of its own and cannot reach {workspace}, because {closed} is closed to other "
                f"users: choose a data directory elsewhere, or let others pass (chmod o+x {closed})"
            )


def code_uids() -> range | None:
    """The user ids under which code runs here, None for the daemon's own."""
    return _own_uids() if _privileged() else None


def find_footing(python: Path | None = None) -> Footing:
    """As whom, and with which interpreter, code can run here.

    Raises:
        ConfigError: no interpreter can be reached by the users that code would run as.
    """
    uids = code_uids()
    own = Path(sys.executable)
    if python is not None or uids is None:
        return Footing(python or own, uids)
    for candidate in (own, *_OTHER_PYTHONS):
        if candidate.exists() and _open_to_others(candidate):
            if candidate != own:
                _log.warning(
                    "code runs with another Python: other users cannot reach ours",
                    python=str(candidate),
                    ours=str(own),
                )
            return Footing(candidate, uids)
    raise ConfigError(
        f"code runs as a user of its own and cannot reach the interpreter {own}: install Python where all users can "
        "read it (/usr/bin/python3), or run as an ordinary user"
    )


def no_workspace(workspace: Path, error: OSError) -> InfrastructureError:
    """What to raise where a workspace cannot be found."""
    return InfrastructureError(f"there is no workspace {workspace}: {error}")


def closed_folder(path: Path) -> Path | None:
    """The outermost folder above a path that other users cannot pass, None if they can."""
    names = os.path.abspath(path).split(os.sep)[1:-1]  # noqa: PTH100, PTH206 - for each execution, and pathlib is slow
    folder = os.sep
    for name in ("", *names):
        folder = os.path.join(folder, name)  # noqa: PTH118 - as above
        if not os.stat(folder).st_mode & stat.S_IXOTH:  # noqa: PTH116 - as above
            return Path(folder)
    return None


def _open_to_others(python: Path) -> bool:
    wanted = [python, python.resolve()]
    if python == Path(sys.executable):
        wanted.append(Path(sysconfig.get_path("stdlib")))
    return all(closed_folder(path) is None and path.stat().st_mode & stat.S_IROTH for path in wanted)


def _privileged() -> bool:
    if os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective.split()[1], 16) & _CAPABILITIES == _CAPABILITIES


def _own_uids() -> range | None:
    for wanted in _RANGES:
        if _mapped(wanted, "/proc/self/uid_map") and _mapped(wanted, "/proc/self/gid_map"):
            return wanted
    return None


def _mapped(wanted: range, table: str) -> bool:
    """Whether this user namespace knows all the ids."""
    for line in Path(table).read_text().splitlines():
        first, _outside, count = map(int, line.split())
        if first <= wanted.start and wanted.stop <= first + count:
            return True
    return False
