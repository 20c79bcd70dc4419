"""The native contract as data: what a header declares, where a compiler puts it, and which changes would break plugins.

``python -m tests.abi.contract`` (``make abi``) writes the description of ``cnnext_plugin.h`` as it is now to
``tests/abi/v<CNX_ABI>.json``: at a release, and only then.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycparser import c_ast, c_generator, c_parser

import cnnext

HEADER = Path(cnnext.__file__).parent / "include" / "cnnext_plugin.h"
PXD = Path(cnnext.__file__).parent / "plugin.pxd"
MACROS = ("CNX_ABI", "CNX_MAX_RANK", "CNX_KERNEL_CAPSULE")

# What the C parser has to know of <stdint.h>; the compiler gets the real one.
INTEGERS = "".join(f"typedef int {name};\n" for name in ("int32_t", "uint32_t", "int64_t", "uint64_t"))

Description = dict[str, Any]


def compiler() -> list[str]:
    """The C compiler that extension modules are built with."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def released(abi: int) -> Path:
    """Where the description of a released ABI lies."""
    return Path(__file__).parent / f"v{abi}.json"


# Reading declarations


def declarations(text: str) -> Description:
    """Types as a C text without preprocessor lines declares them: structs with their fields, enums, functions."""
    found: Description = {"structs": {}, "enums": [], "functions": {}}
    for item in c_parser.CParser().parse(INTEGERS + text).ext:
        inner = item.type if isinstance(item, (c_ast.Typedef, c_ast.Decl)) else None
        if isinstance(inner, c_ast.Enum):
            found["enums"].append([constant.name for constant in inner.values.enumerators])
        elif isinstance(inner, c_ast.PtrDecl) and isinstance(item, c_ast.Typedef):
            found["functions"][item.name] = spelled(inner)
        elif isinstance(inner, c_ast.TypeDecl) and isinstance(inner.type, c_ast.Struct):
            fields = [{"name": field.name, "type": spelled(field.type)} for field in inner.type.decls]
            found["structs"][item.name] = fields
    return found


def spelled(declared: c_ast.Node) -> str:
    """A type as C, without the names of fields and arguments: ``void (*)(const cnx_gemm *)``."""
    for _, node in walk(declared):
        if isinstance(node, c_ast.TypeDecl):
            node.declname = None
        elif isinstance(node, (c_ast.Decl, c_ast.Typename)):
            node.name = None
    return c_generator.CGenerator().visit(c_ast.Typename(None, [], None, declared))


def walk(node: c_ast.Node) -> Iterator[tuple[str, c_ast.Node]]:
    yield "", node
    for _, child in node.children():
        yield from walk(child)


def preprocessed(header: Path) -> str:
    """A header with its macros expanded and without comments; what it includes is left out."""
    text = re.sub(r"^#include.*$", "", header.read_text(encoding="utf-8"), flags=re.MULTILINE)
    result = subprocess.run([*compiler(), "-E", "-P", "-xc", "-"], input=text, capture_output=True, text=True, check=True)
    return result.stdout


def pxd_as_c(pxd: str, macros: dict[str, Any]) -> str:
    """What a ``.pxd`` declares, as C: each block of lines that belongs to ``enum:`` or ``ctypedef struct NAME:``."""
    pxd = re.sub(r"#.*|\bnoexcept\b|\bnogil\b", "", pxd)
    pxd = re.sub(r"\[(\w+)\]", lambda extent: f"[{macros.get(extent[1], extent[1])}]", pxd)
    out = []
    block = r"^    (enum|ctypedef struct (\w+)):\n((?:(?: {8}.*)?\n)+)|^    ctypedef (int.*)$"
    for kind, name, body, function in re.findall(block, pxd, re.MULTILINE):
        lines = [line.strip() for line in re.sub(r",\s*\n\s*", ", ", body).splitlines() if line.strip()]
        if function:
            out.append(f"typedef {function};")
        elif kind == "enum":
            out.append(f"enum {{ {', '.join(lines)} }};")
        else:
            out.append(f"typedef struct {name} {{ {' '.join(f'{line};' for line in lines)} }} {name};")
    return "\n".join(out)


# Asking the compiler


