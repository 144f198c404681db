"""The parts of a report as they were looked at: in light, in dark, and on a phone.

``GPUCLUSTER_RENEW_REFERENCES=1`` writes the references anew; look at them before they are kept.
Other machines have other fonts, so the parts are compared small and blurred.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

REFERENCES = Path(__file__).parents[2] / "data" / "report"
PARTS = {"map": ".map", "table": ".clusters .scroll", "flow": ".flow .sides"}
LOOKS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 360)}
KEPT = (400, 300)  # pixels of a part, however it is shaped
COMPARED = (200, 150)
BLUR = 4  # pixels: what differs by less is the font
# Of 255, the mean difference: another font makes 0.2, 4 and 2, a part without what it draws
# 2.6, 14 and 12.
BOUNDS = {"map": 1.3, "table": 6.0, "flow": 4.0}
ABSENT = (128, 128, 128)  # is near no background


@pytest.fixture
def shown(tab, world):
    """Open the report in a look."""

    def show(look):
        theme, width = LOOKS[look]
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=theme)
        tab.show(world.file)
        tab.wait_for_selector(f"canvas[data-drawn='{world.run.manifest.counts.num_points}']")
        return tab

    return show


def photo(tab, part: str) -> Image.Image:
    element = tab.query_selector(PARTS[part])
    if element is None or not element.is_visible():
        return Image.new("RGB", KEPT, ABSENT)
    content = element.screenshot(animations="disabled")
    return Image.open(io.BytesIO(content)).convert("RGB").resize(KEPT, Image.Resampling.BOX)


def reference(look: str, part: str) -> Image.Image:
    top = list(PARTS).index(part) * KEPT[1]
    with Image.open(REFERENCES / f"{look}.png") as image:
        return image.convert("RGB").crop((0, top, KEPT[0], top + KEPT[1]))


def apart(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures, small and blurred."""
    first, second = (
        np.asarray(
            image.resize(COMPARED, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(BLUR)),
            np.float64,
        )
        for image in (one, other)
    )
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_as_it_did(shown, look):
    tab = shown(look)
    found = {part: photo(tab, part) for part in PARTS}
    if os.environ.get("GPUCLUSTER_RENEW_REFERENCES"):
        whole = Image.new("RGB", (KEPT[0], KEPT[1] * len(PARTS)))
        for number, image in enumerate(found.values()):
            whole.paste(image, (0, number * KEPT[1]))
        REFERENCES.mkdir(exist_ok=True)
        whole.quantize(128).save(REFERENCES / f"{look}.png", optimize=True)
    for part, image in found.items():
        assert apart(image, reference(look, part)) < BOUNDS[part], part
    assert (REFERENCES / f"{look}.png").stat().st_size < 40_000


CHANGES = {  # what breaks a part, but for another font
    "map": "document.querySelector('canvas').style.opacity = 0",
    "table": "document.querySelector('.clusters tbody').replaceChildren()",
    "flow": "document.querySelectorAll('.flow path').forEach((each) => each.remove())",
}


@pytest.mark.parametrize("look", ["light", "phone"])
def test_another_font_is_no_difference_and_a_broken_part_is(shown, look):
    tab = shown(look)
    tab.evaluate("() => { document.documentElement.style.fontFamily = 'serif'; }")
    for part in PARTS:
        assert apart(photo(tab, part), reference(look, part)) < BOUNDS[part], part
    tab.evaluate("() => { document.documentElement.style.fontFamily = ''; }")
    for part, change in CHANGES.items():
        tab.evaluate(f"() => {{ {change}; }}")
        assert apart(photo(tab, part), reference(look, part)) > BOUNDS[part], part
        tab.evaluate(f"() => document.querySelector('{PARTS[part]}').remove()")
        assert apart(photo(tab, part), reference(look, part)) > BOUNDS[part], part


def test_another_theme_is_a_difference():
    for part in PARTS:
        assert apart(reference("light", part), reference("dark", part)) > BOUNDS[part]
