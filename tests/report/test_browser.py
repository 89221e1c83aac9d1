"""The page as a browser has it: every plot drawn, nothing over anything, at any width, on paper; nothing hostile runs."""

from __future__ import annotations

import copy
import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from halfstep.report import diagnosis_page, page

from .sample import comparison, hostile, metered
from .test_page import PAYLOADS, hostile_diagnosis

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path to open the page in"),
]


def dom(file: Path, profile: Path) -> str:
    """The document as a browser has it once its scripts have run."""
    assert BROWSER
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    )
    flags += " --disable-component-update --disable-sync --allow-file-access-from-files --virtual-time-budget=5000 --window-size=1280,3000"
    command = [BROWSER, *flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, timeout=120, check=True
    )
    return done.stdout.decode()


def pwned(document: str) -> bool:
    return re.search(r"<html[^>]*data-pwned", document) is not None


def test_in_a_browser_plots_are_drawn_and_hostile_text_does_not_run(tmp_path: Path) -> None:
    bare = tmp_path / "bare.html"
    bare.write_text(f"<!doctype html><html><body>{PAYLOADS[2]}</body></html>")
    assert pwned(dom(bare, tmp_path / "profile"))  # the check sees what does run
    compared = metered(hostile(" ".join(PAYLOADS)))
    found = hostile_diagnosis(" ".join(PAYLOADS))
    alone = dom(diagnosis_page.write(found, tmp_path / "diagnosis.html"), tmp_path / "profile")
    assert not pwned(alone)
    assert alone.count('class="main-svg"') >= 2
    document = dom(page.write(compared, tmp_path / "page.html", [found]), tmp_path / "profile")
    assert not pwned(document)
    figures = set(re.findall(r'data-figure="([\w-]+)"', document))
    assert figures == {"loss", "steps", "scale", "logged-0", "d0-gradients", "d0-activations"}
    assert document.count('class="main-svg"') >= len(figures)
    assert ">This plot could not be drawn" not in document
    assert html.escape("<script>", quote=False) in document


MEASURE = """<script>onload = () => { document.title = [...document.querySelectorAll("iframe")].map((frame) => {
  const root = frame.contentDocument.documentElement; return root.scrollWidth - root.clientWidth; }).join(" "); };</script>"""


@pytest.mark.parametrize("compared", [comparison(), metered(comparison())], ids=["plain", "metered"])
def test_no_page_is_wider_than_its_window(compared: dict[str, Any], tmp_path: Path) -> None:
    still = re.sub(r"(?s)<script.*?</script>|<meta http-equiv[^>]*>", "", page.render(compared))
    widths = (390, 760, 901, 1000, 1100, 1240, 1800)
    frames = "".join(
        f'<iframe srcdoc="{html.escape(still)}" style="width: {w}px; height: 900px"></iframe>' for w in widths
    )
    (tmp_path / "frames.html").write_text(f"<!doctype html><title>-</title>{frames}{MEASURE}")
    title = re.search("<title>(.*?)</title>", dom(tmp_path / "frames.html", tmp_path / "profile"))
    assert title is not None
    assert dict(zip(widths, title[1].split(), strict=True)) == dict.fromkeys(widths, "0")


NAMES = ["fp32", "bf16", "fp16", "bf16-true", "fp16-true", "tf32", "fp16:init_scale=256:growth_interval=500"]
#: a sheet of A4 and of Letter without Chromium's margins, in CSS pixels
A4, LETTER = 718, 739
#: what the frames measure of every plot: its drawing's width and its own, texts that meet, texts that stand out
READ = """<script>
const measured = (plot) => {
  const whole = plot.getBoundingClientRect(), drawing = plot.querySelector(".main-svg").getBoundingClientRect();
  const around = plot.closest("section").querySelectorAll(".caption, .names li, .main-svg text");
  const texts = [...around].map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
  const meets = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const met = texts.flatMap(([said, box], n) => texts.slice(n + 1).filter(([, other]) => meets(box, other)).map(([s]) => said + " | " + s));
  const out = texts.filter(([, box]) => box.left < whole.left - 8 || box.right > whole.right + 8).map(([said]) => said);
  return { figure: plot.dataset.figure, width: whole.width, drawn: drawing.width, height: drawing.height, held: whole.height, met, out };
};
onload = () => {
  const told = [...document.querySelectorAll("iframe")].map((frame) => {
    const { contentWindow: seen, contentDocument: page } = frame, plots = [...page.querySelectorAll(".plot")];
    for (const event of frame.dataset.events.split(" ").filter(Boolean)) seen.dispatchEvent(new Event(event));
    frame.style.width = frame.dataset.then + "px";
    return plots.map(measured);
  });
  document.title = JSON.stringify(told);
};</script>"""


