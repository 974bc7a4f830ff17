"""The static checker: what it refuses, by instruction and reason, and that it refuses enough."""

from dataclasses import replace
from random import Random

import pytest

from systolith import isa
from systolith.assembler import assemble
from systolith.config import CoreConfig, preset
from systolith.host.device import DeviceError
from systolith.isa import Engine
from systolith_sim.checker import CheckError, Report, check_program
from systolith_sim.iss import IssDevice
from systolith_sim.programs import RandomProgram

TINY = preset("tiny")
INT4 = replace(TINY, int4=True)
"""4 x 4: a granule and a word have 4 bytes."""

LIMITS = dict.fromkeys(range(8), 0x1000)

PROGRAM = """
x:  LOAD base=2 n0=8 n1=6 n2=1 dram_stride1=8 stride1=2
c:  LOAD space=COLUMNS base=1 n0=96 n1=1 n2=1
r:  LOAD base=2 n0=24 n1=6 n2=1 dram_stride1=24 stride1=6 address=0x40
w:  STREAM base=1 dram_offset=0x100 size=96
g:  GEMM m=6 n=12 k=8 a_row=2 after=x
v:  VECTOR m=6 n=12 x_format=ACCUMULATOR y_format=S16 y_address=0x80 y_row=6 second=ADD \
r_address=0x40 r_row=6 statistic=MOMENTS after=c,r
n:  ROW operation=LAYER_NORM rows=6 n=12 after=v
e:  VECTOR x_format=S16 m=6 n=12 x_address=0x80 x_row=6 y_address=0x80 y_row=6 y_format=S8 \
use_row=ON after=n
s:  STORE base=3 n0=12 n1=6 n2=1 address=0x80 stride1=6 dram_stride1=12 after=e
    HALT
"""
"""A matmul with a residual, a norm in place, a store."""


def check(text: str, config: CoreConfig = TINY, **options: object) -> Report:
    return check_program(assemble(text, config), config, limits=LIMITS, **options)  # pyright: ignore[reportArgumentType]


def changed(*changes: tuple[str, str], text: str = PROGRAM) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def refuse(text: str, message: str, index: int, other: int | None, **options: object) -> None:
    with pytest.raises(CheckError, match=message) as error:
        check(text, **options)  # pyright: ignore[reportArgumentType]
    assert (error.value.index, error.value.other) == (index, other)


def test_a_program_passes_and_is_counted() -> None:
    report = check(PROGRAM)
    assert report.instructions == {
        Engine.STREAM: 1,
        Engine.LOAD: 3,
        Engine.STORE: 1,
        Engine.GEMM: 1,
        Engine.VECTOR: 2,
        Engine.ROW: 1,
    }
    assert report.written == {3: 72}


@pytest.mark.parametrize(
    ("changes", "message", "index", "other"),
    [
        ([("a_row=2 after=x", "a_row=2")], "a reads granule 0x0 .*LOAD.*writes", 4, 0),
        ([("after=c,r", "after=c")], "r reads granule 0x40 .*LOAD.*writes", 5, 2),
        (
            [(" second=ADD r_address=0x40 r_row=6", ""), ("after=c,r", "after=x")],
            "columns reads 0 of columns",
            5,
            1,
        ),
        ([("n=12 after=v", "n=12")], "statistics reads 0 of sum", 6, 5),
        ([("use_row=ON after=n", "use_row=ON")], "row records reads 0 of record", 7, 6),
        ([("stride1=12 after=e", "stride1=12")], "data reads granule 0x80 .*writes", 8, 7),
        ([("stride1=12 after=e", "stride1=12 after=v")], "data reads granule 0x80", 8, 7),
        # The wrong place: y where A is, or where it will still be read.
        ([("y_format=S16 y_address=0x80", "y_format=S16 y_address=0x8")], "y writes gran", 5, 4),
        # Too early: the order of the text, not that of the numbers.
        ([("rows=6 n=12", "rows=6 n=12 source=1")], "reads 6 of sum, which was never", 6, None),
    ],
)
def test_races(changes: list[tuple[str, str]], message: str, index: int, other: int | None) -> None:
    refuse(changed(*changes), message, index, other)


LATE = "    HALT"


