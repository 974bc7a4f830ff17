"""The estimate's parts by hand; `tests/system/test_cycles.py` holds all of it to the RTL."""

import pytest

from systolith.compiler.estimate import DeadlockError, Memory, estimate
from systolith.compiler.estimate.banks import Banks, ReadPort
from systolith.compiler.estimate.kernel import Change, Kernel, Steps
from systolith.compiler.estimate.memory import bursts_of
from systolith.compiler.estimate.progress import Progress
from systolith.config import preset
from systolith.isa import Engine, Opcode, RowOperation, encode, make

TINY = preset("tiny")


def test_a_process_resumes_at_a_cycle_or_a_change_whichever_is_first() -> None:
    kernel = Kernel()
    change = Change(kernel)
    seen = list[int]()

    def process() -> Steps:
        yield 5, change
        seen.append(kernel.now)
        yield 9, change
        seen.append(kernel.now)
        yield 20
        seen.append(kernel.now)

    kernel.start(process())
    kernel.call(3, change.notify)
    kernel.call(10, change.notify)
    kernel.run()
    assert seen == [3, 9, 20]


def test_progress_knows_when_each_of_a_run_happens() -> None:
    kernel = Kernel()
    progress = Progress(kernel)
    known = {}

    def ask(number: int) -> Steps:
        known[number] = yield from progress.until(number)

    for number in (0, 1, 3, 4, 5):
        kernel.start(ask(number))
    kernel.call(2, lambda: progress.add(3, 10, 2))
    kernel.call(4, lambda: progress.add(1, 30))
    kernel.run()
    assert known == {0: 0, 1: 6, 3: 10, 4: 30}


def test_a_bank_serves_the_first_port_first() -> None:
    """6 words from cycle 0 on; somebody before takes cycles 2 to 4."""
    kernel = Kernel()
    banks = Banks(kernel, TINY)
    ((bank, _),) = banks.parts(0, 1, 6)
    ends = {}

    def read(port: ReadPort, begin: int, words: int) -> Steps:
        yield begin
        yield from bank.read(port, words)
        ends[port] = kernel.now

    kernel.start(read(ReadPort.DMA, 0, 6))
    kernel.start(read(ReadPort.VECTOR_X, 2, 3))
    kernel.run()
    assert ends == {ReadPort.VECTOR_X: 5, ReadPort.DMA: 9}


def test_rows_are_sorted_into_banks() -> None:
    """A bank of `tiny` has 1,024 granules."""
    kernel = Kernel()
    banks = Banks(kernel, TINY)
    assert [rows for _, rows in banks.parts(1000, 10, 8)] == [3, 5]
    assert [rows for _, rows in banks.parts(4000, 30, 2)] == [2]
    assert [rows for _, rows in banks.parts(0, 0, 7)] == [7]


@pytest.mark.parametrize(
    ("address", "size", "beats"),
    [(0, 4, [1]), (3, 2, [2]), (0, 256, [32, 32]), (120, 16, [2, 2]), (124, 4, [1]), (128, 1, [1])],
)
def test_bursts_end_at_multiples_of_the_longest(address: int, size: int, beats: list[int]) -> None:
    assert bursts_of(address, size, 4, 32) == beats


def test_the_cycles_of_a_single_row() -> None:
    """An instruction is 16 beats of `tiny`.

    The first address is on the bus in cycle 7, so its last beat in 52, and the word is complete in
    56; decoding, dispatch and queue take 4, 1 and 5 cycles, the row 87. 12 cycles later, the
    interrupt is raised.
    """
    row = make(Opcode.ROW, TINY, operation=RowOperation.RECIPROCAL, rows=1, n=1)
    code = encode(row) + encode(make(Opcode.HALT, TINY, waits={Engine.ROW: 1}))
    result = estimate(code, TINY, Memory(bandwidth=8, latency=30))
    assert [each.started for each in result.instructions] == [66, 66 + 87]
    assert result.cycles == 66 + 87 + 12


def test_a_program_that_never_ends() -> None:
    halt = make(Opcode.HALT, TINY)
    row = make(Opcode.ROW, TINY, waits={Engine.LOAD: 1}, rows=1, n=1)
    with pytest.raises(DeadlockError, match="ROW 0 is the first that is not done"):
        estimate(encode(row) + encode(halt), TINY, Memory())
