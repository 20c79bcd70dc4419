"""The registry of layer types: built-ins by table, others by entry points of the group ``cnnext.layers``.

The only module that imports ``entrypoints``. Nothing is scanned before a name is asked for that is not built in, and
nothing of a plugin is imported before one of its layers is. Plugins may also bring graph passes, as entry points of the
group ``cnnext.passes``: those are looked for when a plan is made. ``CNNEXT_PLUGINS=none|all|name,name`` says which
distributions may be used, ``CNNEXT_PLUGIN_PREFER=name,name`` which one where several provide a layer type.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnext.errors import CnnextError, KernelError, PluginError, message, unknown
from cnnext.layers import IMPORTED, LAYERS
from cnnext.layers import layer_class as builtin_class

if TYPE_CHECKING:
    from cnnext.graph.graph import Graph
    from cnnext.layers.layer import Layer

__all__ = ["GROUP", "PASS_GROUP", "Plugin", "Scan", "contained", "graph_passes", "installed", "layer_class", "load_pass",
           "prefer", "provider", "registered", "scan", "without"]

GROUP = "cnnext.layers"
PASS_GROUP = "cnnext.passes"
ONNX_GROUP = "cnnext.onnx"

_TYPE_NAME = re.compile(r"(?P<vendor>[A-Za-z0-9][\w.-]*)/(?P<layer>[A-Za-z_]\w*)@(?P<version>[1-9][0-9]{0,8})")
_PASS_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ALLOWED, _PREFERRED = "CNNEXT_PLUGINS", "CNNEXT_PLUGIN_PREFER"

_preferred: list[str] = []
_registered: dict[str, type[Layer]] = {}


@dataclass(frozen=True)
class Plugin:
    """One layer type, or one graph pass, that an installed distribution provides.

    Parameters
    ----------
    name : str
        ``vendor/Layer@version``, or ``vendor/pass-name``.
    distribution, distribution_version : str
    target : str
        ``module:Class`` or ``module:function``, what the entry point refers to.
    """

    name: str
    distribution: str
    distribution_version: str
    target: str

    @property
    def layer(self) -> str:
        """The name without vendor and version."""
        return self.name.partition("/")[2].partition("@")[0]

    @property
    def family(self) -> str:
        """The name without the version."""
        return self.name.partition("@")[0]

    @property
    def version(self) -> int:
        """Version of the layer type."""
        return int(self.name.partition("@")[2])

    def __str__(self) -> str:
        return f"{self.distribution} {self.distribution_version}, entry point {self.name} = {self.target}"


@dataclass(frozen=True)
class Scan:
    """What the installed distributions say of a group of entry points: layer types or passes, and lines that are wrong."""

    plugins: tuple[Plugin, ...]
    faults: tuple[str, ...]


# Looking up


def layer_class(type_name: str) -> Any:
    """The class of a layer type.

    Parameters
    ----------
    type_name : str
        ``vendor/Layer@version``; ``vendor/Layer`` means the newest version installed; ``Layer`` alone does where one
        vendor has it. A built-in layer comes first and cannot be replaced.

    Raises
    ------
    PluginError
        If no distribution that may be used provides it, several do, or its class cannot be had.
    """
    vendor, _, short = type_name.partition("@")[0].rpartition("/")
    if vendor in ("", "cnnext") and (short in LAYERS or short in IMPORTED):
        found = builtin_class(short)
        if "@" in type_name and found.type_name != f"cnnext/{short}@{type_name.partition('@')[2]}":
            raise PluginError(f"layer {type_name!r} is of another version; this cnnext has {found.type_name!r}.")
        return found
    if type_name in _registered:
        return _registered[type_name]
    return _load(_choose(type_name, _matching(type_name)))


def _matching(type_name: str) -> list[Plugin]:
    """The layer types that a name may mean; of several versions, the newest."""
    family, _, version = type_name.partition("@")
    candidates = [p for p in scan().plugins if family in (p.family, p.layer) and version in ("", str(p.version))]
    allowed = [p for p in candidates if _is_allowed(p.distribution)]
    if candidates and not allowed:
        raise PluginError(f"layer {type_name!r} is provided by {candidates[0]}, which {_ALLOWED}="
                          f"{os.environ.get(_ALLOWED)} leaves out. Type: {_ALLOWED}=all")
    if not allowed:
        known = [*LAYERS, *(p.family for p in installed())]
        raise PluginError(f"{unknown('layer', type_name, known)} No installed distribution provides it. "
                          "See what is installed: cnnext plugins list")
    newest = {family: max(p.version for p in allowed if p.family == family) for family in {p.family for p in allowed}}
    return [p for p in allowed if p.version == newest[p.family]]


def _choose(name: str, candidates: list[Plugin], kind: str = "layer") -> Plugin:
    wanted = [_normalized(n) for n in (*_preferred, *os.environ.get(_PREFERRED, "").split(",")) if n.strip()]
    for distribution in wanted:
        preferred = [p for p in candidates if _normalized(p.distribution) == distribution]
        if len(preferred) == 1:
            return preferred[0]
    families = sorted({p.family for p in candidates})
    if len(families) > 1:
        raise PluginError(f"{kind} {name!r} may be {' or '.join(families)}: write one of them.")
    if len(candidates) > 1:
        owners = " and ".join(f"{p.distribution} {p.distribution_version}" for p in candidates)
        raise PluginError(f"{kind} {name!r} is provided by {owners}. Uninstall one of them, or type: "
                          f"{_PREFERRED}={candidates[0].distribution}")
    return candidates[0]


@lru_cache(maxsize=256)
def _load(plugin: Plugin) -> Any:
    from cnnext.layers.layer import Layer

    found = _imported(plugin, "layer")
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise PluginError(f"layer {plugin.name!r}: the entry point must name a subclass of cnnext.Layer. "
                          f"Received {type(found).__name__} ({plugin}). {_again(plugin)}")
    if found.type_name != plugin.name:
        raise PluginError(message(f"layer {plugin.name!r}", "type_name", f"be {plugin.name!r}, its entry point's name",
                                  found.type_name, str(plugin)) + f" {_again(plugin)}")
    return found


def _imported(plugin: Plugin, kind: str) -> Any:
    import entrypoints

    try:
        return entrypoints.EntryPoint.from_string(plugin.target, plugin.name).load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{kind} {plugin.name!r} cannot be imported: {type(error).__name__}: {error} ({plugin}). "
                          f"{_again(plugin)}") from error


def _again(plugin: Plugin) -> str:
    return f"Type: pip install --force-reinstall {plugin.distribution}"


def prefer(*distributions: str) -> None:
    """Say which distributions win where several provide a layer type; replaces what was said before.

    It comes before ``CNNEXT_PLUGIN_PREFER``.
    """
    _preferred[:] = distributions


@contextmanager
def registered(cls: type[Layer]) -> Iterator[None]:
    """Within the block, a model file's ``cls.type_name`` means ``cls``: for layers that are not installed yet."""
    if not _TYPE_NAME.fullmatch(cls.type_name) or cls.type_name.startswith("cnnext/"):
        raise ValueError(message(cls.__name__, "type_name", "read vendor/Layer@version, of a vendor other than cnnext",
                                 cls.type_name))
    before = _registered.get(cls.type_name)
    _registered[cls.type_name] = cls
    try:
        yield
    finally:
        if before is None:
            del _registered[cls.type_name]
        else:
            _registered[cls.type_name] = before


