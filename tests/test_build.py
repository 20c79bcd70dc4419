"""What the build promises: levels kept apart, a complete kernel list, a small wheel, a header that others build on."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import cnnext
from cnnext.kernel_list import KERNELS

PACKAGE = Path(cnnext.__file__).parent
ROOT = PACKAGE.parent
OBJECTS = sorted(ROOT.glob(f"build/release*/{sysconfig.get_config_var('SOABI')}/temp/**/*.o"))
LEVEL_OBJECTS = [path for path in OBJECTS if path.stem.startswith("level_")]

needs_source_tree = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not run from a source tree")
needs_objects = pytest.mark.skipif(not OBJECTS, reason="no object files of this interpreter in build/")
needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64 alone has several levels")
needs_binutils = pytest.mark.skipif(not (shutil.which("objdump") and shutil.which("nm")), reason="no binutils")

# Instructions that only a CPU above the level has: any VEX or EVEX encoding; 512 bits, masks, registers 16 to 31.
VEX = re.compile(r"^\s*[0-9a-f]+:\s+(\{\w+\} )?v[a-z0-9]+ .*%[xyz]mm|%ymm|%zmm", re.MULTILINE)
EVEX = re.compile(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def level_of(path: Path) -> str:
    return path.stem.removeprefix("level_") if path.stem.startswith("level_") else "baseline"


def copy_of_sources(folder: Path) -> Path:
    """Copy what a build reads, so that a test may spoil it."""
    tree = folder / "tree"
    tree.mkdir()
    for name in ("src", "cnnext"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


@needs_objects
@needs_x86
@needs_binutils
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_wide_registers_appear_only_in_their_own_level(path: Path) -> None:
    code = run("objdump", "-d", "--no-show-raw-insn", path, cwd=ROOT).stdout
    assert "<" in code, "objdump shows no function"
    level = level_of(path)
    assert bool(VEX.search(code)) == (level != "baseline")
    assert bool(EVEX.search(code)) == (level == "avx512")


@needs_objects
@needs_binutils
@pytest.mark.parametrize("path", LEVEL_OBJECTS, ids=lambda path: path.stem)
def test_an_object_of_a_level_defines_nothing_but_its_table(path: Path) -> None:
    symbols = run("nm", "--extern-only", "--defined-only", "--format=posix", path, cwd=ROOT).stdout
    assert [line.split()[0] for line in symbols.splitlines()] == [f"cnx_simd_{level_of(path)}"]


class CnxKernel(ctypes.Structure):
    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("run", ctypes.c_void_p),
    ]


@pytest.mark.parametrize("module", KERNELS)
def test_a_module_exports_its_listed_kernels(module: str) -> None:
    native = importlib.import_module(f"cnnext._native.{module}")
    assert sorted(native.KERNELS) == sorted(KERNELS[module])
    assert sorted(native.PARAMS) == sorted(KERNELS[module])
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    for name, capsule in native.KERNELS.items():
        kernel = CnxKernel.from_address(pointer(capsule, b"cnnext.kernel.v1"))
        assert (kernel.abi, kernel.size, kernel.name) == (1, ctypes.sizeof(CnxKernel), name.encode())
        assert kernel.run
        assert {kind for _, kind in native.PARAMS[name]} <= {"q", "d"}


def test_kernel_names_are_unique() -> None:
    names = [name for listed in KERNELS.values() for name in listed]
    assert len(names) == len(set(names))


@needs_source_tree
def test_every_kernel_source_is_listed() -> None:
    assert sorted(path.stem for path in (ROOT / "src/kernels").glob("*.pyx")) == sorted(KERNELS)


def test_plugin_pxd_declares_every_name_of_the_header() -> None:
    header = re.sub(r"/\*.*?\*/", "", (PACKAGE / "include/cnnext_plugin.h").read_text(), flags=re.DOTALL)
    declared = set(re.findall(r"\w+", (PACKAGE / "plugin.pxd").read_text()))
    structs = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", header, re.DOTALL)
    names = {name for _, name in structs} | set(re.findall(r"\(\*(\w+)\)", header))
    for body, _ in structs:
        names |= set(re.findall(r"(\w+)(?:\[\w+\])?[,;]", re.sub(r"\([^*].*?\)", "", body, flags=re.DOTALL)))
    names |= {f"CNX_{name}" for name in re.findall(r"OP\(([A-Z_0-9]+),", header)}
    names |= set(re.findall(r"\b(CNX_(?!MAX_RANK\])\w+) = \d", header)) | {"CNX_UNARY_COUNT", "CNX_BINARY_COUNT"}
    assert len(names) > 100
    assert not names - declared


def test_the_version_is_that_of_the_distribution() -> None:
    assert cnnext.__version__ == importlib.metadata.version("cnnext")


@needs_source_tree
def test_a_performance_hint_fails_the_build(tmp_path: Path) -> None:
    tree = copy_of_sources(tmp_path)
    (tree / "cnnext/kernel_list.py").write_text('KERNELS = {"hinted": ()}\n')
    (tree / "src/kernels/hinted.pyx").write_text(
        "cdef void checked() nogil: pass\ncdef void caller() noexcept nogil: checked()\n"
    )
    result = run(sys.executable, "setup.py", "build_ext", cwd=tree)
    assert result.returncode != 0
    assert "src/kernels/hinted.pyx: Cython reports errors, or performance hints" in result.stderr


@needs_source_tree
def test_a_listed_module_without_a_source_fails_the_build(tmp_path: Path) -> None:
    tree = copy_of_sources(tmp_path)
    (tree / "cnnext/kernel_list.py").write_text('KERNELS = {"absent": ()}\n')
    result = run(sys.executable, "setup.py", "build_ext", cwd=tree)
    assert result.returncode != 0
    assert "Missing: src/kernels/absent.pyx." in result.stderr


@pytest.mark.slow
@needs_source_tree
def test_without_openmp_the_build_warns_and_works(tmp_path: Path) -> None:
    tree = copy_of_sources(tmp_path)
    result = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tree, CNNEXT_NO_OPENMP="1")
    assert result.returncode == 0, result.stderr
    assert "WARNING: CNNEXT_NO_OPENMP is set: cnnext will run on ONE thread." in result.stderr
    program = "from cnnext._native import executor; print(executor.__file__, executor.OPENMP)"
    shown = run(sys.executable, "-c", program, cwd=tree).stdout.split()
    assert shown[0].startswith(str(tree))
    assert shown[1] == "False"


@pytest.mark.slow
@needs_source_tree
def test_the_wheel_is_small_and_complete(tmp_path: Path) -> None:
    pytest.importorskip("build")
    result = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size <= 3_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"cnnext/py.typed", "cnnext/plugin.pxd", "cnnext/include/cnnext_plugin.h"} <= set(names)
    assert {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")} <= set(names), "a package lacks __init__.py"
    modules = {name.split("/")[-1].split(".")[0] for name in names if name.endswith(".so")}
    assert modules == {"executor", *KERNELS}
    assert not [name for name in names if name.endswith((".c", ".pyx", ".o"))]


OTHER_PACKAGE = """
from cpython.pycapsule cimport PyCapsule_GetPointer
from cnnext.plugin cimport CNX_ABI, CNX_KERNEL_CAPSULE, CNX_OK, cnx_args, cnx_kernel, cnx_kernel_fn, cnx_worker

