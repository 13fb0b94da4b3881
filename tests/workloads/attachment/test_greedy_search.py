"""Greedy activation sparsities of a whole model: found block by block, kept, gone on with, and used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xmsim.configs.errors import RecordError, XmsimError
from xmsim.reference.activations import effective_sparsity, tail_error
from xmsim.workloads.attachment.activation_sparsity import attach_activation_sparsity
from xmsim.workloads.attachment.greedy_record import GreedyRecord, read_greedy
from xmsim.workloads.attachment.greedy_search import block_prefixes, search_greedy_sparsities
from xmsim.workloads.extraction.activation_histograms import activation_histograms, activation_thresholds
from xmsim.workloads.extraction.extract import run_layers
from xmsim.workloads.models.loading import LoadedModel, ModelError, load_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
WINDOWS = (tuple(range(3, 35)), tuple(range(90, 120)))
SIZES = {f"self_attn.{name}_proj": size for name, size in (("q", 1024), ("k", 512), ("v", 512), ("o", 1024))} | {
    f"mlp.{name}_proj": 1536 for name in ("gate", "up", "down")
}


@pytest.fixture(scope="module")
def loaded(small_llama: Path) -> LoadedModel:
    return load_model(str(small_llama))


@pytest.fixture(scope="module")
def histograms(loaded: LoadedModel) -> Mapping[str, Any]:
    return activation_histograms(loaded, WINDOWS)


def search(loaded: LoadedModel, histograms: Mapping[str, Any], file: Path, **changed: Any) -> GreedyRecord:
    options = {"until": 0.3, "scoring": "teal", "policy": "first_half_dense", "step": 0.4} | changed
    return search_greedy_sparsities(loaded, WINDOWS, lambda shares: activation_thresholds(histograms, shares), file=file, **options)


def test_every_block_reaches_the_target(loaded: LoadedModel, histograms, tmp_path: Path):
    record = search(loaded, histograms, tmp_path / "greedy.json")
    assert read_greedy(tmp_path / "greedy.json") == record and [path.name for path in tmp_path.iterdir()] == ["greedy.json"]
    assert [block.prefix for block in record.blocks] == [f"model.layers.{at}." for at in range(4)]
    for block in record.blocks:
        last = block.steps[-1]
        assert last.effective_sparsity >= 0.3 > block.steps[-2].effective_sparsity
        assert last.effective_sparsity == pytest.approx(effective_sparsity(last.sparsities, SIZES))
        assert last.sparsities.keys() == SIZES.keys()
    shares = record.sparsities(0.3)
    assert len(shares) == 28 and shares["model.layers.2.mlp.up_proj"] in [step.sparsities["mlp.up_proj"] for step in record.blocks[2].steps]


def test_the_first_step_is_the_projection_that_moves_the_blocks_output_least(loaded: LoadedModel, histograms, tmp_path: Path):
    prefix = "model.layers.2."

    def output(shares: dict[str, float]) -> list[Any]:
        seen: list[Any] = []
        handle = loaded.model.get_submodule("model.layers.2").register_forward_hook(lambda _, args, given: seen.append(given))
        thresholds = activation_thresholds(histograms, {prefix + name: share for name, share in shares.items()})
        with torch.inference_mode(), attach_activation_sparsity(loaded, thresholds):
            for window in WINDOWS:
                run_layers(loaded.model, [window])
        handle.remove()
        return seen

    dense, errors = output(dict.fromkeys(SIZES, 0.0)), {}
    for name, size in SIZES.items():
        alone = output({name: 0.4 * SIZES["self_attn.q_proj"] / size})
        errors[name] = sum(tail_error(own, its) for own, its in zip(alone, dense, strict=True)) / len(WINDOWS)
    first = search(loaded, histograms, tmp_path / "greedy.json", until=0.05).blocks[2].steps[0]
    (raised,) = (name for name, share in first.sparsities.items() if share)
    assert raised == min(errors, key=errors.__getitem__) and first.error == pytest.approx(errors[raised], rel=1e-4)


def test_an_interrupted_search_goes_on_and_ends_as_it_would_have(loaded: LoadedModel, histograms, tmp_path: Path):
    def stop(done: int, blocks: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    whole = search(loaded, histograms, tmp_path / "whole.json")
    with pytest.raises(KeyboardInterrupt):
        search(loaded, histograms, tmp_path / "greedy.json", progress=stop)
    assert not (tmp_path / "greedy.json").exists() and len(read_greedy(tmp_path / "greedy.json.part").blocks) == 2
    with pytest.raises(XmsimError, match=r"greedy\.json\.part: holds an unfinished search of another model, text or choice"):
        search(loaded, histograms, tmp_path / "greedy.json", until=0.4)
    seen: list[int] = []
    assert search(loaded, histograms, tmp_path / "greedy.json", progress=lambda done, blocks: seen.append(done)) == whole
    assert seen == [3, 4] and not (tmp_path / "greedy.json.part").exists()


def test_nothing_of_the_search_is_left_in_the_model(loaded: LoadedModel, histograms, tmp_path: Path):
    search(loaded, histograms, tmp_path / "greedy.json", until=0.05)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_a_target_beyond_the_search_is_refused(loaded: LoadedModel, histograms, tmp_path: Path):
    record = search(loaded, histograms, tmp_path / "greedy.json", until=0.05)
    with pytest.raises(XmsimError, match=r"they reach 0\.05, 0\.5 was asked for; give --greedy a new file"):
        record.sparsities(0.5)


def test_a_file_that_is_no_greedy_record_is_refused(tmp_path: Path):
    (tmp_path / "greedy.json").write_text('{"format": "xmsim.evaluation", "version": 1}')
    with pytest.raises(RecordError, match=r"a xmsim\.greedy file is needed here"):
        read_greedy(tmp_path / "greedy.json")


def test_a_model_without_a_list_of_blocks_is_refused(loaded: LoadedModel):
    class Flat(torch.nn.Module):
        config = loaded.model.config

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

    with pytest.raises(ModelError, match="llama: a model of this family has no list of blocks to search; use uniform"):
        block_prefixes(Flat())
