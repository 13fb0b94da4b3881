"""Whatever stands in a file, its reader reads it or says one sentence: no traceback, no hang, bounded memory, nothing written elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.robustness.bounded import BoundedProcess, Outcome
from tests.robustness.mutations import PLACES, damage
from tests.robustness.readers import ROOT, all_readers

from xmsim.configs.errors import ConfigError, printable
from xmsim.configs.schema import Config, read_config

pytest.importorskip("torch")  # unfinished prunings hold its tensors

READERS = all_readers()
EXAMPLES = int(os.environ.get("XMSIM_FUZZ_EXAMPLES", "150"))
ARCHIVE = ROOT / "tests" / "golden" / "bad_input"
ARCHIVED = sorted(path.name for path in ARCHIVE.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def process() -> Iterator[BoundedProcess]:
    with BoundedProcess() as running:
        yield running


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a valid input of each reader."""
    folders = {name: tmp_path_factory.mktemp("valid") for name in READERS}
    for name, reader in READERS.items():
        reader.prepare(folders[name])
    return folders


def test_valid_inputs_are_read(process: BoundedProcess, valid: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in valid.items():
        assert process.outcome(name, Path(shutil.copytree(folder, tmp_path / name / "input"))) == Outcome("read"), name


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 1000, suppress_health_check=list(HealthCheck), database=None)
@given(name=st.sampled_from(sorted(READERS)), seed=st.integers(0, 2**62), which=st.integers(0, 99))
def test_a_damaged_file_is_read_or_refused(process: BoundedProcess, valid: dict[str, Path], name: str, seed: int, which: int) -> None:
    files = READERS[name].files
    with tempfile.TemporaryDirectory() as scratch:
        case = Path(shutil.copytree(valid[name], Path(scratch) / "input"))
        damage(case / files[which % len(files)], Random(seed))
        outcome = process.outcome(name, case)
    assert outcome.kind != "fault", outcome.text


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_read_or_refused(process: BoundedProcess, valid: dict[str, Path], tmp_path: Path, place: str) -> None:
    for name, reader in READERS.items():
        for number, file in enumerate(reader.files):
            case = Path(shutil.copytree(valid[name], tmp_path / name / str(number) / "input"))
            PLACES[place](case / file)
            outcome = process.outcome(name, case)
            assert outcome.kind != "fault", f"{name}, {file}: {outcome.text}"


@pytest.mark.parametrize("name", ARCHIVED)
def test_what_once_failed_is_read_or_refused(process: BoundedProcess, valid: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A folder of the archive holds the files that differ from a valid input, and in its name the reader."""
    reader = next(known for known in sorted(READERS, key=len, reverse=True) if name.startswith(known.replace(" ", "_").replace(":", "")))
    case = Path(shutil.copytree(valid[reader], tmp_path / "input"))
    shutil.copytree(ARCHIVE / name, case, dirs_exist_ok=True)
    outcome = process.outcome(reader, case)
    assert outcome.kind != "fault", outcome.text


def test_the_archive_says_what_each_input_broke() -> None:
    text = (ARCHIVE / "README.md").read_text(encoding="utf-8")
    assert ARCHIVED and all(f"`{name}`" in text for name in ARCHIVED)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('"\\ud800"', "my.yaml:1:6: holds half of a surrogate pair"),
        ("0o" + 5000 * "7", "my.yaml:1:1: key: input should be a finite number"),
        ("&a [*a, *a]", "my.yaml:1:6: anchors and aliases are not read here"),
        ("[" * 40, "my.yaml:1:35: nested too deeply"),
        ("x" * 2**18, "my.yaml: cannot be read (262149 bytes are more than the 262144"),
    ],
)
def test_a_configuration_is_refused_at_its_place(tmp_path: Path, value: str, sentence: str) -> None:
    class Numbers(Config):
        key: float

    path = tmp_path / "my.yaml"
    path.write_text(f"key: {value}")
    with pytest.raises(ConfigError) as refused:
        read_config(path, Numbers)
    assert sentence in str(refused.value)


def test_what_a_terminal_sees_holds_no_control_signs_and_is_not_endless() -> None:
    assert printable("a\x1b[2Jb\ud800\nc") == "a\\x1b[2Jb\\ud800\nc"
    assert len(printable("x" * 10**6)) < 1100


def test_a_traversing_layer_name_is_never_made() -> None:
    """File names of a trace come from numbers and hashes, never from text of its manifest."""
    from xmsim.traces.manifest import layer_file_name, mask_file_name, weights_file_name

    for file in (layer_file_name(7), weights_file_name(7), mask_file_name(7, {"method": "../../outside", "/": "/"})):
        assert Path(file).name == file


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    from xmsim.configs.files import write_text

    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f".result.json.{os.getpid()}.tmp").symlink_to(outside)
    (folder / "result.json").symlink_to(outside)
    write_text(folder / "result.json", "new")
    assert outside.read_text() == "mine" and (folder / "result.json").read_text() == "new"