@pytest.mark.parametrize(
    ("line", "message", "index", "other"),
    [
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0x80", "data writes granule 0x80", 9, 7),
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0x80 after=e", "STORE.* reads, and noth", 9, 8),
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0 after=w", "GEMM.* reads, and nothing", 9, 4),
        ("LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1 address=3", "writes 3 of columns", 9, 7),
        (
            "ROW operation=RECIPROCAL n=1 rows=1 destination=5",
            "row records writes 5 of record",
            9,
            7,
        ),
        ("LOAD base=3 n0=4 n1=1 n2=1 address=0x200", "reads 0 of dram3, which .*STORE", 9, 8),
        ("VECTOR m=1 n=1 x_address=0x40 y_address=0x200 x_format=S16", None, 0, 0),
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0x80 after=s", None, 0, 0),
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0 after=g", None, 0, 0),
        # Who waits for a drain waits for its GEMM.
        ("LOAD base=2 n0=4 n1=1 n2=1 address=0 after=v", None, 0, 0),
        ("LOAD base=3 n0=4 n1=1 n2=1 address=0x200 after=s", None, 0, 0),
    ],
)
def test_races_with_what_comes_later(
    line: str, message: str | None, index: int, other: int
) -> None:
    """Writes after reads, writes after writes, reads after writes; and where the order is given."""
    text = changed((LATE, f"    {line}\n{LATE}"))
    if message is None:
        check(text)
    else:
        refuse(text, message, index, other)


@pytest.mark.parametrize(
    ("changes", "message", "index", "other"),
    [
        ([("size=96", "size=80")], "STREAM.*must stream exactly the 96 bytes of .*GEMM", 3, 4),
        (
            [("w:  STREAM base=1 dram_offset=0x100 size=96\n", "")],
            "must come right after the STREAM",
            3,
            None,
        ),
        (
            [("g:  GEMM", "    ROW rows=1 n=1\ng:  GEMM")],
            "must be followed by the GEMM that it feeds, but is followed by .*ROW",
            3,
            4,
        ),
        (
            [("v:  VECTOR", "    ROW rows=1 n=1\nv:  VECTOR")],
            "must be followed by the VECTOR",
            4,
            5,
        ),
        ([("v:  VECTOR m=6 n=12", "v:  VECTOR m=6 n=11")], "must have the m and n of", 5, 4),
        ([("v:  VECTOR m=6", "v:  VECTOR m=5")], "must have the m and n of", 5, 4),
        (
            [("x_format=S16 m=6 n=12 x_address=0x80 x_row=6", "x_format=ACCUMULATOR m=6 n=12")],
            "must come right after the GEMM that it drains",
            7,
            None,
        ),
        ([(LATE, "")], "the program has no HALT", 9, None),
        ([(LATE, f"{LATE}\n    ROW rows=1 n=1")], "ROW.* comes after HALT", 10, 9),
        (
            [("a_row=2 after=x", "a_row=2 wait_vector=1")],
            "waits for 1 of VECTOR, by instruction 5 .*, and only 0 of them come earlier",
            4,
            5,
        ),
        ([("rows=6 n=12", "rows=6 n=12 wait_row=1")], "waits for 1 of ROW, by instruc", 6, 6),
        ([("after=n", "wait_row=2")], "waits for 2 of ROW, which never happens", 7, None),
        ([("after=c,r", "after=c,r,g")], "waits for .*GEMM.*, which cannot end before", 5, 4),
    ],
)
def test_rules_of_steps_and_waits(
    changes: list[tuple[str, str]], message: str, index: int, other: int | None
) -> None:
    refuse(changed(*changes), message, index, other)


def test_an_instruction_may_wait_for_its_feeders_if_they_end_without_it() -> None:
    """Two accumulator halves, and a ring's worth of weights."""
    text = """
    c: LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1
    x: LOAD base=2 n0=4 n1=1 n2=1
    w: STREAM base=1 size={size}
    g: GEMM m=1 n={n} k=1 after=w,x
       VECTOR m=1 n={n} broadcast=ON x_format=ACCUMULATOR y_address=8 after=c,{after}
       HALT
    """
    check(text.format(n=8, size=32, after="w,g"))
    check(text.format(n=4 * 128, size=TINY.ring_bytes, after="w"))
    refuse(text.format(n=12, size=48, after="w,g"), "which cannot end before it has begun", 4, 3)
    large = text.format(n=4 * 129, size=TINY.ring_bytes + 16, after="c")
    refuse(large, "which cannot end before it has begun", 3, 2)


