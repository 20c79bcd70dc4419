"""The gradients of windows, of a run of pixels, against the primitives of one pixel that plugins of 0.1.0 call."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cnnext.build import LEVELS as FLAGS
from cnnext.build import SIMD_FLAGS, VECTOR_LENGTH
from tests.layers.agreement import LEVELS

CC = shutil.which(os.environ.get("CC", "cc"))
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")

# Windows of n_taps neighbours along a row of `count` * step pixels: once as a run, once pixel by pixel.
SOURCE = """
#include "vec.h"
#include "math.inc.c"
#include "taps.inc.c"
void gradients(int power, int accumulate, int64_t count, int64_t channels, int64_t n_taps, int64_t step,
               const int64_t *offset, const float *src, const float *dst, const float *diff_dst, float *run, float *single)
{
    cnx_taps t = {.count = count, .channels = channels, .n_taps = n_taps, .offset = offset, .src = src,
                  .src_step = step * channels, .dst = (float *)dst, .dst_step = channels, .power = power,
                  .accumulate = accumulate};
    (power ? taps_lp_diff : taps_max_diff)(&t, diff_dst, channels, run, step * channels, offset);
    for (int64_t i = 0; i < count; i++) {
        t.src = src + i * step * channels;
        t.dst = (float *)dst + i * channels;
        (power ? taps_lp_backward : taps_max_backward)(&t, diff_dst + i * channels, single + i * step * channels, offset);
    }
}
"""


@pytest.fixture(scope="module", params=LEVELS)
def gradients(request, tmp_path_factory):
    folder, level = tmp_path_factory.mktemp("taps"), request.param
    (folder / "taps.c").write_text(SOURCE)
    includes = [f"-I{ROOT / part}" for part in ("src/simd", "cnnext/include")]
    subprocess.run([CC, "-O2", "-shared", "-fPIC", *SIMD_FLAGS, *FLAGS[level], f"-DCNX_VL={VECTOR_LENGTH[level]}", *includes,
                    str(folder / "taps.c"), "-o", str(folder / "taps.so"), "-lm"], check=True)
    return ctypes.CDLL(str(folder / "taps.so")).gradients


@pytest.mark.parametrize("power", [0, 1, 2, 3])
@pytest.mark.parametrize("n_taps, step", [(2, 2), (3, 3), (4, 1), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 9, 16, 19, 35])
def test_a_run_has_the_bits_of_its_pixels(gradients, power, n_taps, step, channels):
    rng, count = np.random.default_rng(0), 7
    pixels = (count - 1) * step + n_taps
    src = rng.integers(-2, 3, (pixels, channels)).astype(np.float32)
    taps = np.stack([src[i * step : i * step + n_taps] for i in range(count)])
    dst = ((np.abs(taps) ** power).sum(axis=1) ** (1 / power) if power else taps.max(axis=1)).astype(np.float32)
    diff_dst = rng.standard_normal((count, channels)).astype(np.float32)
    offset = np.arange(n_taps, dtype=np.int64) * channels
    shared = n_taps > step
    guarded = [np.full((pixels + 2, channels), np.nan, np.float32) for _ in range(2)]
    run, single = (array[1:-1] for array in guarded)
    single[...] = 0
    if shared:
        run[...] = 0
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (offset, src, dst, diff_dst, run, single)]
    gradients(power, int(shared), *(ctypes.c_int64(n) for n in (count, channels, n_taps, step)), *addresses)
    assert single.any() and run.tobytes() == single.tobytes()
    for array in guarded:
        assert np.isnan(array[[0, -1]]).all()