def of_precisions(names: list[str]) -> dict[str, Any]:
    """The sample with these precisions, each with the figures of one that has all of them."""
    made = metered(comparison())
    verdicts, trials = made["verdicts"], made["trials"]
    part = {"value": 0.02, "low": -0.1, "high": 0.14}
    parts = [part | {"first": 6 * n, "last": 6 * n + 5} for n in range(10)]
    made["verdicts"], made["trials"] = [], []
    for name, model in zip(names, itertools.cycle([0, 2, 3, 4])):
        row = copy.deepcopy(verdicts[model]) | {"precision": name}
        row["loss"]["over_run"] = {"parts": parts, "difference": {"margin": 0.05}} if name != "fp32" else None
        made["verdicts"].append(row)
        own = [t for t in trials if t["precision"] == verdicts[model]["precision"]]
        made["trials"] += [copy.deepcopy(t) | {"precision": name, "seed": n} for n, t in enumerate(own)]
    return made


def on_paper(text: str) -> str:
    """The page as if its window were a sheet: the rules of print hold, those of screens do not."""
    return text.replace("@media print", "@media all").replace("@media screen", "@media not all")


def measured(
    compared: dict[str, Any], folder: Path, frames: list[tuple[int, str, int]], paper: bool
) -> list[list[Any]]:
    """For every (width, events, width then) what :data:`READ` measures of each plot after these events of the window."""
    drawn = re.sub("<meta http-equiv[^>]*>", "", page.render(compared))
    (folder / "page.html").write_text(on_paper(drawn) if paper else drawn, encoding="utf-8")
    shown = "".join(
        f'<iframe src="page.html" data-events="{events}" data-then="{then}" style="width: {width}px; height: 900px; '
        'border: 0"></iframe>'
        for width, events, then in frames
    )
    (folder / "frames.html").write_text(f"<!doctype html><title>-</title>{shown}{READ}")
    title = re.search("<title>(.*?)</title>", dom(folder / "frames.html", folder / "profile"))
    assert title is not None
    found: list[list[Any]] = json.loads(html.unescape(title[1]))
    assert len(found) == len(frames)
    return found


def check(plots: list[Any]) -> None:
    """Every plot is as wide and as high as its place, and no text meets another or leaves it."""
    assert {"loss", "run", "steps"} <= {plot["figure"] for plot in plots}
    for plot in plots:
        assert (plot["met"], plot["out"]) == ([], []), plot
        assert plot["drawn"] == pytest.approx(plot["width"], abs=1), plot
        assert plot["held"] == pytest.approx(plot["height"], abs=8), plot


CLICK = """<script>addEventListener("load", () => {
  const plot = document.querySelector('[data-figure="loss"]'), button = plot.parentElement.querySelectorAll(".names button")[1];
  const seen = () => plot.data.filter((trace) => trace.legendgroup === "bf16").map((trace) => trace.visible);
  const told = [button.textContent, seen()];
  button.click(); told.push(seen());
  byId("theme").click(); told.push(seen());  // all is drawn again
  button.click(); told.push(seen());
  document.title = JSON.stringify(told);
});
const byId = (id) => document.getElementById(id);</script>"""


def test_a_click_on_a_name_hides_its_lines_until_the_next(tmp_path: Path) -> None:
    text = re.sub("<meta http-equiv[^>]*>", "", page.render(of_precisions(NAMES[:3])))
    (tmp_path / "page.html").write_text(text + CLICK, encoding="utf-8")
    title = re.search("<title>(.*?)</title>", dom(tmp_path / "page.html", tmp_path / "profile"))
    assert title is not None
    name, shown, hidden, redrawn, again = json.loads(html.unescape(title[1]))
    assert name == "bf16"
    assert len(shown) > 1
    assert set(shown) == set(again) == {True}
    assert set(hidden) == set(redrawn) == {False}


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_on_a_screen_plots_fill_their_places_and_no_text_meets_another(count: int, tmp_path: Path) -> None:
    frames = [(390, "", 390), (1600, "", 1600), (1600, "beforeprint afterprint", 1600)]
    for plots in measured(of_precisions(NAMES[:count]), tmp_path, frames, paper=False):
        check(plots)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_on_paper_plots_fill_the_sheet_and_no_text_meets_another(count: int, tmp_path: Path) -> None:
    # Chromium tells the page to get ready while the window still is as wide as the screen, and no script runs after it.
    frames = [(1280, "beforeprint", A4), (390, "beforeprint", LETTER), (900, "beforeprint", 560)]
    for plots in measured(of_precisions(NAMES[:count]), tmp_path, frames, paper=True):
        check(plots)