INT4_STEP = """
    c: LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1
    x: LOAD base=2 n0=48 n1=1 n2=1
    w: STREAM base=1 size={size}
    g: GEMM m=1 n={n} k={k} b_source=RING_S4 after=x
       VECTOR m=1 n={n} broadcast=ON x_format=ACCUMULATOR y_address=16 after=c{after}
       HALT
"""


def test_int4_weights_come_with_their_exponents() -> None:
    """4 x 4: a word of exponents for two tiles of 8 channels; 4 bytes a word, 4 words a tile."""
    for n, k, words in ((1, 1, 5), (8, 8, 9), (9, 8, 18), (8, 9, 14), (17, 48, 3 * 54)):
        text = INT4_STEP.format(size=4 * words, n=n, k=k, after="")
        check(text, INT4)
        for wrong in (4 * words - 4, 4 * words + 4):
            other = INT4_STEP.format(size=wrong, n=n, k=k, after="")
            with pytest.raises(CheckError, match=f"must stream exactly the {4 * words} bytes of"):
                check(other, INT4)
    with pytest.raises(CheckError, match="no INT4 chain"):
        check_program(
            assemble(INT4_STEP.format(size=20, n=1, k=1, after=""), INT4),
            replace(INT4, int4=False),
            limits=LIMITS,
        )


def test_int4_fills_a_half_with_two_groups_of_columns() -> None:
    """So a drain may wait for a GEMM of 4 C channels, and a single half has 2 C of them."""
    check(INT4_STEP.format(size=40, n=16, k=1, after=",g"), INT4)
    with pytest.raises(CheckError, match="which cannot end before it has begun"):
        check(INT4_STEP.format(size=60, n=17, k=1, after=",g"), INT4)
    # y lies where A was: all of A has been read before the only half is full.
    inside = INT4_STEP.replace("y_address=16", "y_address=0")
    check(inside.format(size=20, n=8, k=1, after=""), INT4)
    with pytest.raises(CheckError, match=r"y writes granule 0x0 .*GEMM.* reads"):
        check(inside.format(size=40, n=9, k=1, after=""), INT4)


def test_illegal_instructions_and_too_many() -> None:
    with pytest.raises(CheckError, match="instruction 1: there is no opcode 0"):
        check_program(assemble("ROW rows=1 n=1", TINY) + bytes(64), TINY, limits={})
    record = assemble("LOAD base=2 n0=4 n1=1 n2=1", TINY)
    code = record * (isa.MAX_PER_ENGINE + 1) + assemble("HALT", TINY)
    with pytest.raises(CheckError, match="LOAD has more than 32767 instructions"):
        check_program(code, TINY, limits=LIMITS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("LOAD base=2 n0=5 n1=1 n2=1 address=4095", "data reaches from 4095 to 4096 of scratchpad"),
        ("STORE base=3 n0=4 n1=2 n2=1 stride1=4096", "data reaches from 0 to 4096"),
        ("LOAD space=COLUMNS base=1 n0=16 n1=1 n2=1 address=511", "columns reaches from 511 to"),
        ("LOAD space=TABLES base=1 n0=16 n1=1 n2=1 address=764", "table reaches .* of entries"),
        ("LOAD base=2 n0=4 n1=1 n2=1 dram_offset=4093", "memory reaches from 4093 to 4096 of"),
        ("LOAD base=2 n0=4 n1=3 n2=1 dram_stride1=-1 stride1=1", "memory reaches from -2 to 3 of"),
        ("STREAM base=1 size=4112\nGEMM m=1 n=1 k=1028", "weights reaches from 0 to 4111 of dram1"),
        ("STORE base=0 n0=4 n1=1 n2=1", "STORE.* overwrites the program"),
        ("LOAD base=2 n0=8 n1=2 n2=1 stride1=1", "data has runs that overlap"),
        ("LOAD base=2 n0=4 n1=2 n2=2 stride1=2 stride2=2", "data has runs that overlap"),
        ("LOAD base=2 n0=4 n1=1 n2=1 scalar=3 scalar_stride=4", "depends on scalar 2"),
    ],
)
def test_bounds(line: str, message: str) -> None:
    if line.startswith("STREAM"):
        line += "\nVECTOR m=1 n=1 broadcast=ON x_format=ACCUMULATOR"
    with pytest.raises(CheckError, match=message):
        check(line + "\nHALT")


