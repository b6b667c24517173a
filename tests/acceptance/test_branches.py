"""A branch starts in exactly what the policy had at its step: files, progress state and steps left."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

from runtime.agents.main.replies import parse_reply
from runtime.simulation.tasks import Kind
from runtime.simulation.world import World
from store.blobs import decode_blob
from store.database import Reader
from store.events import BranchCompleted
from store.manifests import FileEntry, LinkEntry, Manifest
from store.trajectories import Step, Trajectory, load_steps, load_trajectory
from tests.acceptance.running import Finished, finished_run
from tests.acceptance.scripted import Script, play

# Says what the working directory holds: path -> content and mode, or where a link points.
LOOK = """
import json, os
found = {}
for folder, names, files in os.walk("."):
    for name in files + [one for one in names if os.path.islink(os.path.join(folder, one))]:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            found[path[2:]] = os.readlink(path)
        else:
            found[path[2:]] = [open(path, "rb").read().hex(), os.stat(path).st_mode & 0o7777]
print(json.dumps(found, sort_keys=True))
"""
CHANGES = (
    "import os\nopen('a.txt', 'w').write('first')\nos.mkdir('sub')\nopen('sub/b', 'wb').write(bytes(range(256)))",
    "import os\nopen('a.txt', 'w').write('second')\nos.chmod('a.txt', 0o600)\nos.symlink('sub/b', 'link')",
    "import os, shutil\nshutil.rmtree('sub')\nos.unlink('link')\nopen('a.txt', 'a').write(' and third')",
    "open('late.txt', 'w').write('later')\nopen('a.txt', 'w').write('fourth')",
    "stop('wrong', '')",
)


async def branches_of(
    reader: Reader, events: list[BranchCompleted]
) -> list[tuple[Trajectory, list[Step], list[Step]]]:
    """Each branch with its steps and its parent's."""
    found = []
    for event in events:
        branch = await load_trajectory(reader, event.trajectory)
        parent = await load_trajectory(reader, event.parent)
        found.append((branch, await load_steps(reader, branch), await load_steps(reader, parent)))
    return found


async def contents(reader: Reader, manifest: int | None) -> dict[str, object]:
    """What a manifest names, in the form in which LOOK prints it."""
    assert manifest is not None
    found: dict[str, object] = {}
    for path, entry in Manifest.decode(await blob(reader, manifest)).entries.items():
        if isinstance(entry, FileEntry):
            found[path] = [(await blob(reader, entry.blob)).hex(), stat.S_IMODE(entry.mode)]
        elif isinstance(entry, LinkEntry):
            found[path] = entry.target
    return found


async def blob(reader: Reader, number: int) -> bytes:
    row = await reader.fetch_one("SELECT data FROM blobs WHERE id = ?", (number,))
    assert row is not None
    return decode_blob(row["data"])


def low_scores(*programs: str) -> Mapping[str, str]:
    return {**dict.fromkeys(programs, "Score: 0.1"), "json.dumps(found": "Score: 0.9"}


async def test_the_files_of_a_branch_are_byte_for_byte_those_that_the_policy_had(data: Path) -> None:
    script = Script(
        actions=CHANGES,
        alternatives=dict.fromkeys(range(5), (LOOK,)),
        scores=low_scores(CHANGES[1], CHANGES[2], CHANGES[3]),
    )
    played = await play(script.answer, data, changes={"resample.alternatives": 1})
    branches = [event for event in played.events if isinstance(event, BranchCompleted)]
    async with Reader(data) as reader:
        looks = [
            (steps[event.step].observation, await contents(reader, parent[event.step - 1].workspace))
            for event, (_, steps, parent) in zip(branches, await branches_of(reader, branches), strict=True)
        ]
    assert sorted(event.step for event in branches) == [1, 2, 3]
    for seen, had in looks:
        assert json.loads(seen) == had
    states = [json.loads(seen) for seen, _ in looks]
    assert sorted(sorted(state) for state in states) == [["a.txt"], ["a.txt", "link", "sub/b"], ["a.txt", "sub/b"]]


