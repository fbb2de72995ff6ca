"""The page in a real headless Chromium: its charts are there, in colours, from side to side."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rayhost.baseline import html
from tests.baseline.figures import baseline
from tests.support.png import read_rgb

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
WIDTH, HEIGHT = 1240, 1700


@pytest.mark.heavy
@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH to draw the page with: apt-get install chromium"
)
def test_the_charts_are_drawn(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "page.html"
    page.write_text(html.page(baseline()), encoding="utf-8")
    shot = tmp_path / "shot.png"
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={WIDTH},{HEIGHT}"),
        *("--hide-scrollbars", "--force-color-profile=srgb", f"--screenshot={shot}"),
    )
    subprocess.run([CHROMIUM, *options, page.as_uri()], check=True, capture_output=True, timeout=90)
    pixels = read_rgb(shot).astype(np.int32)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    drawn = page.read_text(encoding="utf-8").split("@media")[0]
    for number in range(4):  # two thread counts, two layouts
        [colour] = re.findall(rf"--c{number}: #(\w{{6}});", drawn)
        wanted = np.array([int(colour[at : at + 2], 16) for at in (0, 2, 4)])
        near = np.abs(pixels - wanted).max(axis=2) < 40
        # A line crosses two charts of some 480 pixels; its key is some ten pixels wide.
        columns = int(near.any(axis=0).sum())
        assert columns > 500, f"colour {number} ({colour}) is in {columns} columns only"
