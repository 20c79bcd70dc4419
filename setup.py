"""Builds the native modules: the tile primitives once per instruction-set level, then one extension per kernel module.

Everything that is plain metadata stands in pyproject.toml. Switches, from the environment:

CNNEXT_DEBUG=1      bounds checks, -O1 -g, address and undefined-behaviour sanitizers, symbols kept
CNNEXT_NO_OPENMP=1  a single-threaded build

Each combination builds under its own folder, ``build/<flavour>``, so no object of one is ever linked into another.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build as _build
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.errors import CompileError, PlatformError, SetupError
from setuptools.modified import newer_group


def switched_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


DEBUG = switched_on("CNNEXT_DEBUG")
NO_OPENMP = switched_on("CNNEXT_NO_OPENMP")
FLAVOUR = ("debug" if DEBUG else "release") + ("-no-openmp" if NO_OPENMP else "")

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "legacy_implicit_noexcept": False,
    "show_performance_hints": True,
}

# What plugins build with as well. cnnext itself cannot be imported yet.
SHARED = runpy.run_path("cnnext/build.py")
LEVELS, LEVEL_TARGET, SIMD_FLAGS = SHARED["LEVELS"], SHARED["LEVEL_TARGET"], SHARED["SIMD_FLAGS"]

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COMPILE_FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-UNDEBUG", *SANITIZERS] if DEBUG else ["-O3", "-g0"]
COMPILE_FLAGS.append("-fvisibility=hidden")
LINK_FLAGS = SANITIZERS if DEBUG else [] if sys.platform == "darwin" else ["-s"]

OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
INCLUDE_DIRS = ["src", "src/simd", "cnnext/include"]


def files(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path().glob(pattern))


C_DEPENDS = [*files("src/**/*.h", "cnnext/include/*.h"), "setup.py", "cnnext/build.py"]
CYTHON_DEPENDS = [*files("src/**/*.px[di]", "cnnext/**/*.px[di]"), "setup.py"]
SIMD_DEPENDS = [*C_DEPENDS, *files("src/simd/*.inc.c")]


def extensions() -> list[Extension]:
    """The executor, and one module per entry of cnnext/kernel_list.py."""
    kernels = runpy.run_path("cnnext/kernel_list.py")["KERNELS"]
    sources = {"executor": "src/executor.pyx"} | {module: f"src/kernels/{module}.pyx" for module in kernels}
    return [Extension(f"cnnext._native.{module}", [source]) for module, source in sources.items()]


class build(_build):
    """`build`, under a folder of its own for each flavour."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = os.path.join("build", FLAVOUR)


