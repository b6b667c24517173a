"""Every setting of the runtime, section by section, with default, range and reason.

This file is the one source: `config.toml`, `cso init`, `cso config`, the error messages and a run's identity
are all derived from it. Times are in seconds. Built objects are frozen and valid.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runtime.config.endpoints import Models, variable_name
from runtime.config.fields import fixed, free
from runtime.config.money import Budget, Price
from runtime.config.section import Section, conflict

PRESETS: Mapping[str, Mapping[str, float]] = {
    "default": {"good_min": 0.6, "bad_max": 0.5},
    "paper": {"good_min": 0.65, "bad_max": 0.45},
}


def _not_blank(value: object) -> object:
    # Path("") is the current directory, which nobody means by an empty value.
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is empty")
    return value


def _home_expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("its home directory is unknown") from error


def _address(text: str) -> str:
    try:
        return text if text == "localhost" else str(ip_address(text))
    except ValueError:
        # The library's own message repeats the value.
        raise ValueError("it is neither an IP address nor localhost") from None


FilePath = Annotated[Path, Field(strict=False), BeforeValidator(_not_blank), AfterValidator(_home_expanded)]
Folder = Annotated[str, AfterValidator(lambda text: str(_home_expanded(Path(text))) if text.strip() else "")]
Address = Annotated[str, AfterValidator(_address)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Module = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
NAME_RULE = "1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit"


class Run(Section):
    """The run: what it is called, where its data lies, how much it does."""

    name: Name = free(
        "default", "Name of the run; the same name and data go on where they stopped.", allowed=NAME_RULE
    )
    data: FilePath = free(
        Path("cso-data"),
        "Folder of the database and its files; a relative one is below where the command is typed.",
        allowed="a path",
    )
    trajectories: int = fixed(1, "Trajectories collected for each task.", ge=1, le=1000)
    rollouts: int = free(16, "Rollouts that run at the same time, branches included.", ge=1, le=4096)
    seed: int = fixed(1377, "Seed from which each call's seed is derived; 0 sends none.", ge=0, le=2**31 - 1)
    stop_grace: float = free(120.0, "Seconds that a stop waits for replies that are being paid for.", ge=0, le=86400)


class Agent(Section):
    """The agent that the policy drives."""

    name: Name = fixed("main", "Agent to run, by its entry-point name.", allowed=NAME_RULE)
    max_steps: int = fixed(12, "Steps before a trajectory is stopped.", ge=1, le=1000)
    recent_steps: int = fixed(5, "Latest steps shown in full in a prompt.", ge=1, le=1000)
    observation_chars: int = fixed(8192, "Characters kept of one observation.", ge=64, le=1_000_000)
    time_limit: float = fixed(4200.0, "Seconds before a trajectory is stopped between two steps.", ge=1, le=604800)
    step_deadline: float = free(
        3600.0,
        "Seconds for one step, or for scoring it, waits and retries included; then it is tried again.",
        ge=0.1,
        le=604800,
    )
    prompts: dict[Module, FilePath] = fixed(
        {},
        'Own prompt files by module, { plan = "plan.txt" }; relative to this file.',
        allowed="a table of module name = path",
    )


class Sandbox(Section):
    """Limits on the process that runs action code."""

    timeout: float = fixed(200.0, "Seconds that the code of one step may run.", ge=0.1, le=86400)
    memory_mb: int = fixed(2048, "Memory of one process, in MiB.", ge=64, le=1_048_576)
    output_bytes: int = fixed(65536, "Bytes of output kept from one step.", ge=1024, le=67_108_864)
    file_mb: int = fixed(256, "Largest file that code may write, in MiB.", ge=1, le=1_048_576)
    processes: int = fixed(64, "Processes that code may have at once.", ge=1, le=4096)
    open_files: int = fixed(256, "Files that one process may hold open.", ge=16, le=65536)


class Search(Section):
    """The web search offered to action code."""

    backend: Name = fixed("none", 'Search backend by its name; "none" offers no search.', allowed=NAME_RULE)
    limit: int = fixed(7, "Results given for one search.", ge=1, le=100)


class Resample(Section):
    """Scoring the policy's actions and asking for alternatives."""

    alternatives: int = fixed(5, "Alternatives asked of the expert at a step that scored low.", ge=1, le=64)
    phase: Literal["action"] = fixed("action", "Which of a step's replies is resampled.")
    recent_steps: int = fixed(3, "Latest steps that the PRM sees before the candidate.", ge=1, le=1000)
    score_attempts: int = fixed(3, "Times the PRM is asked before a candidate stays unscored.", ge=1, le=20)
    workers: int = free(4, "Trajectories resampled at the same time.", ge=1, le=1024)