cdef int axpy(const cnx_args *args, cnx_worker *worker) noexcept nogil:
    worker.simd.axpy(2, <const float *>args.src.data, <float *>args.dst.data, args.src.shape[0])
    return CNX_OK

cdef cnx_kernel_fn own_kernel = axpy

def same_layout(capsule):
    cdef cnx_kernel *kernel = <cnx_kernel *>PyCapsule_GetPointer(capsule, CNX_KERNEL_CAPSULE)
    return kernel.abi == CNX_ABI and kernel.size == sizeof(cnx_kernel) and own_kernel != NULL
"""

OTHER_SETUP = """
from pathlib import Path
from Cython.Build import cythonize
from setuptools import Extension, setup
import cnnext
include = str(Path(cnnext.__file__).parent / "include")
setup(name="other", ext_modules=cythonize([Extension("other", ["other.pyx"], include_dirs=[include])]))
"""


@pytest.mark.slow
def test_another_package_cimports_the_native_door(tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    (tmp_path / "other.pyx").write_text(OTHER_PACKAGE)
    (tmp_path / "setup.py").write_text(OTHER_SETUP)
    built = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    module, names = next(iter(KERNELS.items()))
    program = (
        "import other\n"
        f"from cnnext._native.{module} import KERNELS\n"
        f"print(other.same_layout(KERNELS[{names[0]!r}]))\n"
    )
    shown = run(sys.executable, "-c", program, cwd=tmp_path)
    assert shown.stdout == "True\n", shown.stderr
