"""PP-OCRv4 reads a photographed page, upright, upside down and askew; each result beside ONNX Runtime's."""

from __future__ import annotations

import pytest
from PIL import Image

from cnnext.data.packaged import photo
from cnnext.models.ppocr import TextReader, model_path
from tests.onnx.real.engines import TOLERANCE, Both, open_cnnext

PAGE = """Region-based segmentation
Let us first determine markers of the coins and the
background. These markers are pixels that we can label
unambiguously as either object or background. Here,
the markers are found at the two extreme parts of the
histogram of grey values:"""

# Where a step of the page is undecided (probabilities .44 and .55), the softmax of the recognition network shows rounding
# enlarged: ONNX Runtime with and without its optimizations differs there from itself by 1.0e-4.
UNDECIDED = 5e-4


def open_both(path):
    return Both(path, UNDECIDED if path == str(model_path("recognition")) else TOLERANCE)


@pytest.fixture(scope="module")
def reader():
    return TextReader(open_both)


@pytest.fixture(scope="module")
def page():
    with Image.open(photo("page.png")) as picture:
        return picture.convert("RGB")


def letters(text):
    """The network reads letters; spaces between words it finds only sometimes."""
    return "".join(c for c in text if c.isalpha())


@pytest.mark.parametrize("angle", [0, 180, 12])
def test_it_reads_the_page(reader, page, angle):
    """Behind the six lines of prose stands one of a program, in small print and cut off below."""
    lines = reader.read(page.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(200, 200, 200)))
    assert [letters(line.text) for line in lines[:6]] == [letters(line) for line in PAGE.split("\n")]
    assert min(line.confidence for line in lines[:6]) > 0.9
    assert all(session.runs for session in reader._sessions.values())


def test_lines_lie_where_they_stand(reader, page):
    """The title is in the first fifth of the page, on the left; lines follow one another downwards."""
    edges = [line.edges for line in reader.read(page)]
    title = edges[0]
    assert 0 <= title[..., 0].min() < 20 and 280 < title[..., 0].max() < 300
    assert 5 < title[..., 1].min() and title[..., 1].max() < 40
    middles = [e[..., 1].mean() for e in edges]
    assert middles == sorted(middles)
    assert all(e[1, :, 1].mean() - e[0, :, 1].mean() > 10 for e in edges)


def test_a_page_without_text():
    """Its probabilities are all near 0, so there is no magnitude to compare them by."""
    reader = TextReader(open_cnnext)
    assert reader.read(Image.new("RGB", (320, 200), "white")) == []
