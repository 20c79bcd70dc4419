"""The build helper for plugin authors: a package outside of the source tree, with C compiled once per level."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnext
from cnnext._native import executor

FILES = {
    "setup.py": """
from setuptools import setup
from cnnext.build import kernel_extension
extension, build_ext = kernel_extension("other._native", ["other/_native.pyx"], simd=["other/rows.c"])
setup(name="other", packages=["other"], ext_modules=[extension], cmdclass={"build_ext": build_ext})
""",
    "other/__init__.py": "",
    "other/rows.h": """
#include "cnnext_simd.h"
typedef struct level_facts { int vector_length; int has_fma; } level_facts;
CNX_LEVEL_TABLE(level_facts)
""",
    "other/rows.c": """
#include "rows.h"
#ifdef __FMA__
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
const level_facts CNX_PER_LEVEL(level_facts) = {CNX_VL, HAS_FMA};
""",
    "other/_native.pyx": """
from libc.stdint cimport int64_t
from cnnext.plugin cimport CNX_OK, cnx_args, cnx_worker

include "table.pxi"

cdef extern from "rows.h" nogil:
    ctypedef struct level_facts:
        int vector_length
        int has_fma
    const level_facts *level_facts_for(const char *level)

cdef struct facts_params:
    int64_t offset

cdef int facts(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    cdef const level_facts *found = level_facts_for(worker.simd.level)
    cdef float *to = <float *>args.dst[0].data
    to[0] = found.vector_length + (<const facts_params *>args.params).offset
    to[1] = found.has_fma
    to[2] = worker.simd.vl
    return CNX_OK

cdef facts_params facts_zero
KERNELS = {"facts": kernel("facts", facts)}
PARAMS = {"facts": fields(facts_zero)}
""",
}

USE = """
import sys
import numpy as np
from cnnext.layers.layer import Layer
from cnnext.testing import run_layer
from other import _native

class Facts(Layer):
    def output_shape(self, *shapes):
        return (3,)
    def lower(self, b, node):
        b.step("facts", [b.view(v) for v in node.inputs], [b.view(node.output)], {"offset": 100},
               entry=(_native.KERNELS["facts"], _native.PARAMS["facts"]))

for level in sys.argv[1:]:
    print(*(int(x) for x in run_layer(Facts(), [np.ones(1, np.float32)], level=level).outputs[0]))
"""


def build(folder: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    for name, text in (FILES | changed).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return run(folder, "setup.py", "build_ext", "--inplace")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(Path(cnnext.__file__).parent.parent)])
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": path},
                          capture_output=True, text=True)


def test_a_package_elsewhere_gets_each_level_of_its_c(tmp_path: Path) -> None:
    result = build(tmp_path)
    assert result.returncode == 0, result.stderr
    shown = run(tmp_path, "-c", USE, *executor.levels())
    assert shown.returncode == 0, shown.stderr
    for level, line in zip(executor.levels(), shown.stdout.splitlines(), strict=True):
        vector_length, has_fma, engine = map(int, line.split())
        assert vector_length == 100 + engine
        assert has_fma or level == "baseline"


def test_a_performance_hint_fails_the_build(tmp_path: Path) -> None:
    hinted = "cdef void checked() nogil: pass\ncdef void caller() noexcept nogil: checked()\n"
    result = build(tmp_path, **{"other/_native.pyx": hinted})
    assert result.returncode != 0
    assert "other/_native.pyx: Cython reports errors, or performance hints" in result.stderr


@pytest.mark.parametrize("name", ["cnnext_plugin.h", "cnnext_simd.h", "table.pxi"])
def test_what_the_helper_includes_is_in_the_package(name: str) -> None:
    assert (Path(cnnext.__file__).parent / "include" / name).is_file()
