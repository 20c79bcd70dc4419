"""The check that ``make lint`` makes of the tiles' inner loops, on tiles that fit the registers and tiles that do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from cnnext.build import LEVELS, SIMD_FLAGS, VECTOR_LENGTH
from tests.simd import registers

CC = shutil.which(os.environ.get("CC", "cc"))
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    CC is None or shutil.which("objdump") is None or "x86_64" not in str(sysconfig.get_config_var("SOABI")),
    reason="needs a C compiler and objdump, on x86-64")

# A matrix tile as in src/simd/gemm.inc.c: ROWS x VECTORS sums, over K; stored where the loop has ended.
TILE = """
#include "vec.h"
#define UNROLL _Pragma(PRAGMA)
void TILE(const float *a, const float *b, float *c, int64_t k)
{
    vf sum[ROWS][VECTORS];
    CNX_UNROLL for (int m = 0; m < ROWS; m++) CNX_UNROLL for (int v = 0; v < VECTORS; v++) sum[m][v] = (vf){0};
    for (; k > 0; k--, a += ROWS, b += VECTORS * CNX_VL)
        UNROLL for (int m = 0; m < ROWS; m++) UNROLL for (int v = 0; v < VECTORS; v++)
            sum[m][v] += splat(a[m]) * load(b + v * CNX_VL);
    CNX_UNROLL for (int m = 0; m < ROWS; m++) CNX_UNROLL for (int v = 0; v < VECTORS; v++)
        store(c + (m * VECTORS + v) * CNX_VL, sum[m][v]);
}
"""


def compiled(folder, level, rows, vectors, unroll=32):
    source, target = folder / "tile.c", folder / "tile.o"
    source.write_text(TILE)
    macros = {"CNX_VL": VECTOR_LENGTH[level], "ROWS": rows, "VECTORS": vectors, "TILE": f"rows_{rows}x{vectors}",
              "PRAGMA": f'"GCC unroll {unroll}"'}
    flags = [f"-D{name}={value}" for name, value in macros.items()]
    includes = [f"-I{ROOT / folder}" for folder in ("src/simd", "cnnext/include")]
    subprocess.run([CC, "-O3", *SIMD_FLAGS, *LEVELS[level], *flags, *includes, "-c", str(source), "-o", str(target)],
                   check=True)
    return target


def fault_of(path):
    [(name, code)] = registers.disassemble(path).items()
    return registers.fault(name, code)


@pytest.mark.parametrize("level, rows, vectors", [("avx512", 6, 4), ("avx512", 24, 1), ("avx2", 6, 2), ("baseline", 6, 2)])
def test_tiles_that_fit(tmp_path, level, rows, vectors):
    assert fault_of(compiled(tmp_path, level, rows, vectors)) == ""


@pytest.mark.parametrize("level, rows, vectors", [("avx512", 12, 4), ("avx512", 32, 1), ("avx2", 8, 2), ("baseline", 8, 2)])
def test_tiles_of_more_sums_than_registers(tmp_path, level, rows, vectors):
    assert "accesses of vectors to the stack in its inner loops, for one `" in fault_of(
        compiled(tmp_path, level, rows, vectors))


def test_a_tile_whose_sums_are_an_array_in_memory(tmp_path):
    assert fault_of(compiled(tmp_path, "avx512", 6, 4, unroll=1))


def test_the_program_names_the_tile_and_fails(tmp_path, capsys):
    built = tmp_path / str(sysconfig.get_config_var("SOABI")) / "temp" / "src" / "simd" / "level_avx512.o"
    built.parent.mkdir(parents=True)
    compiled(tmp_path, "avx512", 12, 4).rename(built)
    assert registers.main([str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "level_avx512.o: rows_12x4: " in shown
    assert r"level_avx512.o: no function is called outer_\d+x\d+: this check looks at nothing" in shown


def test_without_objects(capsys, tmp_path):
    assert registers.main([str(tmp_path)]) == 1
    assert "no objects of the tile primitives" in capsys.readouterr().out
