"""For authors of native plugins: builds a module of kernels the way cnnext builds its own.

In the plugin's ``setup.py``::

    from cnnext.build import kernel_extension
    from setuptools import setup

    extension, build_ext = kernel_extension("my_plugin._native", ["my_plugin/_native.pyx"], simd=["my_plugin/rows.c"])
    setup(ext_modules=[extension], cmdclass={"build_ext": build_ext})
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.errors import CompileError, PlatformError

# Level -> its flags. A level is left out where the compiler's target does not have it (LEVEL_TARGET).
LEVELS: dict[str, list[str]] = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ],
}
LEVEL_TARGET = {
    "baseline": "",
    "avx2": "#ifndef __x86_64__\n#error\n#endif\n",
    "avx512": "#ifndef __x86_64__\n#error\n#endif\n",
}
VECTOR_LENGTH = {"baseline": 4, "avx2": 8, "avx512": 16}
# One FMA rounds once: the same result from GCC and Clang. Link-time optimisation could mix the levels' flags.
SIMD_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-lto"]

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": "False",
    "wraparound": "False",
    "initializedcheck": "False",
    "cdivision": "True",
    "legacy_implicit_noexcept": "False",
    "show_performance_hints": "True",
}
COMPILE_FLAGS = ["-O3", "-g0", "-fvisibility=hidden"]
INCLUDE = Path(__file__).resolve().parent / "include"


class KernelExtension(Extension):
    """An extension module of kernels; ``simd`` are its C files that are compiled once per level."""

    def __init__(self, name: str, sources: Sequence[str], simd: Sequence[str]):
        super().__init__(name, list(sources), include_dirs=[str(INCLUDE), *{str(Path(s).parent) for s in simd}],
                         depends=[*simd, *map(str, INCLUDE.iterdir())])
        self.simd = list(simd)


class KernelBuild(_build_ext):
    """``build_ext`` that also knows ``KernelExtension``."""

    def build_extension(self, ext: Extension) -> None:
        """Cython, then the levels' objects, then the module itself."""
        if isinstance(ext, KernelExtension):
            if self.compiler.compiler_type == "msvc":
                raise PlatformError("kernels of cnnext need GCC or Clang: they are written in their vector extensions.")
            levels = [level for level in LEVELS if self._compiles(LEVEL_TARGET[level], LEVELS[level])]
            ext.sources = [self._cythonize(ext.name, s) if s.endswith(".pyx") else s for s in ext.sources]
            ext.extra_objects = [self._level_object(ext, source, level) for source in ext.simd for level in levels]
            ext.define_macros = [(f"CNX_HAVE_{level.upper()}", "1") for level in levels]
            ext.extra_compile_args = COMPILE_FLAGS
        super().build_extension(ext)

    def _cythonize(self, name: str, source: str) -> str:
        # A performance hint says, for one, that a call checks for an exception and takes the GIL for that: on a worker
        # thread, a bug.
        target = Path(self.build_temp, "cython", source).with_suffix(".c")
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cython", "-I", ".", "-I", str(INCLUDE.parent.parent), "-I", str(INCLUDE)]
        for directive, value in DIRECTIVES.items():
            command += ["-X", f"{directive}={value}"]
        result = subprocess.run([*command, "--module-name", name, source, "-o", str(target)], capture_output=True,
                                text=True)
        sys.stderr.write(result.stdout + result.stderr)
        if result.returncode or "performance hint" in result.stderr:
            raise CompileError(f"{source}: Cython reports errors, or performance hints, which count as errors.")
        return str(target)

    def _level_object(self, ext: Extension, source: str, level: str) -> str:
        """Compile one file for one level, from a file of its own: an object's name is its source's."""
        wrapper = Path(self.build_temp, "simd", f"{Path(source).stem}_{level}.c")
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        wrapper.write_text(f'#define CNX_LEVEL {level}\n#define CNX_VL {VECTOR_LENGTH[level]}\n'
                           f'#include "{Path(source).resolve()}"\n')
        [target] = self.compiler.compile([str(wrapper)], output_dir=self.build_temp, include_dirs=ext.include_dirs,
                                         extra_postargs=[*COMPILE_FLAGS, *SIMD_FLAGS, *LEVELS[level]])
        return str(target)

    def _compiles(self, code: str, flags: Sequence[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code or "typedef int probe;\n")
            command = [*self.compiler.compiler_so, *flags, "-c", str(source), "-o", os.path.join(folder, "probe.o")]
            return subprocess.run(command, capture_output=True).returncode == 0


def kernel_extension(name: str, sources: Sequence[str],
                     simd: Sequence[str] = ()) -> tuple[KernelExtension, type[KernelBuild]]:
    """An extension module of kernels and the command that builds it.

    Parameters
    ----------
    name : str
        Full name of the module, ``"my_plugin._native"``.
    sources : list of str
        Cython and C files. Cython finds ``cnnext.plugin`` and ``include "table.pxi"``, C finds ``cnnext_plugin.h``.
    simd : list of str
        C files that are compiled once per instruction-set level; ``cnnext_simd.h`` says what they look like.

    Returns
    -------
    extension, build_ext
        For ``setup(ext_modules=[extension], cmdclass={"build_ext": build_ext})``.
    """
    return KernelExtension(name, sources, simd), KernelBuild
