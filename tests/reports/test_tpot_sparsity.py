"""Time of a decoded token against sparsity: what the figure claims, and its files."""

import csv
import io

from xmsim.reports.figures.tpot_sparsity import TokenTiming, tpot_sparsity


def row(layers, sparsity, ms, attention="sdpa"):
    return TokenTiming(layers, attention, sparsity, ms, ms - 0.1, ms + 0.1, 20)


def test_the_claim_is_the_largest_gain_over_torch_at_the_same_sparsity_and_attention():
    rows = [row("torch", 0, 10), row("torch", 0.5, 9), row("spdp", 0.5, 6), row("spdp", 0, 8), row("torch", 0.5, 5, "sdpa, CUDA graph")]
    rows.append(row("spdp", 0.5, 4, "sdpa, CUDA graph"))
    assert (
        tpot_sparsity(rows, "a model").claim
        == "The largest gain over torch's dense layers is 1.50×: spdp at 50 % sparsity, 6.00 ms a token."
    )
    slow = [row("torch", 0.5, 5), row("spdp", 0.5, 6)]
    assert tpot_sparsity(slow, "a model").claim == "No kind of layer decodes faster than torch's dense ones at any sparsity measured."
    assert "on spdp at 50 %" in tpot_sparsity([row("spdp", 0.5, 6)], "a model").claim


def test_two_kinds_of_attention_are_told_apart_by_their_lines():
    rows = [
        row(layers, sparsity, 10, attention) for layers in ("torch", "spdp") for attention in ("native", "sdpa") for sparsity in (0, 0.5)
    ]
    (axes,) = tpot_sparsity(rows, "a model").draw().axes
    lines = [one[0] for one in axes.containers]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines) == 4


def test_its_files_hold_every_row(tmp_path):
    figure = tpot_sparsity([row("torch", 0, 10), row("torch", 0.5, 9), row("spdp", 0.5, 6)], "a model")
    figure.save_png(tmp_path / "figure.png")
    figure.save_pdf(tmp_path / "figure.pdf")
    figure.save_pdf(tmp_path / "again.pdf")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "figure.pdf").read_bytes() == (tmp_path / "again.pdf").read_bytes()
    rows = list(csv.DictReader(io.StringIO(figure.csv())))
    assert [(row["layers"], row["sparsity"], row["TPOT_ms"]) for row in rows] == [
        ("spdp", "0.5", "6"),
        ("torch", "0", "10"),
        ("torch", "0.5", "9"),
    ]
