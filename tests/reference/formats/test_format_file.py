"""Packed weights on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from xmsim.configs.errors import RecordError
from xmsim.reference.formats import FORMATS, read_format, write_format


def weight(seed=0):
    dense = np.zeros((40, 24), np.float32)
    dense[:, ::2] = np.random.default_rng(seed).standard_normal((40, 12))
    return dense


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("array", [weight(), torch.from_numpy(weight()).bfloat16()], ids=["numpy", "torch"])
def test_every_format_comes_back_under_its_name(path, array):
    packed = {f"layers.0/{name}": kind.from_dense(array) for name, kind in FORMATS.items()}
    write_format(path, packed)
    for name, matrix in read_format(path).items():
        assert type(matrix) is type(packed[name])
        assert matrix.nbytes == packed[name].nbytes
        back = matrix.to_dense()
        assert torch.equal(back, array) if isinstance(array, torch.Tensor) else np.array_equal(back, array)
    assert list(read_format(path)) == list(packed)


def test_float16_comes_back(path):
    write_format(path, {"w": FORMATS["macko"].from_dense(weight().astype(np.float16))})
    assert np.array_equal(read_format(path)["w"].to_dense(), weight().astype(np.float16))


def test_the_file_says_what_it_is(path):
    write_format(path, {"w": FORMATS["spdp"].from_dense(weight())})
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["version"]) == ("xmsim.weights", "1")
    assert json.loads(metadata["facts"])["w"] == {"format": "spdp", "as_tensor": False, "shape": [40, 24], "element": "float32"}


def rewrite(path, change_metadata=lambda metadata: None, change_tensors=lambda tensors: None):
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    change_metadata(metadata)
    change_tensors(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": "2"}, "version 2 of xmsim.weights is newer than this xmsim reads .1.; upgrade xmsim"),
        ({"version": "0"}, "the file has no version"),
        ({"version": "new"}, "not a whole safetensors file of ours"),
        ({"format": "xmsim.histograms"}, "this is a xmsim.histograms file, a xmsim.weights file is needed here"),
        ({"format": "pt"}, "not written by xmsim"),
        ({"facts": "{"}, "was it truncated or edited"),
        ({"facts": "[]"}, "its facts are no mapping"),
        ({"facts": '{"w": 3}'}, "the file is damaged"),
        ({"facts": '{"w": {"format": "tcbme"}}'}, "no format tcbme; did you mean tcabme"),
        ({"facts": '{"w": {"format": "tcabme", "shape": [40], "element": "float32", "as_tensor": false}}'}, "the file is damaged"),
        ({"facts": '{"w": {"format": "tcabme", "shape": [400, 24], "element": "float32", "as_tensor": false}}'}, "bitmap: .* belongs"),
        ({"facts": '{"w": {"format": "bitmap", "shape": [40, 24], "element": "float32", "as_tensor": false}}'}, "the file is damaged"),
        ({"facts": '{"other": {"format": "tcabme", "shape": [40, 24], "element": "float32", "as_tensor": false}}'}, "missing"),
    ],
)
def test_an_edited_header_is_answered_with_one_sentence(path, change, sentence):
    write_format(path, {"w": FORMATS["tcabme"].from_dense(weight())})
    rewrite(path, lambda metadata: metadata.update(change))
    with pytest.raises(RecordError, match=sentence) as error:
        read_format(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "packed"])  # which holds every element, and nothing to follow
def test_damaged_parts_are_refused_before_anything_follows_them(path, name):
    write_format(path, {"w": FORMATS[name].from_dense(weight())})

    def fill(tensors):
        for key in tensors:
            if key.rpartition("/")[2] in ("bitmap", "places", "deltas"):
                tensors[key] = np.full_like(tensors[key], np.iinfo(tensors[key].dtype).max)

    rewrite(path, change_tensors=fill)
    with pytest.raises(RecordError, match=r"w: .*damaged"):
        read_format(path)


def test_a_truncated_a_missing_and_a_foreign_file_are_answered_with_one_sentence(path, tmp_path):
    write_format(path, {"w": FORMATS["tcabme"].from_dense(weight())})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordError, match="was it truncated or edited"):
        read_format(path)
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="was it truncated or edited"):
        read_format(path)
    with pytest.raises(RecordError, match=r"cannot be read .No such file"):
        read_format(tmp_path / "nothing")
    with pytest.raises(RecordError, match=r"cannot be read .Is a directory"):
        read_format(tmp_path)
    save_file({"w": weight()}, path)
    with pytest.raises(RecordError, match="not written by xmsim"):
        read_format(path)