def test_scalars_move_addresses() -> None:
    text = "LOAD base=2 n0=4 n1=1 n2=1 scalar=3 scalar_stride=-4 dram_offset=40\nHALT"
    check(text, scalars={2: 10})
    refuse(text, "memory reaches from 4294967292 to .* of dram2", 0, None, scalars={2: 11})


def test_offsets_begin_modulo_2_to_the_32() -> None:
    """2 * (2**31 - 1) + 42 is 2**32 + 40; a walk that wraps around between runs is refused."""
    text = "LOAD base=2 n0=4 n1=1 n2=1 scalar=3 scalar_stride=0x7fffffff dram_offset=42\nHALT"
    check(text, scalars={2: 2})
    text = "LOAD base=2 n0=4 n1=2 n2=1 stride1=1 dram_stride1=8 dram_offset=0xfffffff8\nHALT"
    refuse(text, "memory reaches from 4294967288 to 4294967299 of dram2", 0, None)


KNOWN = """
    LOAD base=2 n0=7 n1=8 n2=1 dram_stride1=7 stride1=2
    LOAD space=COLUMNS base=1 n0=64 n1=1 n2=1
"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        # Seven of a granule's eight bytes are enough for seven elements.
        ("VECTOR m=8 n=7 x_row=2 y_address=64 y_row=2 wait_load=2", None),
        ("VECTOR m=8 n=8 x_row=2 y_address=64 y_row=2 wait_load=2", "x reads byte 7 of"),
        ("VECTOR m=9 n=7 x_row=2 broadcast=ON y_address=64 y_row=2 wait_load=2", "x reads byte 64"),
        ("VECTOR m=1 n=7 column=2 y_address=64 wait_load=2", "reads 8 of columns"),
        ("STREAM base=1 size=32\nGEMM m=8 n=4 k=7 a_row=2 wait_load=1", None),
        ("STREAM base=1 size=32\nGEMM m=8 n=4 k=8 a_row=2 wait_load=1", "a reads byte 7"),
        ("GEMM m=1 n=4 k=7 b_row=2 b_source=SCRATCHPAD wait_load=1", None),
        ("GEMM m=1 n=4 k=7 b_address=3 b_row=2 b_source=SCRATCHPAD wait_load=1", "b reads byte 15"),
        ("VECTOR m=1 n=1 function=TABLE y_address=64 wait_load=2", "table reads 0 of entries"),
        ("VECTOR m=1 n=1 use_row=ON y_address=64 wait_load=2", "row records reads 0 of record"),
        (
            "VECTOR m=1 n=1 function=EXP x_format=S16 y_format=U8 y_address=64 wait_load=2",
            "maxima reads 0 of maximum",
        ),
        ("ROW rows=1 n=1 operation=RECIPROCAL", "statistics reads 0 of sum"),
        ("STORE base=3 n0=8 n1=1 n2=1 wait_load=1", "data reads byte 7 of scratchpad"),
        ("LOAD base=4 n0=8 n1=1 n2=1 address=64", "memory reads 0 of dram4"),
        ("LOAD base=2 n0=8 n1=2 n2=1 fill=GATHER index=2 address=64 stride1=2", "byte 15 of"),
        ("LOAD base=4 n0=8 n1=1 n2=1 fill=GATHER address=64", "memory reads 0 of dram4"),
    ],
)
def test_bytes_that_were_never_written(lines: str, message: str | None) -> None:
    if "GEMM" in lines:
        m = lines.split("m=")[1].split()[0]
        lines += f"\nVECTOR x_format=ACCUMULATOR m={m} n=4 y_address=64 y_row=2 wait_load=2"
    if message is None:
        check(KNOWN + lines + "\nHALT")
    else:
        with pytest.raises(CheckError, match=f"{message}.*never written"):
            check(KNOWN + lines + "\nHALT")


def test_sums_alone_have_no_squares() -> None:
    text = KNOWN + "VECTOR m=4 n=7 x_row=2 y_address=64 y_row=2 statistic={} wait_load=2\n"
    text += "ROW rows=4 n=7 operation={} wait_vector=1\nHALT"
    check(text.format("MOMENTS", "RMS_NORM"))
    check(text.format("SUM", "RECIPROCAL"))
    with pytest.raises(CheckError, match="sums of squares reads 0 of squares"):
        check(text.format("SUM", "LAYER_NORM"))


def test_stored_bytes_can_be_loaded_back() -> None:
    text = KNOWN + "STORE base=4 n0=7 n1=8 n2=1 dram_stride1=7 stride1=2 wait_load=1\n"
    check(text + "LOAD base=4 n0=56 n1=1 n2=1 address=64 wait_store=1\nHALT")
    with pytest.raises(CheckError, match="reads 56 of dram4, which was never written"):
        check(text + "LOAD base=4 n0=57 n1=1 n2=1 address=64 wait_store=1\nHALT")
    with pytest.raises(CheckError, match=r"reads 50 of dram4, which instruction 2 .STORE"):
        check(text + "LOAD base=4 n0=1 n1=1 n2=1 address=64 dram_offset=50\nHALT")


@pytest.mark.parametrize(
    ("fields", "legal"),
    [
        ("x_row=2 y_row=2", True),
        ("x_row=2 y_row=2 y_address=1", False),
        ("x_row=2 y_row=4", False),
        ("x_row=2 y_row=2 y_address=16", True),
        ("x_row=2 y_row=2 y_address=15", False),
        ("x_row=2 y_row=2 transpose=ON", False),
        ("x_format=S16 x_row=4 y_row=4", True),
        ("x_format=S16 x_row=4 y_row=4 y_format=S16", True),
        ("x_row=4 y_row=4 y_format=S16", False),
        ("x_format=S16 x_row=4 y_row=2", False),
        ("x_row=2 second=ADD r_row=4 r_address=64 y_address=64 y_row=4 y_format=S16", True),
        ("x_row=2 second=ADD r_row=4 r_address=64 y_address=64 y_row=4", False),
        ("x_row=2 y_row=1 y_address=128", False),
    ],
)
def test_in_place(fields: str, legal: bool) -> None:
    """Only where a group is written behind the same group's read."""
    text = "LOAD base=2 n0=512 n1=1 n2=1\nLOAD space=COLUMNS base=1 n0=64 n1=1 n2=1\n"
    text += f"VECTOR m=8 n=7 {fields} wait_load=2\nHALT"
    if legal:
        check(text)
    else:
        refuse(text, "overlap", 2, None if "128" in fields else 2)


