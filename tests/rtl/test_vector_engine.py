"""`VectorEngine` against `systolith.numerics`, in surroundings that refuse, delay and interfere."""

import random
from typing import Any

import pytest

from systolith.config import CoreConfig
from systolith.isa import Function, Instruction, Mask, Opcode, Second, Statistic, XFormat, make
from systolith.numerics import MASKED, Column, Format, Row
from systolith_sim.vector_bench import assert_as_defined
from systolith_sim.vector_reference import VectorDraw, VectorState, random_state
from systolith_sim.vector_surroundings import POLITE, Manners

SHAPES = [(4, 4), (8, 2), (8, 4)]
"""R = C, where words take two cycles; R = 4 C; R = 2 C."""

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))

ROUGH = Manners(seed=1, refuse=0.3, late=0.5, rows=0.5)
HOSTILE = Manners(seed=2, refuse=0.7, late=0.9, rows=0.9)


def core(shape: tuple[int, int]) -> CoreConfig:
    """The smallest core of a shape: loading its memories takes much of a test."""
    rows, columns = shape
    return CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=8192,
        ring_bytes=1024,
        accumulator_rows=32,
        column_slots=32,
        row_slots=32,
        table_slots=1,
        axi_data_bits=32,
    )


@every_shape
@pytest.mark.parametrize("manners", [POLITE, ROUGH, HOSTILE], ids=["polite", "rough", "hostile"])
def test_any_instruction(shape: tuple[int, int], manners: Manners) -> None:
    """Formats, operands, functions, masks, statistics, transposition, tails: all at random."""
    config = core(shape)
    rng = random.Random(manners.seed)
    state = random_state(config, rng)
    state.scalars = [0, rng.randint(1, 8), 1 << 16, (1 << 32) - 1]
    draw = VectorDraw(config, rng)
    ops = [draw.instruction() for _ in range(15)]
    assert_as_defined(config, state, [(op, draw.sums(op)) for op in ops], manners)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 8), 1 << 16), ((16, 8), 1 << 17), ((32, 32), 1 << 16)],
    ids=["16x8", "16x8 far", "32x32"],
)
def test_any_instruction_on_larger_cores(shape: tuple[int, int], size: int) -> None:
    """The same, fewer times: a cycle of these takes longer. Large scratchpads answer later."""
    rows, columns = shape
    config = CoreConfig(
        rows=rows,
        columns=columns,
        scratchpad_bytes=size,
        ring_bytes=4 * rows * columns,
        accumulator_rows=64,
        column_slots=256,
        row_slots=128,
        table_slots=1,
        axi_data_bits=32,
    )
    rng = random.Random(1)
    state = random_state(config, rng)
    state.scalars = [0, 5, 40, 1 << 31]
    draw = VectorDraw(config, rng)
    ops = [draw.instruction() for _ in range(5)]
    assert_as_defined(config, state, [(op, draw.sums(op)) for op in ops], ROUGH)


@every_shape
@pytest.mark.parametrize("manners", [POLITE, ROUGH], ids=["polite", "rough"])
def test_softmax_in_place(shape: tuple[int, int], manners: Manners) -> None:
    """Scores with their maximum, then numerators over them with their sum, then the sum's user.

    The first row of scores is far above the others, so that all octaves occur; some are masked,
    and in the last instruction every one.
    """
    config = core(shape)
    rng = random.Random(7)
    state = random_state(config, rng)
    # Scores of all sizes: the sum over 4 and over 256.
    state.columns[:2] = [Column(1 << 12, 7 + 5, 0), Column(1 << 12, 7 + 11, 0)]
    state.scalars = [0, 3, 7, 99]
    draw = VectorDraw(config, rng)
    jobs = []
    for length, unit in ((3, 0), (2, 1), (1, 0), (0, 1)):
        n = 3 * config.columns - 1
        # Places that the numerators do not share with the scores of another pass.
        scores = draw.instruction(
            n=n,
            x_format=XFormat.ACCUMULATOR,
            y_format=Format.S16,
            second=Second.NONE,
            function=Function.AFFINE,
            statistic=Statistic.MAX,
            use_row=0,
            mask=Mask.LENGTH,
            length=length,
            broadcast=1,
            column=rng.randrange(2),
            y_address=400 * length,
        )
        powers = make(
            Opcode.VECTOR,
            config,
            x_address=scores.y_address,
            x_row=scores.y_row,
            y_address=scores.y_address,
            y_row=scores.y_row,
            m=scores.m,
            n=n,
            x_format=XFormat.S16,
            y_format=Format.U8,
            function=Function.EXP,
            statistic=Statistic.SUM,
            row_in=scores.stat_out,
            stat_out=rng.randrange(32 - scores.m),
            unit=unit,
        )
        jobs += [(scores, draw.sums(scores)), (powers, [])]
    assert_as_defined(config, state, jobs, manners)
    assert state.statistics[jobs[-1][0].stat_out].total == 0


