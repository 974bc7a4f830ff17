"""The block RAM every memory of the core is made of."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith_rtl.reset import without_reset


class BlockRam(wiring.Component):
    """One read port and one write port, with a register behind the read.

    `read_data` is the word at `read_address` of two cycles ago if `read_enable` was high then,
    else it holds or is undefined. Reading an address in the cycle in which it is written gives an
    undefined word: the core never does, so no block RAM needs collision logic.

    This description runs everywhere. Yosys never uses the output register of an ECP5 block RAM,
    so a platform may provide the block itself, as `get_block_ram(ram)`.

    With `holds`, both stages of a read can stand still: the word that is read holds while
    `read_enable` is low, and `read_data` while `output_enable` is.

    Members:
        read_address: `In(range(depth))`.
        read_enable: `In(1)`.
        output_enable: `In(1)`, without `holds` of no effect.
        read_data: `Out(width)`.
        write_address: `In(range(depth))`.
        write_data: `In(width)`.
        write_enable: `In(width // granularity)`, a bit for each group of bits.
    """

    LATENCY = 2

    read_address: Signal
    read_enable: Signal
    output_enable: Signal
    read_data: Signal
    write_address: Signal
    write_data: Signal
    write_enable: Signal

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        granularity: int | None = None,
        init: list[int] | None = None,
        holds: bool = False,
    ) -> None:
        self.width = width
        self.depth = depth
        self.granularity = granularity or width
        self.init = init or []
        self.holds = holds
        if width % self.granularity:
            raise ValueError(f"width must be a multiple of {granularity}, but is {width}")
        super().__init__(
            {
                "read_address": In(range(depth)),
                "read_enable": In(1),
                "output_enable": In(1),
                "read_data": Out(width),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "write_enable": In(width // self.granularity),
            }
        )
        without_reset(self.read_address, self.write_address, self.write_data)

    def elaborate(self, platform: Any) -> Module:
        """Use the platform's block if it has one."""
        if hasattr(platform, "get_block_ram"):
            return platform.get_block_ram(self)

        m = Module()
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=self.init)
        write = memory.write_port(granularity=self.granularity)
        read = memory.read_port()
        enabled = Signal()
        output = Signal(self.width, reset_less=True)
        m.d.comb += [
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
            read.addr.eq(self.read_address),
            read.en.eq(self.read_enable),
            self.read_data.eq(output),
        ]
        m.d.sync += enabled.eq(self.read_enable)
        with m.If(self.output_enable if self.holds else enabled):
            m.d.sync += output.eq(read.data)
        return m
