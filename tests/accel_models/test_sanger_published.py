import csv
from pathlib import Path

import pytest

from xmsim.accel_models.sanger import published_model_v1, published_model_v2

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(("model", "file"), [(published_model_v1, "sanger_v1.csv"), (published_model_v2, "sanger_v2.csv")])
def test_published_models_equal_the_authors_on_their_grid(model, file):
    with (GOLDEN / file).open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 144
    for row in rows:
        seconds = model(float(row["sparsity"]), float(row["load_balance"]), int(row["seq_len"]))
        assert seconds == pytest.approx(float(row["latency_s"]), rel=1e-12, abs=0)


def test_doubling_the_load_balance_halves_all_but_the_projections_of_the_first_model():
    projections = published_model_v1(1e-12, 1.0, 512)
    assert published_model_v1(0.1, 1.0, 512) - projections == pytest.approx((published_model_v1(0.1, 0.5, 512) - projections) / 2)
