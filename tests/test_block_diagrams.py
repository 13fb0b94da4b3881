"""The block diagrams of the machines show the stages that their Schedules have, and the pages show the diagrams."""

from __future__ import annotations

import numpy as np
import pytest
from tests.test_readme import ROOT, script

from xmsim.accel_models import load_accelerator
from xmsim.workloads.attention import AttentionWorkload

DIAGRAMS = script("make_block_diagrams").DIAGRAMS


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_has_every_stage_of_its_machine_and_no_other(name: str) -> None:
    keep = np.tri(64, dtype=bool)[None]
    schedule = load_accelerator(name).schedule(AttentionWorkload.from_keep(keep, head_dim=64))
    assert {stage for box in DIAGRAMS[name](name).boxes for stage in box.stages} == {stage.name for stage in schedule.stages}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_page_shows_the_diagram(name: str) -> None:
    assert (ROOT / "docs" / "figures" / "machines" / f"{name}.png").is_file()
    assert any(f"figures/machines/{name}.png" in page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "machines").glob("*.md"))
