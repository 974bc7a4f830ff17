"""The banks of a large scratchpad, whose block RAMs are all over the chip."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring

from systolith.config import BANKS, CoreConfig
from systolith_rtl.memory.block_ram import BlockRam
from systolith_rtl.pipeline import register, unless_idle

GROUP_BYTES = 4
"""Bytes of a word whose block RAMs have registers of their own for what they are asked."""


class WideBanks:
    """Four banks, read and written through registers near their block RAMs.

    ::

        what each port shows -> request, per bank and group of bytes -> block RAM, two cycles
            -> data, one register per reader

    The first registers take what is there, granted or not, so that nothing is chosen behind
    `valid`. Each group has copies of its own of what decides: grants, addresses, and whose data it
    is. They are marked with `keep`, else Yosys would merge them.

    Args:
        m: the module that they become part of.
        platform: it may let idle registers run.
        config: of the core.
        read: the readers' ports.
        write: the writers' ports.
    """

    def __init__(
        self,
        m: Module,
        platform: object,
        config: CoreConfig,
        *,
        read: Sequence[wiring.PureInterface],
        write: Sequence[wiring.PureInterface],
    ) -> None:
        assert config.read_latency == 2 + BlockRam.LATENCY + 1
        self._m = m
        self._platform = platform
        self._groups = config.rows // GROUP_BYTES
        self._row_width = (config.bank_words - 1).bit_length()
        # The block RAMs of a group are near each other; all of them are nowhere near.
        self._read, self._write = (
            [
                [self._row(f"{way}{index}_{group}", port) for index, port in enumerate(ports)]
                for group in range(self._groups)
            ]
            for way, ports in (("read", read), ("write", write))
        )
        data = [self._take(f"write{i}_data", port.data, port) for i, port in enumerate(write)]
        mask = [self._take(f"write{i}_mask", port.mask, port) for i, port in enumerate(write)]
        rams = []
        grants = []
        for bank in range(BANKS):
            reads, writes = (
                _first([port.valid & (port.address[self._row_width :] == bank) for port in ports])
                for ports in (read, write)
            )
            rams.append(
                [
                    self._bank(f"bank{bank}_{group}", config, group, reads, writes, data, mask)
                    for group in range(self._groups)
                ]
            )
            grants.append(reads)
        for index, port in enumerate(read):
            self._answer(f"read{index}", port, Cat(bank[index] for bank in grants), rams)

    def _row(self, name: str, port: wiring.PureInterface) -> Signal:
        row = self._take(f"{name}_row", port.address[: self._row_width], port)
        row.attrs["keep"] = 1
        return row

    def _take(self, name: str, value: Value, port: wiring.PureInterface) -> Signal:
        """Register something of a port, whoever is granted."""
        return register(self._m, name, value, unless_idle(self._platform, port.valid))

    def _copy(self, name: str, value: Value) -> Signal:
        """Register a few bits for one group. They need no reset: what they follow has one."""
        copy = Signal(len(value), name=name, reset_less=True, attrs={"keep": 1})
        self._m.d.sync += copy.eq(value)
        return copy

    def _bank(
        self,
        name: str,
        config: CoreConfig,
        group: int,
        reads: Value,
        writes: Value,
        data: Sequence[Signal],
        mask: Sequence[Signal],
    ) -> BlockRam:
        """Build a bank's part for one group of bytes, with what it is asked in registers."""
        m = self._m
        m.submodules[name] = ram = BlockRam(
            width=8 * GROUP_BYTES, depth=config.bank_words, granularity=8
        )
        reads = self._copy(f"{name}_reads", reads)
        writes = self._copy(f"{name}_writes", writes)
        read_address, write_address = (
            Signal(self._row_width, name=f"{name}_{what}", reset_less=True, attrs={"keep": 1})
            for what in ("read_row", "write_row")
        )
        m.d.comb += [ram.read_address.eq(read_address), ram.write_address.eq(write_address)]
        with m.If(unless_idle(self._platform, reads.any())):
            m.d.sync += read_address.eq(_chosen(reads, self._read[group]))
        part = slice(GROUP_BYTES * group, GROUP_BYTES * (group + 1))
        bits = slice(8 * part.start, 8 * part.stop)
        with m.If(unless_idle(self._platform, writes.any())):
            m.d.sync += [
                write_address.eq(Mux(writes[0], *self._write[group])),
                ram.write_data.eq(Mux(writes[0], data[0][bits], data[1][bits])),
            ]
        m.d.sync += [
            ram.read_enable.eq(reads.any()),
            ram.write_enable.eq(_chosen(writes, [each[part] for each in mask])),
        ]
        return ram

    def _answer(
        self,
        name: str,
        port: wiring.PureInterface,
        grants: Value,
        rams: Sequence[Sequence[BlockRam]],
    ) -> None:
        """Follow a reader's grants, one bit per bank, through the block RAM; choose its data."""
        m = self._m
        for stage in range(1 + BlockRam.LATENCY):
            delayed = Signal(BANKS, name=f"{name}_{stage}")
            m.d.sync += delayed.eq(grants)
            grants = delayed
        arrives = Signal(name=f"{name}_arrives")
        m.d.sync += [arrives.eq(grants.any()), port.data_valid.eq(arrives)]
        words = []
        for group in range(self._groups):
            odd = self._copy(f"{name}_{group}_odd", grants[1] | grants[3])
            upper = self._copy(f"{name}_{group}_upper", grants[2] | grants[3])
            here = self._copy(f"{name}_{group}_here", grants.any())
            data = [bank[group].read_data for bank in rams]
            word = Mux(upper, Mux(odd, data[3], data[2]), Mux(odd, data[1], data[0]))
            words.append(register(m, f"{name}_{group}_data", word, here))
        m.d.comb += port.data.eq(Cat(words))


def _first(wanted: Sequence[Value]) -> Value:
    """Return a bit for each, of which at most the first high one is high."""
    return Cat(bit & ~Cat(wanted[:index]).any() for index, bit in enumerate(wanted))


def _chosen(grants: Value, values: Sequence[Value]) -> Value:
    """Return the value beside the only high bit of `grants`, or 0."""
    result = values[0] & grants[0].replicate(len(values[0]))
    for grant, value in zip(grants[1:], values[1:], strict=True):
        result |= value & grant.replicate(len(value))
    return result