def installed() -> list[Plugin]:
    """The layer types of plugins that may be used, sorted by name."""
    return sorted((p for p in scan().plugins if _is_allowed(p.distribution)), key=lambda p: (p.name, p.distribution))


def without(distribution: str) -> str:
    """The line to type that leaves one distribution out and keeps the other plugins."""
    others = {p.distribution for group in (GROUP, PASS_GROUP) for p in scan(group).plugins if _is_allowed(p.distribution)}
    return f"Type: {_ALLOWED}={','.join(sorted(others - {distribution})) or 'none'}"


def _is_allowed(distribution: str) -> bool:
    allowed = os.environ.get(_ALLOWED, "all").strip()
    if allowed in ("all", "none", ""):
        return allowed != "none"
    return _normalized(distribution) in {_normalized(name) for name in allowed.split(",")}


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


# ONNX operators


def onnx_rule(domain: str, op_type: str) -> Any:
    """The rule by which a plugin turns an ONNX operator into layers, or None where no installed plugin has one.

    A rule is an entry point of the group ``cnnext.onnx`` with the name ``domain/OpType``, where ``ai.onnx`` is the domain of
    ONNX itself, and the value ``module:function``; the function takes a ``cnnext.onnx.site.Site``.

    Raises
    ------
    PluginError
        If the rule cannot be imported, or several distributions have one.
    """
    name = f"{domain or 'ai.onnx'}/{op_type}"
    found = _onnx_entries(tuple((folder, _changed(folder)) for folder in sys.path))
    entries = {_plugin(entry): entry for entry in found if entry.name == name and _is_allowed(entry.distro.name)}
    owners = sorted({plugin.distribution for plugin in entries})
    if len(owners) > 1:
        raise PluginError(f"the ONNX operator {name!r} is provided by {' and '.join(owners)}. Uninstall one of them, or "
                          f"name the others in {_ALLOWED}.")
    return _load_rule(*next(iter(entries.items()))) if entries else None


