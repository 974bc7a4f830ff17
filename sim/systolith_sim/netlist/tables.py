"""From a netlist of ECP5 cells to the tables that `Vcore.h` simulates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from systolith_sim.carry import OPEN
from systolith_sim.toolchain import ToolError

_TYPES = ((8, "uint8_t"), (16, "uint16_t"), (32, "uint32_t"), (64, "uint64_t"))
_XOR = 0b0110
_MUX = 0b1100_1010
"""Of two inputs, the one that a third chooses."""


@dataclass
class Lut:
    """A function of up to four nets: bit `i` of `init` for the inputs that form `i`.

    With `ram`, it is bit `bit` of that LUT RAM instead, counted from 1.
    """

    inputs: list[int]
    out: int
    init: int
    ram: int = 0
    bit: int = 0


@dataclass
class Tables:
    """A netlist by kinds of cells, its nets as numbers: 0 and 1 are the constants.

    Raises:
        ToolError: a cell, or what it is configured for, cannot be simulated.
    """

    nets: dict[int | str, int] = field(default_factory=lambda: {"0": 0, "1": 1, "x": 0, "z": 0})
    inputs: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, list[int]] = field(default_factory=dict)
    luts: list[Lut] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, module: dict[str, Any]) -> "Tables":
        """Read the module of a netlist in JSON."""
        tables = cls(rows={"FF": [], "RAM": [], "MULT": [], "EBR": []})
        for name, port in module["ports"].items():
            ports = tables.inputs if port["direction"] == "input" else tables.outputs
            ports[name] = [tables.net(bit) for bit in port["bits"]]
        (clock,) = tables.inputs["clk"]
        add = {
            "LUT4": tables._add_lut,
            "PFUMX": tables._add_mux,
            "L6MUX21": tables._add_mux,
            "CCU2C": tables._add_carry,
            "TRELLIS_FF": tables._add_flip_flop,
            "TRELLIS_DPR16X4": tables._add_lut_ram,
            "MULT18X18D": tables._add_multiplier,
            "DP16KD": tables._add_block_ram,
        }
        for name, cell in module["cells"].items():
            kind = cell["type"]
            if kind.startswith("$"):
                continue
            if kind not in add:
                raise ToolError(f"{name} is a {kind}, which the netlist's simulator does not know")
            pins = _Pins(tables, name, cell)
            for pin in ("CLK", "WCK", "CLK0", "CLKA", "CLKB"):
                if pin in cell["connections"] and pins[pin] != clock:
                    raise ToolError(f"{name} does not belong to the clock")
            add[kind](pins)
        return tables

    def net(self, bit: int | str) -> int:
        """The number of a net."""
        # Four names stand for two constants.
        return self.nets.setdefault(bit, len(self.nets) - 2)

    def fresh(self) -> int:
        """A net that the netlist does not have."""
        return self.net(f"fresh {len(self.nets)}")

    def _function(self, init: int, *inputs: int) -> int:
        out = self.fresh()
        self.luts.append(Lut([*inputs], out, init))
        return out

    def _add_lut(self, pins: "_Pins") -> None:
        self.luts.append(Lut(pins.each("ABCD"), pins["Z"], pins.number("INIT")))

    def _add_mux(self, pins: "_Pins") -> None:
        names = ("D0", "D1", "SD") if pins.kind == "L6MUX21" else ("BLUT", "ALUT", "C0")
        self.luts.append(Lut(pins.each(names), pins["Z"], _MUX))

    def _add_carry(self, pins: "_Pins") -> None:
        # Left open it may be anything: what reads it is wrong, so let it be what breaks most sums.
        carry = 1 if pins.is_open("CIN") else pins["CIN"]
        for half in "01":
            pins.require(f"INJECT1_{half}", "NO")
            init = pins.number(f"INIT{half}")
            inputs = pins.each(name + half for name in "ABCD")
            propagate = self._function(init, *inputs)
            generate = self._function(init & 0xF, *inputs[:2])
            self.luts.append(Lut([propagate, carry], pins[f"S{half}"] or self.fresh(), _XOR))
            # The carry where it propagates, else what the lower two inputs say.
            out = pins["COUT"] if half == "1" else 0
            self.luts.append(Lut([generate, carry, propagate], out or self.fresh(), _MUX))
            carry = self.luts[-1].out

    def _add_flip_flop(self, pins: "_Pins") -> None:
        pins.require("CLKMUX", "CLK")
        pins.require("LSRMUX", "LSR")
        pins.require("SRMODE", "LSR_OVER_CE")
        enable, inverted = pins.enable("CE")
        value = int(pins.text("REGSET", "RESET") == "SET")
        row = (pins["DI"], enable, pins["LSR"], pins["Q"], inverted, value)
        self.rows["FF"].append(_row(row))

    def _add_lut_ram(self, pins: "_Pins") -> None:
        pins.require("WCKMUX", "WCK")
        if pins.number("INITVAL"):
            raise ToolError(f"{pins.name} has initial contents, which are not simulated")
        enable, inverted = pins.enable("WRE")
        self.rows["RAM"].append(_row((pins.bus("DI"), pins.bus("WAD"), enable, inverted)))
        index = len(self.rows["RAM"])
        for bit, out in enumerate(pins.bus("DO")):
            if out:
                self.luts.append(Lut(pins.bus("RAD"), out, 0, index, bit))

    def _add_multiplier(self, pins: "_Pins") -> None:
        enables = []
        for register in ("INPUTA", "INPUTB", "OUTPUT"):
            pins.require(f"REG_{register}_CLK", "CLK0")
            pins.require(f"REG_{register}_RST", "RST0")
            enables.append(pins[pins.text(f"REG_{register}_CE", "CE0")])
        wires = [pins.range(name, count) for name, count in (("A", 18), ("B", 18), ("P", 36))]
        row = (*wires, pins["SIGNEDA"], pins["SIGNEDB"], pins["RST0"], *enables)
        self.rows["MULT"].append(_row(row))

    def _add_block_ram(self, pins: "_Pins") -> None:
        width = pins.number("DATA_WIDTH_A")
        if pins.number("DATA_WIDTH_B") != width:
            raise ToolError(f"{pins.name} has ports of different width, which is not simulated")
        pins.require("REGMODE_B", "OUTREG")
        for name in ("CSA0", "CSA1", "CSA2", "CSB0", "CSB1", "CSB2", "RSTA", "RSTB", "WEB"):
            if pins[name]:
                raise ToolError(f"{pins.name} uses {name}, which is not simulated")
        out = [*pins.range("DOB", 18), *[0] * 18]
        if width == 36:
            # A word of 36 bits begins at the pins of port A.
            out = [*pins.range("DOA", 18), *pins.range("DOB", 18)]
        # Words of 36 bits have no write enable but those of their bytes.
        write = 1 if width == 36 else pins["WEA"]
        contents = "".join(
            # Yosys writes the highest bit first; digits go from the lowest on.
            f"{int(pins.bits(f'INITVAL_{index:02X}') or '0', 2):080x}"[::-1]
            for index in range(64)
        )
        row = (
            pins.range("ADA", 14),
            pins.range("ADB", 14),
            [*pins.range("DIA", 18), *pins.range("DIB", 18)],
            out,
            *(pins["CEA"], write, pins["CEB"], pins["OCEB"], width),
            f'"{contents if contents.strip("0") else ""}"',
        )
        self.rows["EBR"].append(_row(row))

    def in_order(self) -> Iterator[Lut]:
        """All LUTs, each after those that it depends on.

        Raises:
            ToolError: some depend on each other.
        """
        makers = {lut.out: index for index, lut in enumerate(self.luts)}
        users: list[list[int]] = [[] for _ in self.luts]
        missing = [0] * len(self.luts)
        for index, lut in enumerate(self.luts):
            for net in lut.inputs:
                if net in makers:
                    users[makers[net]].append(index)
                    missing[index] += 1
        ready = [index for index, count in enumerate(missing) if not count]
        for index in ready:
            yield self.luts[index]
            for user in users[index]:
                missing[user] -= 1
                if not missing[user]:
                    ready.append(user)
        if len(ready) != len(self.luts):
            raise ToolError(f"{len(self.luts) - len(ready)} LUTs of the netlist form loops")

    def write(self) -> str:
        """Write the tables in C++."""
        luts = [
            _row(((lut.inputs + [0] * 4)[:4], lut.out, lut.init, lut.bit, lut.ram))
            for lut in self.in_order()
        ]
        parts = [
            f"constexpr uint32_t NETS = {max(self.nets.values()) + 1};",
            _table("Lut", "luts", "LUTS", luts),
            _table("FlipFlop", "flip_flops", "FLIP_FLOPS", self.rows["FF"]),
            _table("LutRam", "lut_ram_table", "LUT_RAMS", self.rows["RAM"]),
            _table("Multiplier", "multipliers", "MULTIPLIERS", self.rows["MULT"]),
            _table("BlockRam", "block_rams", "BLOCK_RAMS", self.rows["EBR"]),
            self._write_ports(),
        ]
        return "\n".join(parts) + "\n"

    def _write_ports(self) -> str:
        members, drives, observes = [], [], []
        for name, bits in (self.inputs | self.outputs).items():
            kind = next((kind for width, kind in _TYPES if len(bits) <= width), None)
            if kind is None:
                raise ToolError(f"{name} has {len(bits)} bits, and 64 can be simulated")
            members.append(f"    {kind} {name} = 0;")
            if name in self.inputs:
                drives += [f"        n[{n}] = {name} >> {i} & 1;" for i, n in enumerate(bits)]
            else:
                terms = " | ".join(f"uint64_t(n[{n}]) << {i}" for i, n in enumerate(bits))
                observes.append(f"        {name} = {terms};")
        return "\n".join(
            [
                "struct Ports {",
                *members,
                "    void drive(uint8_t* n) const {",
                *drives,
                "    }",
                "    void observe(const uint8_t* n) {",
                *observes,
                "    }",
                "};",
            ]
        )


class _Pins:
    """A cell: its pins as nets, its parameters as they are asked for."""

    def __init__(self, tables: Tables, name: str, cell: dict[str, Any]) -> None:
        self._tables = tables
        self.name = name
        self.kind = cell["type"]
        self._connections = cell["connections"]
        self._parameters = cell["parameters"]

    def __getitem__(self, pin: str) -> int:
        (net,) = self.bus(pin) if pin in self._connections else [0]
        return net

    def is_open(self, pin: str) -> bool:
        return self._connections.get(pin) == OPEN

    def bus(self, pin: str) -> list[int]:
        return [self._tables.net(bit) for bit in self._connections[pin]]

    def each(self, names: Iterable[str]) -> list[int]:
        return [self[name] for name in names]

    def range(self, name: str, count: int) -> list[int]:
        return self.each(f"{name}{index}" for index in range(count))

    def text(self, name: str, default: str) -> str:
        return self._parameters.get(name, default).strip()

    def bits(self, name: str) -> str:
        return self._parameters.get(name, "0").replace("x", "0")

    def number(self, name: str) -> int:
        return int(self.bits(name), 2)

    def require(self, name: str, value: str) -> None:
        given = self.text(name, value)
        if given != value:
            raise ToolError(f"{self.name} has {name} {given}, which is not simulated")

    def enable(self, pin: str) -> tuple[int, int]:
        """The net of an enable, and whether it is inverted."""
        match self.text(f"{pin}MUX", pin):
            case "1":
                return 1, 0
            case "0":
                return 0, 0
            case "INV":
                return self[pin], 1
            case _:
                return self[pin], 0


def _row(values: Iterable[Any]) -> str:
    return ",".join(_row(v) if isinstance(v, list | tuple) else str(v) for v in values).join("{}")


def _table(kind: str, name: str, count: str, rows: list[str]) -> str:
    body = ",\n".join(rows or ["{}"])
    return (
        f"constexpr uint32_t {count} = {len(rows)};\nstatic const {kind} {name}[] = {{\n{body}}};"
    )