async def test_a_control_repeats_its_parent_in_every_detail(data: Path) -> None:
    """The policy is the same and so are state and files, so everything that follows must be the same too."""
    world = World.generate(7, 9)
    async with finished_run(world, data, changes={"verify.controls": 1}) as done:
        controls = [event for event in done.events if isinstance(event, BranchCompleted) and event.control]
        async with Reader(data) as reader:
            replays = await branches_of(reader, controls)
    # Advice of a model depends on its seed, which each rollout draws for itself.
    alike = [replay for replay in replays if not any("ask_llm(" in step.action for step in replay[2])]
    overwritten = {task.name for task in world.tasks if task.kind is Kind.OVERWRITTEN}
    assert overwritten & {branch.label.partition("/")[0] for branch, _, _ in alike}
    for _, steps, parent in alike:
        assert [_lasting(step) for step in steps] == [_lasting(step) for step in parent]


def _lasting(step: Step) -> tuple[object, ...]:
    """What a step comes to: all but the wording of its thought, its time and its call."""
    code = parse_reply(step.action).code
    return code, step.state, step.observation, step.workspace, step.result, step.failed


async def test_the_progress_state_of_a_branch_is_the_one_that_the_policy_chose_its_action_in(
    finished: Finished,
) -> None:
    requests = {
        (entry.headers["trajectory"], int(entry.headers["step"])): json.loads(entry.body)["messages"][-1]["content"]
        for entry in finished.requests
        if entry.headers["module"] == "action" and entry.role == "policy"
    }
    events = [event for event in finished.events if isinstance(event, BranchCompleted)]
    async with Reader(finished.data) as reader:
        branches = await branches_of(reader, events)
    assert len(branches) > 5
    for branch, steps, parent in branches:
        assert branch.fork is not None
        at = branch.fork.step
        assert steps[:at] == parent[:at]
        assert steps[at].state == parent[at].state
        shown = f"Progress state at step {at}:\n{steps[at].state}\n\nWrite the action of step {at}."
        assert requests[branch.label.partition("@")[0], at].endswith(shown)


def endless(*, bad: tuple[int, ...], failing: tuple[int, ...] = ()) -> Script:
    """A policy that never stops, whose actions at some steps look bad and at some end in an error."""
    actions = [f"print('policy {step:02}')" + ("; 1/0" if step in failing else "") for step in range(20)]
    scores = {f"policy {step:02}": "Score: 0.1" for step in bad} | {"better": "Score: 0.9"}
    return Script(actions=tuple(actions), alternatives=dict.fromkeys(bad, ("print('better')",)), scores=scores)


async def steps_of_branches(script: Script, data: Path) -> dict[int, list[int]]:
    """The steps that the branches at each step took themselves."""
    played = await play(script.answer, data, changes={"resample.alternatives": 1})
    async with Reader(played.data) as reader:
        rows = await reader.fetch(
            "SELECT t.fork, s.step FROM trajectories t JOIN steps s ON s.trajectory = t.id"
            " WHERE t.parent IS NOT NULL ORDER BY s.step"
        )
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row["fork"], []).append(row["step"])
    return found


async def test_a_branch_late_in_a_trajectory_still_gets_the_steps_that_were_left(data: Path) -> None:
    taken = await steps_of_branches(endless(bad=(0, 9, 11)), data)
    assert taken == {0: list(range(12)), 9: [9, 10, 11], 11: [11, 12]}


async def test_the_failed_steps_that_a_branch_shares_with_its_parent_are_refunded_to_it_too(data: Path) -> None:
    taken = await steps_of_branches(endless(bad=(9,), failing=(2, 3)), data)
    assert taken == {9: [9, 10, 11, 12, 13]}


async def test_in_a_world_of_long_tasks_late_branches_come_to_their_answers(data: Path) -> None:
    world = World.generate(29, 6, shortest=11, longest=12)
    late = {(task.name, step) for task in world.tasks for step in task.critical if step >= 9}
    assert len(late) == 3
    async with finished_run(world, data) as done, Reader(data) as reader:
        rows = await reader.fetch(
            "SELECT k.name, t.fork, t.stop_reason FROM trajectories t JOIN tasks k ON k.id = t.task"
            " WHERE t.parent IS NOT NULL AND t.outcome = 'success'"
        )
        assert done.summary.branches.error == 0
    flipped = {(row["name"], row["fork"]): row["stop_reason"] for row in rows}
    assert late <= flipped.keys()
    assert set(flipped.values()) == {"stopped"}
