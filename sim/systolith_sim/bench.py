"""A test bench in plain Verilog for an exported core: `bench.v` with a program filled in."""

import re
from importlib import metadata, resources

import numpy as np

from systolith import regs
from systolith.c import region
from systolith.isa import INSTRUCTION_BYTES
from systolith.program import (
    CODE_BASE,
    IMAGE_BASE,
    INPUT_BASE,
    LENGTH_SCALAR,
    OUTPUT_BASE,
    Program,
)
from systolith.regs import Control, State
from systolith_sim.vectors import Vectors

PAGE = 4096
"""Bytes to which the memory behind each base is aligned."""

UNTOUCHED = 0xA5
"""What memory holds where nothing has been written."""

CYCLES_PER_MAC = 50
"""How slow a run may be, random stalls included, before it counts as hung."""


def verilog_bench(program: Program, vectors: Vectors, *, core: str) -> str:
    """Return a test bench: module `<core>_bench`, which wants the module `core` and nothing else.

    Args:
        program: what to run; small, since all of its bytes become statements.
        vectors: its inputs and expected outputs.
        core: name of the exported core's module.

    Raises:
        ValueError: `core` is no identifier of Verilog.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", core):
        raise ValueError(f"{core!r} cannot be the name of a module")
    places, end = dict[int, int](), 0
    for base, size in program.base_bytes.items():
        places[base] = end
        end += -(-(size + 1) // PAGE) * PAGE
    width = program.config.axi_bytes
    contents = {
        CODE_BASE: program.code,
        IMAGE_BASE: program.image,
        INPUT_BASE: region(program.inputs, vectors.inputs),
    }
    fill = [
        f"memory[{(places[base] + at) // width}] = {_word(data[at : at + width], width)};"
        for base, data in contents.items()
        for at in range(0, len(data), width)
    ]
    # One byte more than the program may write: it must stay as it was.
    output = np.full(program.base_bytes[OUTPUT_BASE] + 1, UNTOUCHED, np.uint8)
    for each in program.outputs:
        codes = region([each], vectors.outputs)
        output[each.offset : each.offset + each.size] = np.frombuffer(codes, np.uint8)[
            each.offset :
        ]
    compare = [
        f"compare({places[OUTPUT_BASE] + at}, 8'h{byte:02x});" for at, byte in enumerate(output)
    ]
    writes = [
        f"write_register({_address(name)}, 32'h{value:08x});"
        for name, value in _settings(program, places)
    ]
    facts = {
        "core": core,
        "version": metadata.version("systolith"),
        "data_bits": 8 * width,
        "address_bits": program.config.axi_address_bits,
        "words": end // width,
        "timeout": 100_000 + CYCLES_PER_MAC * program.macs,
        "fill": _indented(fill, 6),
        "registers": _indented(writes, 6),
        "compare": _indented(compare, 4),
        "count": len(output) - 1,
        "id": _address("id"),
        "magic": f"32'h{regs.MAGIC:08x}",
        "status": _address("status"),
        "done": f"32'd{State.DONE.value}",
        "cycles": _address("cycles_lo"),
        "control": _address("control"),
        "acknowledge": f"32'd{1 << Control.ACKNOWLEDGE}",
    }
    text = resources.files("systolith_sim").joinpath("bench.v").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(facts[match[1]]), text)


def _settings(program: Program, places: dict[int, int]) -> list[tuple[str, int]]:
    hash_value = program.config.hash
    settings = [
        (name, value)
        for base, at in places.items()
        for name, value in (
            (f"base{base}_lo", at),
            (f"base{base}_hi", 0),
            (f"limit{base}", program.base_bytes[base]),
        )
    ]
    return [
        *settings,
        ("program_hash_lo", hash_value & 0xFFFF_FFFF),
        ("program_hash_hi", hash_value >> 32),
        ("program_size", len(program.code) // INSTRUCTION_BYTES),
        (f"scalar{LENGTH_SCALAR}", program.seq_len),
        ("interrupt_enable", 1),
        ("control", 1 << Control.START),
    ]


def _word(data: bytes, width: int) -> str:
    return f"{8 * width}'h{int.from_bytes(data, 'little'):0{2 * width}x}"


def _address(name: str) -> str:
    return f"10'h{regs.offset(name):03x}"


def _indented(lines: list[str], spaces: int) -> str:
    return "\n".join(f"{' ' * spaces}{line}" for line in lines)
