"""What is built into a core: array shape, memories, bus widths. The presets are the named ones."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace

ISA_VERSION = 1
"""Part of the configuration hash: a program for another instruction set is refused."""

NUMERICS_VERSION = 1
"""Part of the configuration hash, likewise for the arithmetic contract."""

BANKS = 4
"""Scratchpad banks. Consecutive quarters of the address space, so a tensor usually has one."""

COLUMN_RECORD_BYTES = 8
"""Bytes of a column record in memory: mant s16, shift s8, a zero byte, off s32."""

TABLE_ENTRIES = 256
"""Entries of a function table, each s16."""


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """A core, complete: two cores of equal configuration run each other's programs.

    Attributes:
        rows: R, array rows; also the bytes of a scratchpad word and of a ring word.
        columns: C, array columns and vector lanes; also the bytes of a granule, in which
            scratchpad addresses count.
        scratchpad_bytes: all four banks together.
        ring_bytes: the weight ring.
        accumulator_rows: rows of each accumulator half, so the largest M of a GEMM.
        column_slots: column records on the core.
        row_slots: slots of row statistics and of row records.
        table_slots: loadable function tables; the table of `exp` is built in besides.
        axi_data_bits: width of the memory master's data.
        axi_address_bits: width of its addresses.
        queue_depth: instructions that wait in front of each engine.
        int4: whether PEs have the second partial-sum chain of INT4 weights.
        stall_counters: whether the core counts when each engine has work, and why it stands still.

    Raises:
        ValueError: such a core cannot be built; the message says why.
    """

    rows: int
    columns: int
    scratchpad_bytes: int
    ring_bytes: int
    accumulator_rows: int = 512
    column_slots: int = 2048
    row_slots: int = 1024
    table_slots: int = 3
    axi_data_bits: int = 64
    axi_address_bits: int = 32
    queue_depth: int = 8
    int4: bool = False
    stall_counters: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = bool if name in ("int4", "stall_counters") else int
            if type(value) is not kind:
                raise ValueError(f"{name} must be a {kind.__name__}, not {value!r}")
        powers = (
            "rows",
            "columns",
            "scratchpad_bytes",
            "ring_bytes",
            "accumulator_rows",
            "column_slots",
            "row_slots",
            "axi_data_bits",
            "queue_depth",
        )
        for name in powers:
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, but is {value}")
        self._check_range("columns", 2, 64)
        if self.rows < self.columns:
            raise ValueError(
                f"rows must be at least columns, since a column of weights is loaded per cycle, "
                f"but the array is {self.rows}x{self.columns}"
            )
        self._check_range("rows", 4, 64)
        self._check_range("scratchpad_bytes", BANKS * 16 * self.rows, 65536 * self.columns)
        self._check_range("ring_bytes", 4 * self.rows * self.columns, 1 << 20)
        self._check_range("accumulator_rows", 16, 512)
        self._check_range("column_slots", 4 * self.columns, 16384)
        self._check_range("row_slots", 32, 4096)
        self._check_range("table_slots", 1, 3)
        self._check_range("axi_data_bits", 32, min(8 * self.rows, 512))
        self._check_range("axi_address_bits", 32, 64)
        self._check_range("queue_depth", 2, 64)

    def _check_range(self, name: str, lowest: int, highest: int) -> None:
        value = getattr(self, name)
        if not lowest <= value <= highest:
            raise ValueError(f"{name} must be from {lowest} to {highest}, but is {value}")

    @property
    def granules(self) -> int:
        """Scratchpad size in granules: addresses are below it."""
        return self.scratchpad_bytes // self.columns

    @property
    def word_granules(self) -> int:
        """Granules in a scratchpad word, R / C."""
        return self.rows // self.columns

    @property
    def words(self) -> int:
        """Scratchpad size in words of R bytes."""
        return self.scratchpad_bytes // self.rows

    @property
    def bank_words(self) -> int:
        """Words of one bank."""
        return self.words // BANKS

    @property
    def read_latency(self) -> int:
        """Cycles from a scratchpad read to its data.

        The block RAMs of a large scratchpad are all over the chip, so wires have cycles of their
        own.
        """
        return 4 if self.scratchpad_bytes <= 64 << 10 else 5

    @property
    def ring_words(self) -> int:
        """Words of R bytes in the weight ring."""
        return self.ring_bytes // self.rows

    @property
    def axi_bytes(self) -> int:
        """Bytes of a beat."""
        return self.axi_data_bits // 8

    @property
    def macs_per_cycle(self) -> int:
        """INT8 multiply-accumulates per cycle at full use."""
        return self.rows * self.columns

    @property
    def exponent_tiles(self) -> int:
        """Tiles of INT4 weights whose block exponents are one ring word, 2 R / C."""
        return 2 * self.rows // self.columns

    @property
    def hash(self) -> int:
        """64 bits that name configuration, instruction set and arithmetic contract."""
        facts = asdict(self) | {"isa": ISA_VERSION, "numerics": NUMERICS_VERSION}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:8], "little")


_SMALL = CoreConfig(
    rows=8,
    columns=2,
    scratchpad_bytes=64 << 10,
    ring_bytes=8 << 10,
    column_slots=1024,
    row_slots=512,
)

PRESETS: dict[str, CoreConfig] = {
    "tiny": CoreConfig(
        rows=4,
        columns=4,
        scratchpad_bytes=16 << 10,
        ring_bytes=2 << 10,
        accumulator_rows=128,
        column_slots=512,
        row_slots=128,
        axi_data_bits=32,
        queue_depth=4,
        int4=True,
    ),
    "ecp5-25k": _SMALL,
    # With room on LFE5U-25F for a host link and for SDRAM of 16 bits, which a wider bus would wait
    # for. With INT4 and a larger ring, it would need more block RAMs than there are.
    "ecp5-25k-sdram": replace(
        _SMALL, ring_bytes=4 << 10, axi_data_bits=32, int4=True, stall_counters=False
    ),
    "ecp5-85k": CoreConfig(
        rows=16, columns=8, scratchpad_bytes=256 << 10, ring_bytes=16 << 10, int4=True
    ),
    "large": CoreConfig(
        rows=32,
        columns=32,
        scratchpad_bytes=1 << 20,
        ring_bytes=64 << 10,
        column_slots=4096,
        axi_data_bits=256,
        int4=True,
    ),
}
"""The named configurations: tests, small ECP5, its boards, large ECP5, scaling studies."""


def preset(name: str) -> CoreConfig:
    """Return a preset by its name.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
