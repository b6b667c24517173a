"""The examples fit the program: a service manager and a container runtime would find what they name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from runtime.cli import exits
from runtime.config.loading import load_settings
from runtime.config.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "examples"
UNIT = (EXAMPLES / "cso.service").read_text(encoding="utf-8")
IMAGE = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture
def service() -> dict[str, str]:
    parser = RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # names are told apart by case
    parser.read_string(UNIT)
    return dict(parser["Service"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "cso.service"
    # The program is not where the unit has it; everything else is checked as it stands.
    unit.write_text(UNIT.replace("/opt/cso/bin/cso", sys.executable).replace("User=cso\nGroup=cso\n", ""))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in checked.stderr.splitlines() if "cso.service" in line] == []
    assert checked.returncode == 0


def test_the_unit_goes_by_the_programs_exit_codes_and_grace(service: dict[str, str]) -> None:
    assert service["RestartPreventExitStatus"] == str(exits.EXIT_USAGE)
    assert service["SuccessExitStatus"] == "143"
    assert (service["Type"], service["Restart"]) == ("notify", "on-failure")
    assert float(service["TimeoutStopSec"]) > Settings().run.stop_grace + 10
    assert int(service["WatchdogSec"]) > 0


def test_variables_and_paths_of_the_examples_are_settings_in_what_the_service_may_write(
    service: dict[str, str],
) -> None:
    of_unit = dict(pair.split("=") for pair in service["Environment"].split())
    of_image = dict(re.findall(r"(CSO_\w+)=(\S+)", IMAGE.partition("USER")[0]))
    for environ in (of_unit, of_image):
        settings = load_settings(None, environ, {}).settings
        assert str(settings.run.data).startswith("/var/lib/cso/")
        assert settings.queue.spool.startswith("/var/lib/cso/")
    assert service["StateDirectory"] == "cso"


def test_the_image_runs_as_an_ordinary_user_and_stops_in_stages() -> None:
    instructions = re.findall(r"^([A-Z]+) +(.*)$", IMAGE, re.MULTILINE)
    last = dict(instructions)
    assert last["USER"] not in ("root", "0")
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["VOLUME"] == "/var/lib/cso"
    assert last["ENTRYPOINT"].startswith("[")
    assert last["CMD"].startswith('["serve"')
    assert f"127.0.0.1:{Settings().api.port}/healthz" in IMAGE
