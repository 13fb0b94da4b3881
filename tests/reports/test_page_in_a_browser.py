"""The page as a reader uses it: opened in a headless browser, clicked, and asked what shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from xmsim.reports.compare import compare
from xmsim.workloads.measuring.host_check_record import write_cross_check

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")

ASK = """
<script>
addEventListener("load", () => setTimeout(async () => {
  const shown = (part) => part.checkVisibility(), wait = () => new Promise((done) => setTimeout(done, 50)), said = {};
  said.verdict = document.querySelector(".verdict").getBoundingClientRect().bottom;
  const energy = [...document.querySelectorAll("td a")].find((link) => link.hash.endsWith("on-chip"));
  const derivation = document.querySelector(energy.hash), unit = derivation.querySelector("details"), rows = unit.querySelector("tbody tr");
  said.folded = !shown(rows);
  energy.click(); await wait();
  said.opened = derivation.open && document.activeElement === derivation.querySelector("summary");
  unit.querySelector("summary").click(); await wait();
  said.source = shown(rows) && rows.textContent;
  const head = [...document.querySelectorAll("th button")].find((button) => button.textContent === "time, ms");
  const column = head.closest("th").cellIndex, body = head.closest("table").tBodies[0];
  const times = () => [...body.rows].map((row) => Number(row.cells[column].dataset.value));
  head.click(); said.up = times(); said.sort = head.closest("th").getAttribute("aria-sort");
  head.click(); said.down = times();
  const layers = [...document.querySelectorAll("details")].find((part) => part.firstElementChild.textContent.endsWith(": layers"));
  layers.firstElementChild.click();
  const units = [...layers.querySelectorAll("details")].find((part) => part.textContent.includes("Energy of each layer by unit"));
  units.firstElementChild.click(); await wait();
  said.unit = shown(units.querySelector("tbody tr")) && units.querySelector("thead").textContent;
  said.sections = [...document.querySelectorAll("nav a")].every((link) => document.querySelector(link.hash));
  said.errors = document.querySelector("#section-predicted-against-measured ~ figure svg") !== null;
  said.overflow = document.documentElement.scrollWidth - innerWidth;
  said.keyboard = [...document.querySelectorAll("a, button, summary, [tabindex]")].every((part) => part.tabIndex === 0);
  said.asked = performance.getEntriesByType("resource").length;
  said.paper = getComputedStyle(document.body).backgroundColor;
  document.documentElement.dataset.said = JSON.stringify(said);
}, 50));
</script>
"""


def answers(page, folder, *options):
    asking = folder / "asking.html"
    asking.write_text(page.read_text().replace("</body>", f"{ASK}</body>"))
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    shown = subprocess.run([*command, *options, "--dump-dom", asking.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'data-said="([^"]*)"', shown.stdout)
    assert found, shown.stderr[-2000:]
    return json.loads(found[1].replace("&quot;", '"'))


@pytest.fixture(scope="module")
def page(tmp_path_factory, write_simulated, write_measured, estimated, predicted, made_up_models):
    folder = tmp_path_factory.mktemp("inputs")
    files = [
        write_simulated(folder / "s.json", costs=estimated()),
        write_simulated(folder / "d.json", machine="dense", method="dense", head_cycles=9000, costs=estimated(chip_uj=9.0)),
        write_simulated(folder / "l.json", machine="dynax_l", head_cycles=900, costs=estimated(area_mm2=8.0)),
        write_measured(folder / "cpu.json"),
        write_simulated(folder / "s.decode.json", decoded=(198, 199)),
        write_measured(folder / "cpu.decode.json", decoded=(198, 199)),
        folder / "cross_check.json",
    ]
    write_cross_check(files[-1], predicted())
    return compare(files, folder / "report", made_up_models).report


def test_from_an_energy_to_the_rows_of_the_tables_are_two_clicks(page, tmp_path):
    said = answers(page, tmp_path, "--window-size=1280,900")
    assert said["folded"] and said["opened"]
    assert "shared row" in said["source"] and "a made-up table" in said["source"]
    assert said["up"] == sorted(said["up"]) and said["down"] == said["up"][::-1] and said["sort"] == "ascending"
    assert said["keyboard"] and said["asked"] == 0


def test_a_layer_opens_the_energy_of_its_units_and_every_section_is_there(page, tmp_path):
    said = answers(page, tmp_path, "--window-size=1280,900")
    assert "execute array" in said["unit"] and "dram" in said["unit"]
    assert said["sections"] and said["errors"]


def test_the_answers_stand_on_the_first_screen(page, tmp_path):
    assert 0 < answers(page, tmp_path, "--window-size=1280,900")["verdict"] <= 800


def test_a_narrow_page_scrolls_inside_its_tables_only(page, tmp_path):
    assert answers(page, tmp_path, "--window-size=500,900")["overflow"] <= 0


def test_a_reader_who_prefers_dark_gets_a_dark_page(page, tmp_path):
    assert answers(page, tmp_path, "--window-size=900,900", "--blink-settings=preferredColorScheme=0")["paper"] == "rgb(20, 20, 20)"
    assert answers(page, tmp_path, "--window-size=900,900", "--blink-settings=preferredColorScheme=1")["paper"] == "rgb(255, 255, 255)"
