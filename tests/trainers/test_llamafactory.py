"""LLaMA-Factory itself trains on what we export, as it is.

It wants an environment of its own, named by LLAMAFACTORY_PYTHON (its interpreter); without it the test is skipped.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from store.export import Pair
from store.formats.llamafactory import DATASET, FILE_NAME, write_pairs
from store.messages import Message
from store.pairs import Evidence

PYTHON = os.environ.get("LLAMAFACTORY_PYTHON")
CONFIG = """
model_name_or_path: {folder}/model
stage: dpo
do_train: true
finetuning_type: full
pref_beta: 0.5
pref_loss: sigmoid
dataset_dir: {folder}/dataset
dataset: {dataset}
template: qwen
cutoff_len: 512
output_dir: {folder}/trained
per_device_train_batch_size: 2
max_steps: 2
logging_steps: 1
report_to: none
use_cpu: true
"""


async def pairs() -> AsyncIterator[Pair]:
    for number in range(4):
        yield Pair(
            id=number,
            run="r",
            digest="d",
            task=f"task {number}",
            trajectory=f"task {number}/0",
            step=1,
            prompt=(
                Message("system", "You solve tasks with Python."),
                Message("user", f"Task: add {number} and 2"),
                Message("assistant", "Thought: look.\nCode:\n```python\nprint('looking')\n```"),
                Message("user", "Observation of step 0:\nlooking\n\nWrite the action of step 1."),
            ),
            chosen=f"Thought: add.\nCode:\n```python\nstop(str({number} + 2))\n```",
            rejected="Thought: guess.\nCode:\n```python\nstop('0')\n```",
            chosen_score=0.9,
            rejected_score=0.1,
            evidence=Evidence(successes=1, rollouts=1, control_successes=0, controls=0),
        )


@pytest.mark.skipif(PYTHON is None, reason="LLAMAFACTORY_PYTHON names no interpreter that has LLaMA-Factory")
def test_llamafactory_trains_on_the_exported_folder_as_it_is(tmp_path: Path) -> None:
    assert PYTHON is not None
    assert anyio.run(write_pairs, pairs(), tmp_path / "dataset") == 4
    # Its audio package wants a GPU build; an empty one in its place is enough for text.
    (tmp_path / "stub" / "torchaudio").mkdir(parents=True)
    (tmp_path / "stub" / "torchaudio" / "__init__.py").touch()
    (tmp_path / "train.yaml").write_text(CONFIG.format(folder=tmp_path, dataset=DATASET))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path / "stub")}
    maker = Path(__file__).with_name("tiny_model.py")
    model = [PYTHON, str(maker), str(tmp_path / "dataset" / FILE_NAME), str(tmp_path / "model")]
    subprocess.run(model, env=environment, check=True, timeout=300)
    cli = Path(PYTHON).with_name("llamafactory-cli")
    trained = subprocess.run(
        [cli, "train", str(tmp_path / "train.yaml")],
        env=environment,
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "train_loss" in trained.stdout + trained.stderr
    assert (tmp_path / "trained" / "model.safetensors").exists()
    # Turns that it cannot place are dropped with a warning, not an error.
    assert "Invalid role tag" not in trained.stderr