def test_a_drain_may_overwrite_its_own_operands_only_from_a_single_half() -> None:
    text = """
    LOAD base=2 n0=512 n1=1 n2=1
    LOAD space=COLUMNS base=1 n0=64 n1=1 n2=1
    STREAM base=1 size={size}
    GEMM m=8 n={n} k=7 a_row=2 wait_load=1
    VECTOR m=8 n={n} x_format=ACCUMULATOR y_row=2 wait_load=2
    HALT
    """
    check(text.format(n=4, size=32))
    refuse(text.format(n=5, size=64), "y writes granule 0x0 .*GEMM.* reads", 4, 3)


def test_a_drain_writes_after_what_its_gemm_waited_for_but_may_read_before() -> None:
    text = """
    LOAD base=2 n0=1024 n1=1 n2=1
    LOAD space=COLUMNS base=1 n0=64 n1=1 n2=1
    LOAD base=2 n0=512 n1=1 n2=1 address=256
    STORE base=3 n0=64 n1=1 n2=1 address=128 wait_load=1
    STREAM base=1 size=32
    GEMM m=8 n=4 k=7 a_row=2 wait_load=3 wait_store=1
    VECTOR m=8 n=4 x_format=ACCUMULATOR {second} y_row=2 y_address=128 wait_load=2
    HALT
    """
    check(text.format(second=""))
    refuse(text.format(second="second=ADD r_row=2 r_address=256"), "r reads granule 0x100", 6, 2)


