"""The registry of layer types: built-ins by table, others by entry points of the group ``cnnext.layers``.

The only module that imports ``entrypoints``. Nothing is scanned before a name is asked for that is not built in.
"""

from __future__ import annotations

from typing import Any

from cnnext.errors import PluginError, unknown
from cnnext.layers import LAYERS
from cnnext.layers import layer_class as builtin_class

GROUP = "cnnext.layers"


def layer_class(type_name: str) -> Any:
    """The class of a layer type ``vendor/Layer@version``; the version may be left out.

    Raises
    ------
    PluginError
        If no installed distribution provides it, several do, or it cannot be imported.
    """
    name = type_name.partition("@")[0]
    vendor, _, short = name.rpartition("/")
    if vendor in ("", "cnnext") and short in LAYERS:
        found = builtin_class(short)
        if "@" in type_name and found.type_name != f"cnnext/{short}@{type_name.partition('@')[2]}":
            raise PluginError(f"layer {type_name!r} is of another version; this cnnext has {found.type_name!r}.")
        return found
    providers = _entry_points(name)
    if not providers:
        raise PluginError(unknown("layer", type_name, LAYERS) + " No installed plugin provides it either.")
    if len(providers) > 1:
        owners = ", ".join(f"{p.distro.name} {p.distro.version}" if p.distro else "?" for p in providers)
        raise PluginError(f"layer {type_name!r} is provided by more than one distribution: {owners}.")
    try:
        return providers[0].load()
    except Exception as error:
        raise PluginError(f"layer {type_name!r} of {providers[0].module_name} cannot be imported: {error}") from error


def _entry_points(name: str) -> list[Any]:
    import entrypoints

    return [e for e in entrypoints.get_group_all(GROUP) if e.name.partition("@")[0] == name]