@lru_cache(maxsize=4)
def _onnx_entries(folders: tuple[tuple[str, int], ...]) -> list[Any]:
    return _entries([folder for folder, _ in folders], ONNX_GROUP)[0]


def _load_rule(plugin: Plugin, entry: Any) -> Callable[[Any], Any]:
    try:
        rule = entry.load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"the rule of the ONNX operator {plugin.name!r} cannot be imported: {type(error).__name__}: "
                          f"{error} ({plugin}). Type: pip install --force-reinstall {plugin.distribution}") from error

    @wraps(rule)
    def contained_rule(site: Any) -> Any:
        from cnnext.graph.stages import WaitsForData

        try:
            return rule(site)
        except (ValueError, CnnextError, WaitsForData):     # what it says of the operator, and what it has to wait for
            raise
        except Exception as error:
            raise PluginError(f"{site.layer.where}: its rule raised {type(error).__name__}: {error} ({plugin}).") from error

    return contained_rule


# Graph passes


def graph_passes() -> list[Plugin]:
    """The graph passes of plugins that may be used, in the order in which they run: by name.

    Raises
    ------
    PluginError
        If several distributions have a pass of one name, and none is preferred.
    """
    found: dict[str, list[Plugin]] = {}
    for plugin in scan(PASS_GROUP).plugins:
        if _is_allowed(plugin.distribution):
            found.setdefault(plugin.name, []).append(plugin)
    return [_choose(name, found[name], "graph pass") for name in sorted(found)]


@lru_cache(maxsize=64)
def load_pass(plugin: Plugin) -> Callable[[Graph], Graph]:
    """The function of a graph pass.

    Raises
    ------
    PluginError
        If it cannot be imported, or is no function.
    """
    found = _imported(plugin, "graph pass")
    if not callable(found):
        raise PluginError(f"graph pass {plugin.name!r}: the entry point must name a function. "
                          f"Received {type(found).__name__} ({plugin}). {_again(plugin)}")
    return found


# Who is to blame


def provider(cls: type) -> Plugin | None:
    """The plugin that a layer class belongs to: its own entry, or any of its package for a class without one.

    A package that brings a graph pass alone has layers as well, those that its pass puts into graphs.
    """
    package = cls.__module__.partition(".")[0]
    if package == "cnnext":
        return None
    mine = [p for group in (GROUP, PASS_GROUP) for p in scan(group).plugins
            if p.target.partition(":")[0].partition(".")[0] == package]
    exact = [p for p in mine if p.target == f"{cls.__module__}:{cls.__qualname__}"]
    named = [p for p in mine if p.name == getattr(cls, "type_name", "")]
    return next(iter((*exact, *named, *mine)), None)


class contained:
    """Errors of a plugin's layer name its distribution, version and entry point.

    A class, since a generator would take five times as long, some ten times for each layer of a graph.

    What the layer itself says of its arguments passes unchanged, and so does everything of layers without a plugin.

    Parameters
    ----------
    layer : Layer
    rule : str
        What it is doing, for the message: ``"shape rule"``.
    """

    __slots__ = ("layer", "rule")

    def __init__(self, layer: Layer, rule: str):
        self.layer = layer
        self.rule = rule

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        layer = self.layer
        from_layer = isinstance(error, (ValueError, TypeError)) and str(error).startswith(f"{layer.where}:")
        owner = None if from_layer or isinstance(error, KernelError) else provider(type(layer))
        if owner is None or str(owner) in str(error):
            return
        text = str(error) if isinstance(error, PluginError) else (
            f"{layer.where}: its {self.rule} raised {type(error).__name__}: {error}")
        look = f"check {owner.name}" if _TYPE_NAME.fullmatch(owner.name) else "doctor"
        raise PluginError(f"{text} ({owner}). See what is wrong: cnnext plugins {look}") from error