def describe(header: Path = HEADER) -> Description:
    """All that a plugin is compiled against: constants, enums, function types, structs with offsets and sizes.

    Parameters
    ----------
    header : Path
        ``cnnext_plugin.h``, or a changed copy of it.
    """
    text = header.read_text(encoding="utf-8")
    macros = [name for name in MACROS if re.search(rf"^#define {name} ", text, re.MULTILINE)]
    found = declarations(preprocessed(header))
    questions = [(f"sizeof({name})", f"sizeof({name})") for name in found["structs"]]
    questions += [(f"{name}.{f['name']}", f"offsetof({name}, {f['name']})")
                  for name, fields in found["structs"].items() for f in fields]
    questions += [(f"{name}.{f['name']} size", f"sizeof((({name} *)0)->{f['name']})")
                  for name, fields in found["structs"].items() for f in fields]
    questions += [(constant, constant) for enum in found["enums"] for constant in enum]
    questions += [(name, name) for name in macros if name != "CNX_KERNEL_CAPSULE"]
    numbers = _measured(header, dict(questions))
    capsule = re.search(r'^#define CNX_KERNEL_CAPSULE "(.*)"$', text, re.MULTILINE)
    return {
        "pointer_bytes": numbers["pointer"],
        "macros": {name: numbers.get(name, capsule and capsule[1]) for name in macros},
        "enums": [{constant: numbers[constant] for constant in enum} for enum in found["enums"]],
        "functions": found["functions"],
        "structs": {
            name: {"size": numbers[f"sizeof({name})"],
                   "fields": [{**f, "offset": numbers[f"{name}.{f['name']}"],
                               "size": numbers[f"{name}.{f['name']} size"]} for f in fields]}
            for name, fields in found["structs"].items()
        },
    }


def _measured(header: Path, questions: dict[str, str]) -> dict[str, int]:
    lines = [f'    printf("{label}=%lld\\n", (long long)({expression}));' for label, expression in questions.items()]
    program = "\n".join([
        "#include <stddef.h>", "#include <stdio.h>", f'#include "{header.resolve()}"', "int main(void)", "{",
        '    printf("pointer=%d\\n", (int)sizeof(void *));', *lines, "    return 0;", "}",
    ])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "describe.c"), Path(folder, "describe")
        source.write_text(program)
        subprocess.run([*compiler(), str(source), "-o", str(target)], check=True)
        printed = subprocess.run([str(target)], check=True, capture_output=True, text=True).stdout
    return {label: int(number) for label, number in (line.split("=") for line in printed.splitlines())}


# Comparing


def breaks(before: Description, now: Description) -> list[str]:
    """What of a released contract no longer holds; empty if all changes are appends.

    Fields may be added at the end of structs that carry ``size``, so that a reader can tell. The others are filled by
    plugins, or lie in arrays: they are as they are. Constants may be added with values of their own, macros that count
    (``*_COUNT``) may grow.
    """
    wrong = [f"{name} was {value}, is {now['macros'].get(name)}" for name, value in before["macros"].items()
             if now["macros"].get(name) != value]
    wrong += [f"{name} was {kind}, is {now['functions'].get(name)}" for name, kind in before["functions"].items()
              if now["functions"].get(name) != kind]
    for enum in before["enums"]:
        wrong += _broken_constants(enum, now["enums"])
    for name, struct in before["structs"].items():
        wrong += _broken_fields(name, struct, now["structs"].get(name))
    return wrong


def _broken_constants(before: dict[str, int], lists: list[dict[str, int]]) -> list[str]:
    now = max(lists, key=lambda names: len(names.keys() & before.keys()), default={})
    wrong = []
    for name, value in before.items():
        if name not in now:
            wrong.append(f"{name} is gone")
        elif now[name] < value if name.endswith("_COUNT") else now[name] != value:
            wrong.append(f"{name} was {value}, is {now[name]}")
    taken = {value for name, value in before.items() if not name.endswith("_COUNT")}
    return wrong + [f"{name} takes the value {value} of another constant" for name, value in now.items()
                    if name not in before and value in taken]


def _broken_fields(name: str, before: Description, now: Description | None) -> list[str]:
    if now is None:
        return [f"{name} is gone"]
    wrong = []
    for i, field in enumerate(before["fields"]):
        if i >= len(now["fields"]) or now["fields"][i] != field:
            wrong.append(f"{name}.{field['name']} was {field}, is {now['fields'][i] if i < len(now['fields']) else 'gone'}")
    carries_size = [f["name"] for f in before["fields"][:2]] == ["abi", "size"]
    if now["size"] != before["size"] and not (carries_size and len(now["fields"]) > len(before["fields"])):
        wrong.append(f"{name} had {before['size']} bytes, has {now['size']}")
    return wrong


if __name__ == "__main__":
    described = describe()
    target = released(described["macros"]["CNX_ABI"])
    target.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {target}.")
