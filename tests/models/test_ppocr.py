"""What stands around the networks of PP-OCRv4: boxes from probabilities, crops, reading order, CTC; on synthetic data."""

from __future__ import annotations

import numpy as np
import pytest

from cnnext.models import ppocr

image = pytest.importorskip("PIL.Image")
pytest.importorskip("scipy")


def draw_line(angle=0.0, bend=0.0, size=(200, 300), centre=(150, 100), length=160, height=12):
    """A map of probabilities with one region of text: .9 inside, .05 outside."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    along = np.array([np.cos(angle), np.sin(angle)])
    u = (x - centre[0]) * along[0] + (y - centre[1]) * along[1]
    v = -(x - centre[0]) * along[1] + (y - centre[1]) * along[0] - bend * u**2
    return np.where((np.abs(u) < length / 2) & (np.abs(v) < height / 2), 0.9, 0.05).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 10, -30])
def test_a_straight_line(degrees):
    """The region grows by 3 * area / perimeter on all sides."""
    angle = np.deg2rad(degrees)
    [edges] = ppocr.boxes_of(draw_line(angle))
    growth = ppocr.GROWTH * 160 * 12 / (2 * (160 + 12))
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    top, bottom = edges
    np.testing.assert_allclose(edges.mean(axis=(0, 1)), [150, 100], atol=1)
    assert (top[-1] - top[0]) @ along == pytest.approx(160 + 2 * growth, abs=4)
    assert (bottom[4] - top[4]) @ across == pytest.approx(12 + 2 * growth, abs=3)


def test_a_bent_line_is_followed():
    bend = 10 / 80**2  # ten pixels lower at both ends
    [edges] = ppocr.boxes_of(draw_line(bend=bend))
    middle = edges.mean(axis=0)
    np.testing.assert_allclose(middle[:, 1], 100 + bend * (middle[:, 0] - 150) ** 2, atol=1.5)


def test_text_that_runs_downwards():
    """Read with the head leant to the right: from top to bottom, the next line on the left."""
    [edges] = ppocr.boxes_of(draw_line(np.pi / 2))
    top, bottom = edges
    assert top[-1, 1] > top[0, 1] + 150 and bottom[0, 0] < top[0, 0]


def test_faint_and_tiny_regions_are_no_text():
    probability = np.full((60, 60), 0.05, np.float32)
    probability[10:20, 5:50] = 0.45  # above the threshold of a pixel, below that of a box
    probability[40:42, 5:50] = 0.9
    assert ppocr.boxes_of(probability) == []


def test_a_crop_is_straight():
    """Ten stripes along a slanted line: after cropping they stand upright and in order."""
    angle = np.deg2rad(20)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    y, x = np.mgrid[:200, :300] + 0.5
    u = (x - 150) * along[0] + (y - 100) * along[1]
    stripes = np.where(np.floor(u / 20) % 2 == 0, 220, 30).astype(np.uint8)
    places = np.linspace(-80, 80, ppocr.POINTS)[:, None] * along + [150, 100]
    made = ppocr.crop(image.fromarray(stripes).convert("RGB"), np.stack([places - 10 * across, places + 10 * across]))
    assert made.size == (160, 20)
    columns = np.asarray(made)[2:-2, :, 0].astype(float)
    assert columns.std(axis=0)[5:].reshape(-1, 5).min(axis=1).max() < 40
    centres = columns.mean(axis=0)[10::20]
    np.testing.assert_allclose(centres, [220, 30] * 4, atol=10)


def line(text, x, y, angle=0.0, length=50.0, height=10.0):
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    start = x * along + y * across
    places = start + np.linspace(0, length, ppocr.POINTS)[:, None] * along
    return ppocr.TextLine(text, 1.0, np.stack([places, places + height * across]))


@pytest.mark.parametrize("degrees", [0, 15, 90, 180, 250])
def test_reading_order_follows_the_text(degrees):
    """Places are those of a page that was turned as a whole."""
    angle = np.deg2rad(degrees)
    page = [line("c", 0, 30, angle), line("b", 70, 3, angle), line("a", 0, 0, angle), line("d", 0, 60, angle)]
    assert [found.text for found in ppocr.reading_order(page)] == ["a", "b", "c", "d"]
    assert ppocr.reading_order([]) == []


@pytest.mark.parametrize(("classes", "text"), [
    ([0, 1, 1, 0, 1, 2, 2, 0], "aab"), ([0, 0, 0], ""), ([3, 3, 2], " b"), ([1], "a"),
])
def test_ctc(classes, text):
    """Repetitions count once, unless a blank stands between them."""
    steps = np.full((len(classes), 4), 0.1, np.float32)
    steps[np.arange(len(classes)), classes] = 0.7
    found, confidence = ppocr.decode(steps, ["", "a", "b", " "])
    assert found == text
    assert confidence == pytest.approx(0.7 if text else 0)


def test_full_width_forms():
    """Common ones in Latin text; Chinese keeps its own."""
    steps = np.eye(4, dtype=np.float32)[[1, 2]]
    assert ppocr.decode(steps, ["", "a", "\uff08", " "])[0] == "a("
    assert ppocr.decode(steps, ["", "\u4e2d", "\uff08", " "])[0] == "\u4e2d\uff08"


@pytest.mark.parametrize("n", [0, 1, 7, 8, 19])
def test_batches(n):
    parts = ppocr.batches(range(n))
    assert [i for part in parts for i in part] == list(range(n))
    assert {len(part) for part in parts} <= {1, 2, 4, 8}


@pytest.mark.parametrize(("size", "expected"), [
    ((384, 191), (736, 1472)), ((3000, 1000), (672, 2016)), ((40, 40), (736, 736)), ((5000, 5), (32, 2016)),
])
def test_the_size_of_the_detection(size, expected):
    x = ppocr.detection_input(image.new("RGB", size, (255, 0, 0)))
    assert x.shape == (1, 3, *expected)
    np.testing.assert_array_equal(x[0, :, 0, 0], [-1, -1, 1])  # blue first


@pytest.mark.parametrize(("size", "used"), [((100, 20), 240), ((400, 20), 320), ((5, 50), 5)])
def test_the_picture_of_a_line(size, used):
    x = ppocr.line_input(image.new("RGB", size, "white"), 320)
    assert x.shape == (3, 48, 320)
    assert (x[:, :, :used] == 1).all() and (x[:, :, used:] == 0).all()
