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
from cnnext.plugin cimport CNX_ERROR_FAILED, CNX_OK, cnx_args, cnx_worker

include "table.pxi"

cdef extern from *:
    \"\"\"
    #include <sched.h>
    #include <time.h>
    static long arrived;

    static int meet(long count)
    {
        time_t start = time(NULL);
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < count) {
            if (time(NULL) - start > 30)
                return 0;
            sched_yield();
        }
        return 1;
    }
    \"\"\"
    int meet(long count) noexcept nogil
    int PyGILState_Check() noexcept nogil

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

cdef int gather(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    # Each tile waits until all tiles are under way: one worker alone would fail. dst[tile] = its worker, -1 with the GIL.
    (<float *>args.dst[0].data)[worker.tile] = -1 if PyGILState_Check() else worker.index
    return CNX_OK if meet(args.n_tiles) else CNX_ERROR_FAILED

cdef facts_params facts_zero
KERNELS = {"facts": kernel("facts", facts), "gather": kernel("gather", gather)}
PARAMS = {"facts": fields(facts_zero), "gather": []}
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

GATHER = """
import numpy as np
from cnnext.layers.layer import Layer
from cnnext.testing import run_layer
from other import _native

class Gather(Layer):
    def output_shape(self, *shapes):
        return (4,)
    def lower(self, b, node):
        b.step("gather", [b.view(v) for v in node.inputs], [b.view(node.output)], tiles=4,
               entry=(_native.KERNELS["gather"], _native.PARAMS["gather"]))

print(*sorted(int(x) for x in run_layer(Gather(), [np.ones(1, np.float32)], n_threads=4).outputs[0]))
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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    result = build(folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_package_elsewhere_gets_each_level_of_its_c(package: Path) -> None:
    shown = run(package, "-c", USE, *executor.levels())
    assert shown.returncode == 0, shown.stderr
    for level, line in zip(executor.levels(), shown.stdout.splitlines(), strict=True):
        vector_length, has_fma, engine = map(int, line.split())
        assert vector_length == 100 + engine
        assert has_fma or level == "baseline"


@pytest.mark.skipif(not executor.OPENMP, reason="a build for one thread")
def test_its_kernel_runs_on_all_workers_without_the_gil(package: Path) -> None:
    shown = run(package, "-c", GATHER)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == ["0", "1", "2", "3"]


def test_a_performance_hint_fails_the_build(tmp_path: Path) -> None:
    hinted = "cdef void checked() nogil: pass\ncdef void caller() noexcept nogil: checked()\n"
    result = build(tmp_path, **{"other/_native.pyx": hinted})
    assert result.returncode != 0
    assert "other/_native.pyx: Cython reports errors, or performance hints" in result.stderr


@pytest.mark.parametrize("name", ["cnnext_plugin.h", "cnnext_simd.h", "table.pxi"])
def test_what_the_helper_includes_is_in_the_package(name: str) -> None:
    assert (Path(cnnext.__file__).parent / "include" / name).is_file()