@every_shape
@pytest.mark.parametrize("manners", [POLITE, ROUGH], ids=["polite", "rough"])
@pytest.mark.parametrize(
    ("x_format", "y_format"),
    [
        (XFormat.S8, Format.U8),
        (XFormat.S16, Format.S16),
        (XFormat.S16, Format.S8),
        (XFormat.ACCUMULATOR, Format.S16),
    ],
    ids=["bytes", "words", "bytes-over-words", "residual"],
)
def test_in_place(
    shape: tuple[int, int], manners: Manners, x_format: XFormat, y_format: Format
) -> None:
    """The result over x, or over r, for few rows and for more than are on their way."""
    config = core(shape)
    rng = random.Random(11)
    state = random_state(config, rng)
    draw = VectorDraw(config, rng)
    over = "r" if x_format == XFormat.ACCUMULATOR else "x"
    jobs = []
    for m in (1, 2, 13, 32):
        wide = draw.instruction(
            m=m, n=16, x_format=XFormat.S16, y_format=Format.S16, transpose=0, second=1
        )
        fields = dict(wide.fields) | {"x_format": x_format, "y_format": y_format}
        fields |= {"second": int(over == "r"), "function": 0, "statistic": 0, "mask": 0}
        fields |= {"y_address": fields[f"{over}_address"], "y_row": fields[f"{over}_row"]}
        op = make(Opcode.VECTOR, config, **fields)
        jobs.append((op, draw.sums(op)))
    assert_as_defined(config, state, jobs, manners)


def blank(config: CoreConfig) -> VectorState:
    """A state of zeros, with the column record of 1.0 for elements and for sums."""
    return VectorState(
        memory=bytearray(config.scratchpad_bytes),
        columns=[Column(128, 8, 0), Column(128, 0, 0)] + [Column(0, 0, 0)] * 30,
        tables=[0] * 256,
        records=[Row(0, 0, 0)] * 32,
        statistics=[],
        scalars=[0] * 4,
    )


def instruction(config: CoreConfig, **fields: Any) -> Instruction:
    """An instruction that copies bytes of one group with a shared record of 1.0."""
    return make(
        Opcode.VECTOR,
        config,
        **({"m": 1, "n": 4, "x_row": 2, "y_row": 2, "r_row": 2, "broadcast": 1} | fields),
    )


def run_by_hand(
    fields: dict[str, Any], *, memory: dict[int, bytes] | None = None, **state: Any
) -> VectorState:
    """Run one instruction on the 4x4 core, whose granules have 4 bytes; y is at byte 64."""
    config = core((4, 4))
    before = blank(config)
    for address, image in (memory or {}).items():
        before.memory[address : address + len(image)] = image
    sums = state.pop("sums", [])
    for name, value in state.items():
        getattr(before, name)[: len(value)] = value
    op = instruction(config, y_address=16, **fields)
    assert_as_defined(config, before, [(op, sums)])
    return before


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little", signed=True) for value in values)


def test_bytes_are_copied_by_hand() -> None:
    """Three columns of s8; the fourth byte of the granule is written as 0."""
    after = run_by_hand(
        {"n": 3}, memory={0: bytes([1, 0xFF, 0x80, 99]), 64: bytes([9, 9, 9, 9, 9])}
    )
    assert after.memory[64:69] == bytes([1, 0xFF, 0x80, 0, 9])


def test_residual_by_hand() -> None:
    """Sums 100 and -100, with 3 and 4 added; the residual is in granules 8 and 9."""
    after = run_by_hand(
        {
            "n": 2,
            "x_format": XFormat.ACCUMULATOR,
            "y_format": Format.S16,
            "second": Second.ADD,
            "r_address": 8,
            "column": 1,
        },
        memory={32: words(3, 4)},
        sums=[[[100, -100, 5, 5]]],
    )
    assert after.memory[64:72] == words(103, -96, 0, 0)


