"""The core's driver in freestanding C, and compiled programs as C sources for it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

import numpy as np

from systolith.bindings import Binding
from systolith.manual import c_header
from systolith.program import (
    CODE_BASE,
    IMAGE_BASE,
    INPUT_BASE,
    OUTPUT_BASE,
    SCRATCH_BASE,
    Program,
)

DRIVER = ("systolith_driver.h", "systolith_driver.c")
"""Files of the driver, beside the generated `systolith.h`."""

_BYTES_PER_LINE = 16

_BASES = {
    "CODE": CODE_BASE,
    "IMAGE": IMAGE_BASE,
    "INPUT": INPUT_BASE,
    "OUTPUT": OUTPUT_BASE,
    "SCRATCH": SCRATCH_BASE,
}


def driver_files() -> dict[str, str]:
    """The driver and the header it is written against, by file name."""
    folder = resources.files(__name__)
    return {
        "systolith.h": c_header(),
        **{name: folder.joinpath(name).read_text("utf-8") for name in DRIVER},
    }


def program_files(
    program: Program,
    name: str,
    *,
    vectors: Mapping[str, np.ndarray] | None = None,
    incbin: bool = False,
) -> dict[str, str | bytes]:
    """A program as `<name>.h` and `<name>.c`, which define `const systolith_program <name>`.

    Args:
        program: a compiled program.
        name: of the variable and the files.
        vectors: codes of every input and output, `[rows, columns]` by name. They become
            `<name>_test_input` and `<name>_test_output`, laid out as the program wants it.
        incbin: put code and parameters into `<name>.bin`, which `<name>.S` includes, since
            compilers take long for megabytes of numbers.

    Raises:
        ValueError: `name` is no identifier of C.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of a variable")
    header = [
        f"/* {_comment(program.name)}, {program.seq_len} rows: a Systolith program. Generated. */",
        f"#ifndef {name.upper()}_H",
        f"#define {name.upper()}_H",
        "",
        '#include "systolith_driver.h"',
        "",
        *(
            f"#define {name.upper()}_{kind}_BYTES {program.base_bytes[base]}u"
            for kind, base in _BASES.items()
        ),
        "",
        f"extern const systolith_program {name};",
    ]
    source = [f'#include "{name}.h"', ""]
    files: dict[str, str | bytes] = {}
    blobs = {f"{name}_code": program.code, f"{name}_image": program.image}
    if incbin:
        files |= _assembly(name, blobs)
        source += [f"extern const uint8_t {each}[];" for each, data in blobs.items() if data]
    else:
        for each, data in blobs.items():
            if data:
                source += _array(each, data, "static ")
    if vectors is not None:
        sides = {"input": program.inputs, "output": program.outputs}
        for side, bindings in sides.items():
            header.append(f"extern const uint8_t {name}_test_{side}[];")
            source += _array(f"{name}_test_{side}", region(bindings, vectors))
    header += ["", "#endif", ""]
    for side, bindings in (("inputs", program.inputs), ("outputs", program.outputs)):
        source.append(f"static const systolith_tensor {name}_{side}[] = {{")
        source += [f"    {_tensor(binding)}," for binding in bindings]
        source += ["};", ""]
    fields = {
        "name": _string(program.name),
        "config_hash": f"0x{program.config.hash:016x}ull",
        "code": f"{name}_code",
        "image": f"{name}_image" if program.image else "NULL",
        **{f"{kind.lower()}_bytes": f"{name.upper()}_{kind}_BYTES" for kind in _BASES},
        "length": f"{program.seq_len}u",
        "inputs": f"{name}_inputs",
        "input_count": f"{len(program.inputs)}u",
        "outputs": f"{name}_outputs",
        "output_count": f"{len(program.outputs)}u",
    }
    source.append(f"const systolith_program {name} = {{")
    source += [f"    .{key} = {value}," for key, value in fields.items()]
    source += ["};", ""]
    return {f"{name}.h": "\n".join(header), f"{name}.c": "\n".join(source), **files}


def region(bindings: Iterable[Binding], codes: Mapping[str, np.ndarray]) -> bytes:
    """What lies behind a base: tensors at their offsets, zeros between them.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another size.
    """
    bindings = tuple(bindings)
    data = bytearray(max((each.offset + each.size for each in bindings), default=0))
    for each in bindings:
        values = np.ascontiguousarray(codes[each.name], each.dtype).tobytes()
        if len(values) != each.size:
            raise ValueError(f"{each.name} has {len(values)} bytes instead of {each.size}")
        data[each.offset : each.offset + each.size] = values
    return bytes(data)


def _tensor(binding: Binding) -> str:
    kind = binding.dtype
    facts = (binding.offset, binding.size, binding.rows, binding.columns, kind.itemsize)
    numbers = ", ".join(map(str, (*facts, int(kind.kind == "i"))))
    return f"{{{_string(binding.name)}, {numbers}}}"


def _array(name: str, data: bytes, storage: str = "") -> Iterator[str]:
    yield f"{storage}const uint8_t SYSTOLITH_ALIGNED {name}[{len(data)}] = {{"
    for at in range(0, len(data), _BYTES_PER_LINE):
        yield f"    {', '.join(map(str, data[at : at + _BYTES_PER_LINE]))},"
    yield "};"
    yield ""


def _assembly(name: str, blobs: Mapping[str, bytes]) -> dict[str, str | bytes]:
    """One binary file, and what makes symbols of its parts in GNU's and Clang's assemblers."""
    lines, data = ["    .section .rodata", ""], b""
    for symbol, blob in blobs.items():
        if blob:
            lines += ["    .balign 64", f"    .globl {symbol}", f"{symbol}:"]
            lines += [f'    .incbin "{name}.bin", {len(data)}, {len(blob)}', ""]
            data += blob
    return {f"{name}.S": "\n".join(lines), f"{name}.bin": data}


def _string(text: str) -> str:
    """A string literal; a name of a model may hold anything."""
    letters = (
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\?' else "_"
        for letter in text
    )
    return f'"{"".join(letters)}"'


def _comment(text: str) -> str:
    return _string(text)[1:-1].replace("/", "_")
