"""``make lint`` disassembles the register tiles: their sums have to stay in registers for the whole of the inner loop.

A compiler that runs out of registers says nothing: it stores sums on the stack and loads them again in every turn, and the
tile computes the same at a fraction of its speed. Only the instructions show it.

    python -m tests.simd.registers [FOLDER]      of the build, `build/release` by default
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The functions that are looked at, by symbol; a level that has none of a family is a finding too. Winograd's transforms of
# 6 x 6 pixels are not among them: 36 vectors are on the stack by design; nor are blocks of less than a vector of channels,
# whose mask may lie there. Without FMA a product takes a register more: of the plainest level, matrix tiles alone are asked.
MATRIX_TILES = (r"rows_\d+x\d+", r"outer_\d+x\d+")
OTHER_TILES = (r"depthwise_(?:inside|border)_\d+_\d+_\d+", r"taps_(?:dot|max|sum)", r"winograd_src_2", r"fma_loop",
               r"pixels_diff_\d+x\d+")

ARITHMETIC = re.compile(r"v?fn?m(?:add|sub)|v?(?:add|sub|mul|max|min)ps")
VECTOR = re.compile(r"%[xyz]mm\d+")
JUMP = re.compile(r"(j\w+|ret)\b\s*([0-9a-f]+ )?")
PEAK_SUMS = 12      # of src/simd/peak.inc.c
# A sum that is spilled is loaded in every turn. GCC 12 leaves one store that nothing loads in a tile of 56 multiply-adds.
DEAD_STORES = 1


@dataclass(frozen=True)
class Instruction:
    """A line of a disassembly: its address and the text that follows."""

    address: int
    text: str

    @property
    def jump(self) -> str:
        """``jmp``, ``jne``, ``ret``; empty for any other instruction."""
        match = JUMP.match(self.text)
        return match[1] if match else ""

    @property
    def target(self) -> int | None:
        """Address that a jump leads to."""
        match = JUMP.match(self.text)
        return int(match[2], 16) if match and match[2] else None


Code = list[Instruction]


def disassemble(path: Path) -> dict[str, Code]:
    """The functions of an object file, by symbol."""
    listing = subprocess.run(["objdump", "--disassemble", "--no-show-raw-insn", str(path)], check=True, text=True,
                             capture_output=True).stdout
    functions: dict[str, Code] = {}
    for line in listing.splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            code = functions.setdefault(head[1], [])
        elif found := re.match(r"\s+([0-9a-f]+):\t(.*)", line):
            code.append(Instruction(int(found[1], 16), found[2].strip()))
    return functions


def inner_loops(code: Code) -> Iterator[Code]:
    """The loops that compute and hold no other such loop.

    Natural loops: what lies between a jump and the block that it leads back to, if every way to the jump leads through it.
    """
    blocks, successors = _blocks(code)
    reached = _reached(successors)     # not so the padding in front of a loop
    predecessors = [{i for i in reached if block in successors[i]} for block in range(len(blocks))]
    dominators = _dominators(predecessors, reached)
    loops: dict[int, set[int]] = {}
    for end in reached:
        for head in successors[end] & dominators[end]:
            body, open_blocks = loops.setdefault(head, {head}), [end]
            while open_blocks:
                block = open_blocks.pop()
                if block not in body:
                    body.add(block)
                    open_blocks += predecessors[block]
    computing = {head: body for head, body in loops.items() if any(count_products(blocks[block]) for block in body)}
    for head, body in computing.items():
        if not any(other in body for other in computing if other != head):
            yield [instruction for block in sorted(body) for instruction in blocks[block]]


def count_products(code: Code) -> int:
    """Instructions that add or multiply vectors."""
    return sum(ARITHMETIC.match(instruction.text) is not None for instruction in code)


def _blocks(code: Code) -> tuple[list[Code], list[set[int]]]:
    """Runs of instructions that no jump leads into, and which of them may follow each."""
    targets = {instruction.target for instruction in code}
    blocks: list[Code] = []
    for i, instruction in enumerate(code):
        if i == 0 or instruction.address in targets or code[i - 1].jump:
            blocks.append([])
        blocks[-1].append(instruction)
    index = {block[0].address: i for i, block in enumerate(blocks)}
    successors: list[set[int]] = []
    for i, block in enumerate(blocks):
        last = block[-1]
        following = {index[last.target]} if last.target in index else set()
        if last.jump not in ("jmp", "ret") and i + 1 < len(blocks):
            following.add(i + 1)
        successors.append(following)
    return blocks, successors


def _reached(successors: Sequence[set[int]]) -> list[int]:
    """Blocks that some way from the first one leads to, in order."""
    reached, open_blocks = {0}, [0]
    while open_blocks:
        new = successors[open_blocks.pop()] - reached
        reached |= new
        open_blocks += new
    return sorted(reached)


def _dominators(predecessors: Sequence[set[int]], reached: Sequence[int]) -> list[set[int]]:
    """For each block that is reached, those that every way from the first block to it leads through, itself included."""
    dominators = [{0}, *(set(reached) for _ in predecessors[1:])]
    changed = True
    while changed:
        changed = False
        for block in reached[1:]:
            found = set.intersection(*(dominators[p] for p in predecessors[block])) | {block}
            changed, dominators[block] = changed or found != dominators[block], found
    return dominators


def fault(name: str, code: Code) -> str:
    """What is wrong with the loops of a tile; empty where its sums stay in registers."""
    loops = list(inner_loops(code))
    products = max(map(count_products, loops), default=0)
    size = re.fullmatch(r"(?:rows|outer|pixels_diff)_(\d+)x(\d+)", name)
    sums = int(size[1]) * int(size[2]) if size else PEAK_SUMS if name == "fma_loop" else 1
    if products < sums:
        return f"a loop of {sums} multiply-adds is expected, {products} are found: it is not unrolled"
    # Without a frame pointer %rbp is a register like any other.
    frame = "rsp|rbp" if any(re.match(r"mov\s+%rsp,%rbp", i.text) for i in code) else "rsp"
    stack = re.compile(rf"\(%(?:{frame})\b")
    touching = [i.text for loop in loops for i in loop if stack.search(i.text) and VECTOR.search(i.text)]
    loaded = [text for text in touching if not text.endswith(")")]
    if loaded or len(touching) > DEAD_STORES:
        return f"{len(touching)} accesses of vectors to the stack in its inner loops, for one `{(loaded or touching)[0]}`"
    return ""


def faults(path: Path) -> list[str]:
    """What is wrong with the tiles of one level's object file."""
    functions = disassemble(path)
    families = MATRIX_TILES if path.stem.endswith("_baseline") else (*MATRIX_TILES, *OTHER_TILES)
    found = []
    for family in families:
        tiles = [name for name in functions if re.fullmatch(family, name)]
        if not tiles:
            found.append(f"{path.name}: no function is called {family}: this check looks at nothing")
        found += [f"{path.name}: {name}: {text}" for name in tiles if (text := fault(name, functions[name]))]
    return found


def built_objects(folder: Path) -> list[Path]:
    """The levels' objects of a build, which keep the symbols of static functions; setup.py says where they lie."""
    return sorted((folder / str(sysconfig.get_config_var("SOABI")) / "temp" / "src" / "simd").glob("level_*.o"))


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong; 1 if anything is."""
    if "x86_64" not in str(sysconfig.get_config_var("SOABI")) or shutil.which("objdump") is None:
        print("registers: not looked at; it takes objdump, and knows x86-64 alone.")
        return 0
    folder = Path(arguments[0] if arguments else "build/release")
    objects = built_objects(folder)
    found = [text for path in objects for text in faults(path)]
    if not objects:
        found = [f"{folder}: no objects of the tile primitives; `make .venv/stamp-native` builds them"]
    print("\n".join(found) or f"Sums of all tiles stay in registers ({', '.join(p.name for p in objects)}).")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