def test_product_by_hand() -> None:
    """2 * 3, -5 * 7, 300 * 300 beyond s16; a product has no fraction, so the shift is 0."""
    after = run_by_hand(
        {
            "n": 3,
            "x_format": XFormat.S16,
            "y_format": Format.S16,
            "second": Second.MULTIPLY,
            "r_address": 8,
            "column": 1,
        },
        memory={0: words(2, -5, 300), 32: words(3, 7, 300)},
    )
    assert after.memory[64:72] == words(6, -35, 32767, 0)


def test_row_record_by_hand() -> None:
    """(10 - 2.5) * 1.5 is 11.25; the row's mean is 640 / 256, its factor 1.5."""
    after = run_by_hand(
        {"n": 1, "use_row": 1, "row_in": 0},
        memory={0: bytes([10])},
        records=[Row(640, 3 << 14, 0)],
    )
    assert after.memory[64:68] == bytes([11, 0, 0, 0])


def test_table_by_hand() -> None:
    """Entry x + 1 of a table of squares; the last one saturates in u8."""
    after = run_by_hand(
        {"n": 3, "x_format": XFormat.U8, "y_format": Format.U8, "function": Function.TABLE},
        memory={0: bytes([2, 14, 15])},
        columns=[Column(128, 8, 256)],
        tables=[index * index for index in range(181)],
    )
    assert after.memory[64:68] == bytes([9, 225, 255, 0])


def test_transposed_by_hand() -> None:
    """Two rows of three become three rows of two, each filled up with zeros."""
    after = run_by_hand(
        {"m": 2, "n": 3, "transpose": 1, "y_row": 1},
        memory={0: bytes([1, 2, 3]), 8: bytes([4, 5, 6]), 76: bytes([7])},
    )
    assert after.memory[64:77] == bytes([1, 4, 0, 0, 2, 5, 0, 0, 3, 6, 0, 0, 7])


def test_masked_scores_by_hand() -> None:
    """With a length of 2, columns 2 to 4 are masked, and column 5 does not exist."""
    after = run_by_hand(
        {
            "n": 5,
            "x_row": 4,
            "y_row": 4,
            "x_format": XFormat.S16,
            "y_format": Format.S16,
            "mask": Mask.LENGTH,
            "length": 3,
            "statistic": Statistic.MAX,
            "stat_out": 5,
        },
        memory={0: words(-7, -9, 1, 2, 3, 4)},
        scalars=[9, 9, 9, 2],
    )
    assert after.memory[64:80] == words(-7, -9, MASKED, MASKED, MASKED, 0, 0, 0)
    assert after.statistics[5][:2] == (-7, 9)


def test_moments_by_hand() -> None:
    """Over two groups: 1 + 2 - 3 + 4 + 5 = 9 and 1 + 4 + 9 + 16 + 25 = 55."""
    after = run_by_hand(
        {"n": 5, "statistic": Statistic.MOMENTS, "stat_out": 31},
        memory={0: bytes([1, 2, 0xFD, 4, 5])},
    )
    assert after.statistics[31] == (0, 0, 9, 55)


def test_exponentials_by_hand() -> None:
    """A row's maximum counts 255, an octave below it 128, eight octaves 1, ten none.

    The maximum comes from a first pass over the same scores, and stays when the sum is taken.
    """
    config = core((4, 4))
    state = blank(config)
    state.memory[0:10] = words(1000, 1000 - 256, 1000 - 8 * 256, 1000 - 10 * 256, MASKED)
    common = {"n": 5, "x_row": 4, "y_row": 4, "x_format": XFormat.S16}
    scores = {"statistic": Statistic.MAX, "y_format": Format.S16, "stat_out": 3}
    powers = {"function": Function.EXP, "y_format": Format.U8, "y_address": 16, "row_in": 3}
    powers |= {"statistic": Statistic.SUM, "stat_out": 3}
    ops = [instruction(config, **common, **fields) for fields in (scores, powers)]
    assert_as_defined(config, state, [(op, []) for op in ops])
    assert state.memory[64:72] == bytes([255, 128, 1, 0, 0, 0, 0, 0])
    assert state.statistics[3] == (1000, 32768, 384, 0)
