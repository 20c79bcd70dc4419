"""Builds the native kernels; everything that is plain metadata stands in pyproject.toml."""

from setuptools import setup

from cnnext.build import kernel_extension

extension, build_ext = kernel_extension(
    "cnnext_normalization._native",
    ["cnnext_normalization/_native.pyx"],
    simd=["cnnext_normalization/rows.c"],
)
extension.depends += ["cnnext_normalization/rows.h"]

setup(ext_modules=[extension], cmdclass={"build_ext": build_ext})