class Critical(Section):
    """When a step is a candidate critical step; a threshold left out takes the preset's value."""

    preset: Literal["default", "paper"] = free(
        "default", "Named thresholds (paper: 0.65 and 0.45); delete the two lines below to use them."
    )
    good_min: float = fixed(0.6, "An alternative is good when it scores above this.", ge=0, le=1)
    bad_max: float = fixed(0.5, "The policy's action is bad when it scores below this.", ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset")
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values

    @model_validator(mode="after")
    def _good_is_above_bad(self) -> Self:
        if self.bad_max > self.good_min:
            raise conflict("bad_max", "good_min", "must not be above")
        return self


class Verify(Section):
    """Branching from candidate critical steps."""

    rollouts: int = fixed(1, "Branches run for each good alternative.", ge=1, le=1000)
    controls: int = fixed(0, "Re-rolls of each step with the policy's own action, for comparison.", ge=0, le=1000)
    first_success: bool = fixed(True, "Stop at a step's first alternative that leads to success.")
    margin: float = fixed(0.0, "How far an alternative's success rate must exceed the controls' rate.", ge=0, le=1)

    @model_validator(mode="after")
    def _margin_has_controls(self) -> Self:
        if self.margin > 0 and not self.controls:
            raise conflict("margin", "controls", "above 0 needs at least one of")
        return self


class Judge(Section):
    """How an answer becomes a success or a failure."""

    method: Literal["exact", "model"] = fixed("exact", "Compare with the reference answer, or ask the judge model.")


class Bus(Section):
    """Delivery of events to handlers."""

    attempts: int = free(12, "Deliveries of an event before it is set aside.", ge=1, le=100)
    delay: float = free(1.0, "Seconds before the first repeat; grows with each one.", ge=0, le=3600)
    max_delay: float = free(300.0, "Longest wait between two deliveries, in seconds.", ge=0, le=86400)
    max_time: float = free(
        21_600.0, "Seconds from the first failure to the last repeat, all waits included.", ge=0, le=31_536_000
    )
    queue: int = free(256, "Events waiting in memory for each handler; the rest wait on disk.", ge=1, le=100_000)

    @model_validator(mode="after")
    def _delay_fits(self) -> Self:
        if self.delay > self.max_delay:
            raise conflict("delay", "max_delay", "must not be longer than")
        return self


class Queue(Section):
    """How tasks come to a daemon, besides `cso submit`."""

    spool: Folder = free(
        "",
        "Folder whose *.jsonl task files are taken up; relative as run.data. Move finished files in. Empty: none.",
        allowed="a path or empty",
    )


class Api(Section):
    """The daemon's HTTP API."""

    host: Address = free(
        "127.0.0.1", "Address to listen on; any that others can reach needs a token.", allowed="an IP address"
    )
    port: int = free(8377, "Port to listen on; 0 takes any free one.", ge=0, le=65535)
    token_env: Annotated[str, AfterValidator(variable_name)] = free(
        "CSO_API_TOKEN",
        "Environment variable that holds the token; where it is set, requests must carry it.",
        allowed="the name of an environment variable, in capitals",
    )
    max_body_mb: int = free(64, "Largest request body, in MiB; a task's file must fit, too.", ge=1, le=1024)


class Workspace(Section):
    """Limits on the files that a trajectory may keep."""

    max_files: int = fixed(10_000, "Files, links and empty folders in one workspace.", ge=1, le=10_000_000)
    max_mb: int = fixed(1024, "Size of one workspace, in MiB.", ge=1, le=1_048_576)


class Log(Section):
    """The program's own log on standard error, and the log of events in DIR/log/events.jsonl."""

    level: Literal["debug", "info", "warning", "error"] = free("info", "Least severe level that is logged.")
    events_mb: int = free(64, "Size at which the file of events is put aside and begun anew, in MiB.", ge=1, le=65536)
    events_kept: int = free(5, "Older files of events to keep; the database keeps all events.", ge=1, le=100_000)


class Settings(Section):
    """The whole configuration; `Settings()` is the documented default."""

    run: Run = Run()
    models: Models = Models()
    prices: dict[str, Price] = free(
        {},
        'What models cost per million tokens, as [prices."MODEL"] with prompt, completion and cached.',
        allowed='tables such as [prices."MODEL"] with prompt, completion and cached',
    )
    budget: Budget = Budget()
    agent: Agent = Agent()
    sandbox: Sandbox = Sandbox()
    search: Search = Search()
    resample: Resample = Resample()
    critical: Critical = Critical()
    verify: Verify = Verify()
    judge: Judge = Judge()
    bus: Bus = Bus()
    queue: Queue = Queue()
    api: Api = Api()
    workspace: Workspace = Workspace()
    log: Log = Log()
