"""The training script: a killed run that is started again ends with the model of a run that was never killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import xmsim.workloads.models.built_in

SCRIPT = Path(xmsim.workloads.models.built_in.FOLDER).parent / "train.py"
PLAN = {
    "tokens": 3072, "batch-tokens": 256, "short-context": 32, "context": 64, "long-share": 0.5, "sharpen-step": 5,
    "vocabulary": 300, "layers": 1, "hidden": 64, "heads": 2, "kv-heads": 1, "feed-forward": 64, "validate-steps": 4,
}  # fmt: skip


@pytest.fixture
def command(tmp_path):
    pytest.importorskip("torch", minversion="2.9")  # Muon
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "home", "again"]
    for name, shift in (("train", 0), ("valid", 5)):
        (tmp_path / f"{name}.txt").write_text(" ".join(words[(i * i + shift) % len(words)] for i in range(4000)))

    def make(name, *more):
        options = [word for key, value in PLAN.items() for word in (f"--{key}", str(value))]
        texts = ["--text", f"{tmp_path}/train.txt:2", "--valid", f"{tmp_path}/valid.txt", "--test", f"{tmp_path}/valid.txt"]
        folders = ["--work", str(tmp_path / f"{name}-work"), "--out", str(tmp_path / f"{name}-model")]
        return [sys.executable, str(SCRIPT), *texts, *folders, *options, *more]

    return make


def test_a_killed_run_ends_like_one_that_was_not_killed(command, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    killed = subprocess.Popen(command("killed", "--checkpoint-minutes", "0"), stdout=subprocess.DEVNULL, env=environment)
    checkpoint = tmp_path / "killed-work" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    subprocess.run(command("killed"), check=True, capture_output=True, env=environment)
    whole, resumed = (tmp_path / f"{name}-model" / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()
    record = json.loads((tmp_path / "killed-model" / "training.json").read_text())
    assert record["trained_tokens"] == 3072 and [point["step"] for point in record["curve"]] == [4, 8, 12]
    assert record["test"]["perplexity"] == pytest.approx(record["valid"]["perplexity"])
