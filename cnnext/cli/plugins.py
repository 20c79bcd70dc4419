"""``cnnext plugins list | check NAME | doctor | new NAME``: what is installed, whether it is sound, how to begin one."""

from __future__ import annotations

import argparse
import json
import keyword
import os
import re
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from cnnext.errors import PluginError, message

if TYPE_CHECKING:
    from cnnext.plugins import Plugin

LEVELS = ("compose", "numpy", "native")

_TEMPLATES = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "$package/__init__.py": "init.py.in",
    "$package/$module.py": "$level.py.in",
    "tests/test_$module.py": "test_layer.py.in",
}
_NATIVE_TEMPLATES = {"setup.py": "setup.py.in", "$package/_kernels.pyx": "kernels.pyx.in"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the layer types and graph passes of installed plugins")
    listing.add_argument("--json", action="store_true", help="for programs")
    check = actions.add_parser("check", help="check that a layer keeps the layer contract, and print a report card")
    check.add_argument("name", help="vendor/Layer@version; vendor and version may be left out where that is clear")
    check.add_argument("--shape", action="append", default=[], metavar="N,H,W,C", help="of an input; once for each")
    check.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an attribute; JSON, or text")
    check.add_argument("--json", action="store_true", help="for programs")
    actions.add_parser("doctor", help="what is wrong with the installed plugins")
    new = actions.add_parser("new", help="write a package with a layer that installs and passes its tests")
    new.add_argument("name", help="Layer, or vendor/Layer")
    new.add_argument("--level", choices=LEVELS, default="compose", help="made of layers, NumPy, or a kernel in Cython")
    new.add_argument("--folder", default=".", help="where the package's folder is made")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    {"list": _list, "check": _check, "doctor": _doctor, "new": _new}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    from cnnext.plugins import graph_passes, installed

    found = [*installed(), *graph_passes()]
    if arguments.json:
        print(json.dumps([{"name": p.name, "distribution": p.distribution, "version": p.distribution_version,
                           "target": p.target} for p in found], indent=1))
        return
    for p in found:
        print(f"{p.name}  {p.distribution} {p.distribution_version}  {p.target}")
    if not found:
        print("No plugin is installed.")


def _check(arguments: argparse.Namespace) -> None:
    from cnnext.plugins import layer_class
    from cnnext.testing import check_layer

    cls = layer_class(arguments.name)
    layer = cls(**dict(_attribute(text) for text in arguments.set))
    shapes = [_shape(text) for text in arguments.shape] or [(2, 6, 7, 8)] * (cls.n_inputs or 2)
    report = check_layer(layer, shapes)
    print(report.to_json() if arguments.json else report)
    if not report.ok:
        raise PluginError(f"{arguments.name} does not keep the layer contract.")


def _attribute(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(message("check", "--set", "read NAME=VALUE", text))
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]*(,[1-9][0-9]*)*", text):
        raise ValueError(message("check", "--shape", "be positive whole numbers with commas between", text))
    return tuple(int(n) for n in text.split(","))


def _doctor(arguments: argparse.Namespace) -> None:
    from cnnext import plugins

    for name in ("CNNEXT_PLUGINS", "CNNEXT_PLUGIN_PREFER"):
        print(f"{name}={os.environ.get(name, '')}")
    problems = [*plugins.scan().faults, *plugins.scan(plugins.PASS_GROUP).faults]
    checks: list[tuple[Plugin, Callable[[], object]]] = [
        *((plugin, partial(plugins.layer_class, plugin.name)) for plugin in plugins.installed()),
        *((plugin, partial(plugins.load_pass, plugin)) for plugin in plugins.graph_passes()),
    ]
    for plugin, load in checks:
        try:
            load()
        except PluginError as error:
            problems.append(str(error))
        else:
            print(f"fine   {plugin}")
    for problem in dict.fromkeys(problems):
        print(f"WRONG  {problem}")
    if problems:
        raise PluginError(f"{len(set(problems))} problem(s) with the installed plugins.")


def _new(arguments: argparse.Namespace) -> None:
    vendor, _, layer = arguments.name.rpartition("/")
    vendor = vendor or layer.lower()
    if not layer.isidentifier() or not layer.isascii() or keyword.iskeyword(layer):
        raise ValueError(message("new", "name", "end with a name that Python allows for a class", arguments.name))
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", vendor) or vendor == "cnnext":
        raise ValueError(message("new", "name", "have a vendor in lower case, other than cnnext", arguments.name))
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", layer).lower()
    native = arguments.level == "native"
    requires = ['"setuptools>=77"', *(['"cython>=3.1"', '"cnnext>=0.1"'] if native else [])]
    distribution = f"cnnext-{vendor}".replace("_", "-")
    words = {"vendor": vendor, "layer": layer, "module": module, "package": distribution.replace("-", "_"),
             "distribution": distribution, "level": arguments.level, "requires": ", ".join(requires)}
    root = Path(arguments.folder, distribution)
    if root.exists():
        raise ValueError(message("new", "folder", "not hold a package of this name yet", str(root)))
    templates = resources.files("cnnext") / "templates"
    for target, source in {**_TEMPLATES, **(_NATIVE_TEMPLATES if native else {})}.items():
        path = root / Template(target).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / Template(source).substitute(words)).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    print(f"Wrote {root}. Install and check it:\n  pip install --no-build-isolation {root}\n"
          f"  cnnext plugins check {vendor}/{layer}")