def test_a_word_is_not_read_and_written_at_the_same_time() -> None:
    """On 8 x 2, a word has four granules: neighbours may be written by two, not read by one."""
    config = preset("ecp5-25k")
    text = """
    LOAD base=2 n0=2 n1=1 n2=1
    LOAD base=2 n0=2 n1=1 n2=1 address=4
    LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1
    VECTOR m=1 n=1 x_address=4 y_address=1 wait_load=3
    {} base={} n0=2 n1=1 n2=1 address={} {}
    HALT
    """
    check(text.format("LOAD", 2, 2, ""), config)
    check(text.format("STORE", 3, 4, "wait_load=2"), config)
    refuse(text.format("STORE", 3, 0, "wait_load=2"), "data reads granule 0x0", 4, 3, config=config)
    # Rows that do not begin with a word share words, too.
    rows = """
    LOAD base=2 n0=2 n1=3 n2=1 stride1=5
    LOAD base=2 n0=2 n1=1 n2=1 address=16
    LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1
    VECTOR m=1 n=1 x_address=16 y_address={} wait_load=3
    STORE base=3 n0=2 n1=3 n2=1 stride1=5 dram_stride1=2 wait_load=1
    HALT
    """
    check(rows.format(12), config)
    # So do blocks: at 0, 7 and 14, in the words 0, 1 and 3.
    blocks = rows.replace("n1=3 n2=1 stride1=5", "n1=1 n2=3 stride2=7").replace(
        "_stride1", "_stride2"
    )
    check(blocks.format(8), config)
    refuse(blocks.format(13), "data reads granule 0xc", 4, 3, config=config)
    refuse(rows.format(7), "data reads granule 0x4", 4, 3, config=config)


def test_clashes_are_counted() -> None:
    """In one bank, a GEMM meets itself, the drain meets the residual's neighbours."""
    text = """
    LOAD base=2 n0=512 n1=1 n2=1
    LOAD space=COLUMNS base=1 n0=8 n1=1 n2=1
    GEMM m=8 n=4 k=7 a_row=2 b_row=2 b_address={b} b_source=SCRATCHPAD wait_load=1
    VECTOR m=8 n=4 broadcast=ON x_format=ACCUMULATOR y_row=2 y_address=128 wait_load=2
    STORE base=3 n0=64 n1=1 n2=1 wait_load={wait} wait_vector={after}
    HALT
    """
    assert check(text.format(b=64, wait=1, after=0)).clashes == {
        ("GEMM a", "GEMM b"): 1,
        ("GEMM a", "STORE data"): 1,
        ("GEMM b", "STORE data"): 1,
    }
    assert check(text.format(b=64, wait=1, after=1)).clashes == {("GEMM a", "GEMM b"): 1}


@pytest.mark.parametrize("wait", ["after=x", "after=c,r", "after=v", "after=n", "after=e"])
def test_a_dropped_wait_changes_some_interleaving(wait: str) -> None:
    """Not only on paper: random orders find every one of the races."""
    whole, broken = (assemble(text, TINY) for text in (PROGRAM, changed((f" {wait}\n", "\n"))))
    random = Random(1)
    data = random.randbytes(0x1000)
    columns = b"".join(bytes([0, 1, 3, 0, 0, random.randrange(9), 0, 0]) for _ in range(12))

    def run(code: bytes, seed: int) -> bytes:
        device = IssDevice(TINY, memory_bytes=0x8000, seed=seed, poison=seed)
        program = RandomProgram(
            config=TINY,
            code=code,
            halt_code=0,
            dram=code + bytes(0x1000 - len(code)) + columns + data[96:] + data,
            bases=tuple(0x1000 * base for base in range(8)),
            limits=(0x1000,) * 8,
            scalars=(0,) * 4,
            expected=b"",
        )
        try:
            program.run(device)
        except DeviceError as error:
            return str(error).encode()
        return device.read_memory(0x3000, 72)

    assert len({run(whole, seed) for seed in range(30)}) == 1
    assert len({run(broken, seed) for seed in range(30)}) > 1