# Scanning


def scan(group: str = GROUP) -> Scan:
    """Read the entry points of all distributions on ``sys.path``; again only when one of its folders has changed."""
    return _scan(tuple((folder, _changed(folder)) for folder in sys.path), group)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _scan(folders: tuple[tuple[str, int], ...], group: str) -> Scan:
    path = [folder for folder, _ in folders]
    entries, faults = _entries(path, group)
    plugins: dict[Plugin, None] = {}
    for entry in entries:
        found = _plugin(entry)
        fault = _fault(entry, group)
        if fault:
            faults.append(f"{found}: {fault}")
        else:
            plugins[found] = None
    return Scan(tuple(plugins), tuple(faults))


def _plugin(entry: Any) -> Plugin:
    target = f"{entry.module_name}:{entry.object_name}" if entry.object_name else entry.module_name
    owner = entry.distro
    return Plugin(entry.name, owner.name.replace("_", "-"), (owner.version or "unknown").partition("-py")[0], target)


def _fault(entry: Any, group: str) -> str:
    """What is wrong with an entry point, or nothing."""
    pattern, form, kind = ((_TYPE_NAME, "vendor/Layer@version", "Class") if group == GROUP else
                           (_PASS_NAME, "vendor/pass-name", "function"))
    if not pattern.fullmatch(entry.name):
        return f"the name must read {form}."
    if entry.name.startswith("cnnext/"):
        return "the vendor cnnext is that of what is built in."
    return "" if entry.object_name else f"the entry point must read module:{kind}."


def _mentioning(path: list[str], group: str) -> list[Path] | None:
    """The files of entry points with a group's name in them; None where a folder is an archive, for ``entrypoints`` to read.

    A look at all files takes a millisecond, importing ``entrypoints`` and parsing them about twenty, and most programs
    use a plugin or none. As in ``entrypoints``, the first distribution of a name hides the others.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for folder in path:
        if folder.rstrip("/\\").endswith(".egg"):
            return None
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            return None
        except OSError:
            continue
        for name in sorted(n for n in names if n.endswith((".dist-info", ".egg-info"))):
            try:
                text = (file := Path(folder or ".", name, "entry_points.txt")).read_bytes()
            except OSError:
                continue
            owner = name.partition("-")[0]
            if group.encode() in text and owner not in seen:
                found.append(file)
            seen.add(owner)
    return found


def _entries(path: list[str], group: str) -> tuple[list[Any], list[str]]:
    files = _mentioning(path, group)
    if files is not None:
        return _parsed(files, group) if files else ([], [])
    import entrypoints

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            entries = entrypoints.get_group_all(group, path=path)
        except (configparser.Error, UnicodeDecodeError, OSError):
            return _parsed(_all_files(path), group)
    if caught:
        return _parsed(_all_files(path), group)
    return entries, []


def _all_files(path: list[str]) -> Iterator[Path]:
    """Where ``get_group_all`` stops at a file, or warns without its owner, the files are read one by one."""
    for folder in path:
        yield from sorted(Path(folder or ".").glob("*.*-info/entry_points.txt"))


def _parsed(files: Iterable[Path], group: str) -> tuple[list[Any], list[str]]:
    """The entry points in these files of distributions, and what cannot be read, with its owner."""
    import entrypoints

    entries, faults, seen = [], [], set()
    for file in files:
        owner = entrypoints.Distribution.from_name_version(file.parent.stem)
        if owner.name in seen:
            continue
        seen.add(owner.name)
        parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
        try:
            parser.read([file], encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            faults.append(f"{owner.name} {owner.version}: its entry points cannot be read: {reason}.")
            continue
        for name, text in parser.items(group, raw=True) if parser.has_section(group) else ():
            try:
                entries.append(entrypoints.EntryPoint.from_string(text, name, owner))
            except entrypoints.BadEntryPoint:
                faults.append(f"{owner.name} {owner.version}: the entry point {name} = {text} must read module:Class.")
    return entries, faults
