"""Checkpoints: a training goes on with exactly what was kept, or a sentence says why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from xmsim.configs.errors import XmsimError  # noqa: E402
from xmsim.workloads.tuning.checkpoint import Checkpoint, Progress  # noqa: E402

PLAN = {"model": "m", "steps": 3}
KEY = "xmsim.tuning"


def training() -> tuple[dict[str, Any], Any]:
    layer = torch.nn.Linear(4, 3)
    return dict(layer.named_parameters()), torch.optim.AdamW(layer.parameters(), lr=0.1)


def stepped() -> tuple[dict[str, Any], Any]:
    parameters, optimizer = training()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return parameters, optimizer


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The file of a training that was interrupted after its first step."""
    Checkpoint(tmp_path / "out", PLAN, Progress, name="tuning").write(*stepped(), Progress(1.0, (2.0,)))
    return tmp_path / "out.part" / "checkpoint.safetensors"


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Write the file anew after `change` was at its tensors and its header."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[KEY])
    change(tensors, header)
    save_file(tensors, path, metadata={KEY: json.dumps(header)})


def refusal(path: Path) -> str:
    with pytest.raises(XmsimError) as refused:
        Checkpoint(path.parent.with_name("out"), PLAN, Progress, name="tuning").read(*training())
    assert str(refused.value).count("\n") == 0 and str(path.parent) in str(refused.value)
    return str(refused.value)


def test_weights_and_the_optimizers_state_are_put_back(written: Path) -> None:
    parameters, optimizer = training()
    progress = Checkpoint(written.parent.with_name("out"), PLAN, Progress, name="tuning").read(parameters, optimizer)
    assert progress == Progress(1.0, (2.0,))
    state = optimizer.state[parameters["weight"]]
    assert state["step"] == 1 and torch.equal(state["exp_avg"], torch.full((3, 4), 0.1))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda tensors, header: header.pop("plan"), "plan"),
        (lambda tensors, header: header.update(plan=[1]), "no mapping"),
        (lambda tensors, header: header.pop("progress"), "progress"),
        (lambda tensors, header: header["progress"].update(losses=[]), "0 steps"),
        (lambda tensors, header: header["progress"].update(seconds=-1.0), "-1 s"),
        (lambda tensors, header: tensors.update({"weight/bias": torch.ones(1)}), "weight bias is torch.float32 (1,)"),  # would spread
        (lambda tensors, header: tensors["weight/bias"].fill_(float("nan")), "weight bias is not finite"),
        (lambda tensors, header: tensors.pop("weight/weight"), "another model, e.g. weight"),
        (lambda tensors, header: tensors.update({"optimizer/7/exp_avg": torch.ones(3)}), "other parameters"),
        (lambda tensors, header: tensors.pop("optimizer/0/exp_avg_sq"), "other parameters"),
        (lambda tensors, header: tensors.update({"optimizer/0/exp_avg": torch.ones(3, 5)}), "exp_avg of parameter 0"),
        (lambda tensors, header: tensors.update({"../outside": torch.ones(3)}), "a damaged checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(written: Path, change: Callable[..., object], fact: str) -> None:
    changed(written, change)
    assert fact in refusal(written)


def test_half_a_file_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-20])
    assert "a damaged one" in refusal(written)


def test_a_pipe_or_a_device_in_its_place_is_refused_unread(written: Path) -> None:
    for make in (lambda: os.mkfifo(written), lambda: written.symlink_to("/dev/zero")):
        written.unlink()
        make()
        with pytest.raises(XmsimError, match="is no unfinished tuning"):
            Checkpoint(written.parent.with_name("out"), PLAN, Progress, name="tuning")