class build_ext(_build_ext):
    """`build_ext`: Cython, then the levels' objects, then the extensions; each in parallel, each only where stale."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.inplace:
            # An editable install would otherwise build in a temporary folder, all of it, each time.
            folder = os.path.join("build", FLAVOUR, str(sysconfig.get_config_var("SOABI")))
            self.build_temp, self.build_lib = os.path.join(folder, "temp"), os.path.join(folder, "lib")

    def run(self) -> None:
        with one_build_at_a_time():
            super().run()

    def build_extensions(self) -> None:
        if self.compiler.compiler_type == "msvc":
            raise PlatformError("cnnext needs GCC or Clang: its kernels are written in their vector extensions.")
        missing = [source for ext in self.extensions for source in ext.sources if not os.path.exists(source)]
        if missing:
            raise SetupError(f"cnnext/kernel_list.py: each module must have a source. Missing: {', '.join(missing)}.")

        levels = [level for level in LEVELS if self.compiles(LEVEL_TARGET[level], LEVELS[level])]
        print("cnnext: instruction-set levels:", *levels)
        openmp = self.openmp_flags()
        simd_macros = [(f"CNX_HAVE_{level.upper()}", "1") for level in levels]
        self.in_parallel([lambda ext=ext: self.cythonize(ext) for ext in self.extensions])
        objects = self.in_parallel([lambda level=level: self.simd_object(level) for level in levels])

        for ext in self.extensions:
            ext.include_dirs = INCLUDE_DIRS
            ext.depends = C_DEPENDS
            ext.define_macros = [("CNX_OPENMP", "1" if openmp else "0"), ("CYTHON_CLINE_IN_TRACEBACK", "0")]
            ext.extra_compile_args = COMPILE_FLAGS
            ext.extra_link_args = LINK_FLAGS
            if ext.name == "cnnext._native.executor":
                ext.sources.append("src/simd/dispatch.c")
                ext.define_macros = ext.define_macros + simd_macros
                ext.extra_compile_args = COMPILE_FLAGS + openmp
                ext.extra_link_args = LINK_FLAGS + openmp
                ext.extra_objects = objects
                ext.depends = C_DEPENDS + objects
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        """Put changed modules in place, whole: setuptools goes by date, and would keep those of another flavour."""
        for ext in self.extensions:
            built = os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))
            target = self.get_ext_fullpath(ext.name)
            if os.path.exists(target) and filecmp.cmp(built, target):
                continue
            shutil.copy2(built, target + ".new")
            os.replace(target + ".new", target)

    def in_parallel(self, jobs: list[Callable]) -> list:
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(lambda job: job(), jobs))

    def cythonize(self, ext: Extension) -> None:
        """Replace the .pyx of an extension by its C file, which a performance hint forbids.

        A hint says, for one, that a call checks for an exception and takes the GIL for that: on a worker thread, a bug.
        """
        [source] = ext.sources
        target = Path(self.build_temp, "cython", source).with_suffix(".c")
        ext.sources = [str(target)]
        if not self.force and not newer_group([source, *CYTHON_DEPENDS], str(target)):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cython", "-I", ".", "-I", "src", "-I", "cnnext/include", "--module-name", ext.name]
        for name, value in DIRECTIVES.items():
            command += ["-X", f"{name}={value}"]
        result = subprocess.run([*command, source, "-o", str(target)], capture_output=True, text=True)
        sys.stderr.write(result.stdout + result.stderr)
        if result.returncode or "performance hint" in result.stderr:
            target.unlink(missing_ok=True)
            raise CompileError(f"{source}: Cython reports errors, or performance hints, which cnnext treats as errors.")

    def simd_object(self, level: str) -> str:
        """Compile the tile primitives for one level; a file of its own, since an object's name is its source's."""
        source = f"src/simd/level_{level}.c"
        [target] = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or newer_group([source, *SIMD_DEPENDS], target):
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=INCLUDE_DIRS,
                extra_postargs=[*COMPILE_FLAGS, *SIMD_FLAGS, *LEVELS[level]],
            )
        return target

    def openmp_flags(self) -> list[str]:
        """What turns OpenMP on, or nothing, with a warning, where there is none."""
        if not NO_OPENMP and self.compiles(OPENMP_PROBE, ["-fopenmp"], link=True):
            return ["-fopenmp"]
        reason = "CNNEXT_NO_OPENMP is set" if NO_OPENMP else "the compiler has no OpenMP (-fopenmp)"
        print(f"cnnext: WARNING: {reason}: cnnext will run on ONE thread.", file=sys.stderr)
        return []

    def compiles(self, code: str, flags: list[str], link: bool = False) -> bool:
        """Tell whether the compiler takes `code` with `flags`, silently."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code or "typedef int probe;\n")
            command = [*self.compiler.compiler_so, *flags, str(source), "-o", str(Path(folder, "probe"))]
            command += [] if link else ["-c"]
            return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Hold the lock of this flavour's build folder, which two builds at once would corrupt."""
    import fcntl

    folder = Path("build", FLAVOUR)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


setup(ext_modules=extensions(), cmdclass={"build": build, "build_ext": build_ext})
