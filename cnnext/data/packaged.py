"""Files that other packages carry: trained models, photographs, data sets. Nothing is downloaded, nothing imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def package_file(package: str, *parts: str, what: str, install: str) -> Path:
    """Where a file lies that an installed package carries.

    The package is found without being imported, and so without the libraries that it needs: ``pip install --no-deps`` is
    enough for it.

    Parameters
    ----------
    package : str
        Name of the top-level package, as it is imported.
    *parts : str
        The file's path inside it.
    what, install : str
        What the error calls the file, and the distribution (with options, if any) to ``pip install``.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    FileNotFoundError
        If it is, but without this file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = install.split()[-1]
        raise ModuleNotFoundError(f"{what} with the package {name}. Install it: pip install {install}", name=package)
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file in the package {package} that is installed here.")
    return path


def photo(name: str) -> Path:
    """A picture of scikit-image, such as ``page.png`` or ``astronaut.png``.

    Raises
    ------
    ModuleNotFoundError
        If scikit-image is not installed; its dependencies are not needed.
    """
    return package_file("skimage", "data", name, what=f"{name} comes", install="--no-deps scikit-image")
