"""MTCNN finds the astronaut's face, and none in a cat; each network's results beside ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cnnext.data.packaged import photo
from tests.onnx.real.engines import Both
from tests.onnx.real.mtcnn import NETWORKS, find_faces, model_path


@pytest.fixture(scope="module")
def sessions():
    return {name: Both(model_path(name)) for name in NETWORKS}


def test_the_face_of_the_astronaut(sessions):
    with Image.open(photo("astronaut.png")) as picture:
        [face] = find_faces(sessions, picture)
    assert face.confidence > 0.99
    np.testing.assert_allclose(face.box, [178, 63, 265, 173], atol=8)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert all(session.runs for session in sessions.values())


def test_no_face_in_a_cat(sessions):
    with Image.open(photo("chelsea.png")) as picture:
        assert find_faces(sessions, picture) == []
