"""From operators with addresses to instructions: loads ahead of need, waits from hazards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from systolith import isa
from systolith.compiler.allocate import Place, Slots, element_bytes, field_of
from systolith.compiler.errors import CompileError
from systolith.compiler.hazards import Hazards, Region
from systolith.compiler.homes import Homes
from systolith.compiler.image import Image, pack_int4, pack_weights
from systolith.compiler.loads import LoadPlan
from systolith.compiler.moves import Fetch, Spill, Step
from systolith.compiler.qgraph import (
    Constant,
    Exp,
    Input,
    Int4Weights,
    Lookup,
    Map,
    Matmul,
    Output,
    Patches,
    QGraph,
    RowRecords,
    View,
    gathered_bytes,
    int4_bytes,
)
from systolith.compiler.runs import constant_rows, gather_rows, patch_loads, zero_rows
from systolith.config import CoreConfig
from systolith.isa import (
    Engine,
    Fill,
    Function,
    Instruction,
    Mask,
    Opcode,
    RowOperation,
    Second,
    Statistic,
    WeightSource,
    XFormat,
)
from systolith.numerics import Format
from systolith.program import (
    DTYPES,
    IMAGE_BASE,
    INPUT_BASE,
    LENGTH_SCALAR,
    WatchPoint,
)


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What emission gives.

    Attributes:
        instructions: the program, HALT included.
        watch: tensors that can be compared.
        streamed: bytes of weights and parameters, without padding.
    """

    instructions: list[Instruction]
    watch: tuple[WatchPoint, ...]
    streamed: int


MOST_BLOCKS = 4
"""Blocks into which a norm's rows are cut: each hides a ROW, and costs the start of a VECTOR."""

LEAST_BLOCK = 8
"""Rows of a block: for fewer, column records come too slowly."""


class Emitter:
    """Emits operators one by one.

    Args:
        graph: the quantized graph.
        operators: its operators in program order.
        places: addresses of tensors.
        slots: row-file slots.
        config: the core.
        homes: DRAM addresses of tensors.
    """

    def __init__(
        self,
        graph: QGraph,
        operators: Sequence[Step],
        places: dict[str, Place],
        slots: Slots,
        config: CoreConfig,
        homes: Homes,
    ) -> None:
        self._graph = graph
        self._operators = operators
        self._places = places
        self._slots = slots
        self._config = config
        self._homes = homes
        self._hazards = Hazards(config, homes.scratch_rows)
        self._counts = dict.fromkeys(Engine, 0)
        self._instructions: list[Instruction] = []
        self._watch: dict[str, WatchPoint] = {}
        self._streamed = 0
        self._tag = 0
        self._named: dict[str, str] = {}
        self._row_blocks: dict[str | None, list[slice]] = {}
        self.image = Image()
        self._loads = LoadPlan(operators, self.image, config)

    def run(self) -> Emitted:
        """Emit everything, with a HALT at the end."""
        for position, operator in enumerate(self._operators):
            self._tag = position & 0xFFFF
            match operator:
                case Input():
                    self._input(operator)
                case Constant():
                    self._constant(operator)
                case Lookup():
                    self._lookup(operator)
                case Output():
                    self._output(operator)
                case Fetch():
                    self._fetch(operator)
                case Spill():
                    self._spill(operator)
                case Matmul():
                    self._matmul(position, operator)
                case Map():
                    self._map(position, operator)
                case Exp():
                    self._exp(operator)
                case RowRecords():
                    self._rows(operator)
        self._put(Opcode.HALT, [], [])
        for engine, count in self._counts.items():
            if count > isa.MAX_PER_ENGINE:
                raise CompileError(
                    f"the program has {count} {engine.name} instructions, and a core counts to "
                    f"{isa.MAX_PER_ENGINE}. Split the model."
                )
        return Emitted(
            instructions=self._instructions,
            watch=tuple(self._watch.values()),
            streamed=self._streamed,
        )

    def _put(
        self,
        opcode: Opcode,
        reads: list[Region],
        writes: list[Region],
        **fields: int,
    ) -> None:
        """Append an instruction with the waits that its accesses need."""
        waits = self._hazards.waits(reads, writes)
        self._instructions.append(
            isa.make(opcode, self._config, waits=waits, tag=self._tag, **fields)  # pyright: ignore[reportArgumentType]
        )
        if opcode.engine is not None:
            self._counts[opcode.engine] += 1
            self._hazards.note(opcode.engine, self._counts[opcode.engine], reads, writes)

    def _input(self, operator: Input) -> None:
        if operator.patches is not None:
            self._patches(operator.out, operator.patches)
        elif operator.indices is not None:
            tensor, place = self._graph.tensors[operator.out], self._places[operator.out]
            fields = constant_rows(tensor, place)
            fields["dram_offset"] = operator.indices.number * tensor.columns
            region = self._region(_whole(tensor.name, tensor.columns))
            self._put(Opcode.LOAD, [], [region], base=INPUT_BASE, **fields)
        else:
            self._load(operator.out, operator.out)
        self._note_tensor(operator.out, Engine.LOAD, operator.layer)

    def _patches(self, name: str, patches: Patches) -> None:
        """Bring in patches of an image, and zeros in front of them and between their runs."""
        tensor, place = self._graph.tensors[name], self._places[name]
        rows = range(tensor.rows)
        top = self._homes.piece(name).top
        if patches.pitch == patches.patch[1]:
            rows = rows[: max(0, patches.lead - top)]
        if rows:
            region = self._region(_whole(name, tensor.columns), slice(0, len(rows)))
            fields = zero_rows(region, self._config)
            self._put(Opcode.LOAD, [], [region], fill=Fill.ZERO, base=INPUT_BASE, **fields)
        part = range(top, top + tensor.rows)
        for fields, regions in patch_loads(patches, part, place, self._config):
            self._put(Opcode.LOAD, [], regions, base=INPUT_BASE, **fields)

    def _constant(self, operator: Constant) -> None:
        tensor, place = self._graph.tensors[operator.out], self._places[operator.out]
        data = operator.values.astype(DTYPES[tensor.format]).tobytes()
        self._streamed += len(data)
        fields = constant_rows(tensor, place) | {"dram_offset": self.image.add(data)}
        region = self._region(_whole(tensor.name, tensor.columns))
        self._put(Opcode.LOAD, [], [region], base=IMAGE_BASE, **fields)
        self._note_tensor(operator.out, Engine.LOAD, operator.layer)

    def _lookup(self, operator: Lookup) -> None:
        tensor, place = self._graph.tensors[operator.out.tensor], self._places[operator.out.tensor]
        fields, table = gather_rows(operator.table, tensor.rows, place)
        self._streamed += gathered_bytes(operator, tensor.rows)
        self._put(
            Opcode.LOAD,
            [self._region(operator.indices)],
            [self._region(operator.out)],
            base=IMAGE_BASE,
            dram_offset=self.image.add(table),
            fill=Fill.GATHER,
            index=self._address(operator.indices),
            **fields,
        )
        self._note_tensor(tensor.name, Engine.LOAD, operator.layer)

    def _output(self, operator: Output) -> None:
        self._store(operator.x, self._named.get(operator.x, operator.x), output=True)

    def _fetch(self, operator: Fetch) -> None:
        self._load(operator.out, operator.name)
        self._named[operator.out] = operator.name
        if self._homes.is_input(operator.name):
            self._note_tensor(operator.out, Engine.LOAD, operator.layer)

    def _spill(self, operator: Spill) -> None:
        self._store(operator.x, operator.x)

    def _load(self, out: str, name: str) -> None:
        tensor, place = self._graph.tensors[out], self._places[out]
        home = self._homes.region(name, tensor.rows)
        self._put(
            Opcode.LOAD,
            [home] if home else [],
            [self._region(_whole(out, tensor.columns))],
            **self._homes.transfer(name, tensor, place, self._config),
        )

    def _store(self, x: str, name: str, *, output: bool = False) -> None:
        tensor, place = self._graph.tensors[x], self._places[x]
        home = None if output else self._homes.region(name, tensor.rows)
        self._put(
            Opcode.STORE,
            [self._region(_whole(x, tensor.columns))],
            [home] if home else [],
            **self._homes.transfer(name, tensor, place, self._config, output=output),
        )

    def _matmul(self, position: int, operator: Matmul) -> None:
        config, a = self._config, self._graph.tensors[operator.a.tensor]
        m, k = operator.a.rows_of(a), operator.a.columns
        n = self._n(operator)
        gemm = {
            "a_address": self._address(operator.a),
            "a_row": self._places[operator.a.tensor].row,
            "m": m,
            "k": k,
            "a_format": int(a.format),
        }
        for start, stop in self._loads.slices(position, n):
            self._parameters(position, start)
            width = stop - start
            reads = [self._region(operator.a)]
            if isinstance(operator.b, View):
                place = self._places[operator.b.tensor]
                gemm |= {
                    "b_address": self._address(operator.b) + start * place.row,
                    "b_row": place.row,
                    "b_source": WeightSource.SCRATCHPAD,
                }
                reads.append(self._region(operator.b))
            else:
                if isinstance(operator.b, Int4Weights):
                    part = operator.b.part(slice(start, stop))
                    tiles = pack_int4(part, config)
                    self._streamed += int4_bytes(width, k, part.block)
                    gemm["b_source"] = WeightSource.RING_S4
                else:
                    tiles = pack_weights(operator.b[start:stop], config)
                    self._streamed += width * k
                    gemm["b_source"] = WeightSource.RING_S8
                self._put(
                    Opcode.STREAM,
                    [],
                    [],
                    base=IMAGE_BASE,
                    dram_offset=self.image.add(tiles),
                    size=len(tiles),
                )
            self._put(Opcode.GEMM, reads, [], n=width, **gemm)
            self._vector(
                position,
                operator,
                rows=slice(0, m),
                start=start,
                stop=stop,
                x_format=XFormat.ACCUMULATOR,
            )
        self._note_tensor(operator.out.tensor, Engine.VECTOR, operator.layer)

    def _map(self, position: int, operator: Map) -> None:
        tensor = self._graph.tensors[operator.x.tensor]
        out = self._graph.tensors[operator.out.tensor]
        m, n = out.rows, operator.out.columns
        if operator.transpose:
            m, n = n, m
        blocks = [slice(0, m)]
        if operator.epilogue.rows in self._row_blocks:
            # Later passes find all records there already.
            blocks = self._row_blocks.pop(operator.epilogue.rows)
            if operator.transpose:
                blocks = _blocks(m, self._config.columns)
        for start, stop in self._loads.slices(position, n):
            self._parameters(position, start)
            for rows in blocks:
                self._vector(
                    position,
                    operator,
                    rows=rows,
                    start=start,
                    stop=stop,
                    x_format=XFormat(int(tensor.format)),
                )
        self._note_tensor(operator.out.tensor, Engine.VECTOR, operator.layer)

    def _parameters(self, position: int, start: int) -> None:
        """Emit the loads that are due: of later pieces, if all goes well."""
        for load in self._loads.due(position, start):
            self._put(Opcode.LOAD, [], [load.region], **load.fields)
            self._streamed += load.size

    def _vector(
        self,
        position: int,
        operator: Matmul | Map,
        *,
        rows: slice,
        start: int,
        stop: int,
        x_format: XFormat,
    ) -> None:
        """One VECTOR over some rows, and columns `start` to `stop`, of the operator's result."""
        epilogue, out = operator.epilogue, self._graph.tensors[operator.out.tensor]
        transpose = operator.transpose
        column = self._loads.slot(position, start)
        broadcast = len(epilogue.columns.mant) == 1
        m = rows.stop - rows.start
        fields: dict[str, int] = {
            "m": m,
            "n": stop - start,
            "x_format": x_format,
            "y_format": int(out.format),
            "transpose": int(transpose),
            "column": column,
            "broadcast": int(broadcast),
        }
        reads = [Region(resource="columns", start=column, width=1 if broadcast else stop - start)]
        writes: list[Region] = []

        y_place = self._places[out.name]
        fields["y_row"] = y_place.row
        if transpose:
            # Elements are bytes, and columns begin at whole granules.
            across = self._address(operator.out) + rows.start // self._config.columns
            fields["y_address"] = across + start * y_place.row
            width = -(-m // self._config.columns)
            writes.append(
                Region(
                    resource="scratchpad",
                    start=fields["y_address"],
                    width=width,
                    rows=stop - start,
                    stride=y_place.row,
                )
            )
        else:
            target = _part(operator.out, start, stop)
            fields["y_address"] = self._address(target, rows)
            writes.append(self._region(target, rows))
        if isinstance(operator, Map):
            source = _part(operator.x, start, stop)
            fields |= {
                "x_address": self._address(source, rows),
                "x_row": self._places[source.tensor].row,
            }
            reads.append(self._region(source, rows))
        second = operator.multiply if isinstance(operator, Map) else None
        fields["second"] = Second.MULTIPLY if second else Second.NONE
        if epilogue.residual is not None:
            second, fields["second"] = epilogue.residual, Second.ADD
        if second is not None:
            part = _part(second, start, stop)
            fields |= {
                "r_address": self._address(part, rows),
                "r_row": self._places[part.tensor].row,
            }
            reads.append(self._region(part, rows))
        if epilogue.table is not None:
            table = self._loads.table(position)
            fields |= {"function": Function.TABLE, "table": table}
            reads.append(Region(resource="tables", start=table, width=1))
        if epilogue.rows is not None:
            slot = self._slots["record", epilogue.rows] + rows.start
            fields |= {"use_row": 1, "row_in": slot}
            reads.append(Region(resource="record", start=slot, width=m))
        if epilogue.statistic != Statistic.NONE:
            if stop - start != operator.out.columns:
                raise CompileError(
                    f"{operator.layer} {operator.part}: statistics need all "
                    f"{operator.out.columns} columns in one pass, and the core has "
                    f"{self._config.column_slots} column slots. Use a larger preset."
                )
            field = field_of(epilogue.statistic)
            slot = self._slots[field, epilogue.statistic_name] + rows.start
            fields |= {"statistic": int(epilogue.statistic), "stat_out": slot}
            writes.append(Region(resource=field, start=slot, width=m))
        if epilogue.mask_length:
            fields |= {"mask": Mask.LENGTH, "length": LENGTH_SCALAR}
        self._put(Opcode.VECTOR, reads, writes, **fields)

    def _exp(self, operator: Exp) -> None:
        x, out = self._graph.tensors[operator.x.tensor], operator.out
        rows = operator.x.rows_of(x)
        maximum = self._slots["maximum", operator.maximum] + operator.x.top
        total = self._slots["sum", operator.total] + operator.x.top
        self._put(
            Opcode.VECTOR,
            [
                self._region(operator.x),
                Region(resource="maximum", start=maximum, width=rows),
            ],
            [self._region(out), Region(resource="sum", start=total, width=rows)],
            x_address=self._address(operator.x),
            x_row=self._places[x.name].row,
            y_address=self._address(out),
            y_row=self._places[out.tensor].row,
            m=rows,
            n=operator.x.columns,
            x_format=XFormat.S16,
            y_format=int(Format.U8),
            function=Function.EXP,
            row_in=maximum,
            stat_out=total,
            statistic=Statistic.SUM,
            unit=operator.unit,
        )
        self._note_tensor(out.tensor, Engine.VECTOR, operator.layer)

    def _rows(self, operator: RowRecords) -> None:
        source = self._slots["sum", operator.source]
        destination = self._slots["record", operator.out]
        blocks = [slice(0, operator.rows)]
        if operator.operation != RowOperation.RECIPROCAL:
            # The pass that waits for the records begins with those of the first block.
            blocks = _blocks(operator.rows)
            self._row_blocks[operator.out] = blocks
        for rows in blocks:
            count = rows.stop - rows.start
            first, target = source + rows.start, destination + rows.start
            self._put(
                Opcode.ROW,
                [Region(resource="sum", start=first, width=count)],
                [Region(resource="record", start=target, width=count)],
                operation=int(operator.operation),
                source=first,
                destination=target,
                rows=count,
                n=operator.n,
                eps_mantissa=operator.eps_mantissa,
                eps_shift=operator.eps_shift,
            )

    def _address(self, view: View, rows: slice | None = None) -> int:
        tensor = self._graph.tensors[view.tensor]
        offset = view.first * element_bytes(tensor.format)
        if offset % self._config.columns:
            raise CompileError(
                f"{view.tensor}: columns from {view.first} on do not begin at a multiple of "
                f"{self._config.columns}, the array's columns. Use a preset with fewer columns."
            )
        place = self._places[view.tensor]
        down = view.top + (rows.start if rows is not None else 0)
        return place.address + down * place.row + offset // self._config.columns

    def _n(self, operator: Matmul) -> int:
        match operator.b:
            case View():
                return self._graph.tensors[operator.b.tensor].rows
            case Int4Weights():
                return len(operator.b.codes)
        return len(operator.b)

    def _region(self, view: View, rows: slice | None = None) -> Region:
        """The granules of some rows of a view, all by default, with the last one's padding."""
        tensor, place = self._graph.tensors[view.tensor], self._places[view.tensor]
        group = element_bytes(tensor.format)
        return Region(
            resource="scratchpad",
            start=self._address(view, rows),
            width=-(-view.columns // self._config.columns) * group,
            rows=rows.stop - rows.start if rows is not None else view.rows_of(tensor),
            stride=place.row,
        )

    def _note_tensor(self, name: str, engine: Engine, layer: str) -> None:
        tensor, place = self._graph.tensors[name], self._places[name]
        piece = self._homes.piece(self._named.get(name, name))
        self._watch[name] = WatchPoint(
            name=name,
            layer=layer,
            instruction=len(self._instructions) - 1,
            engine=engine,
            count=self._counts[engine],
            address=place.address,
            row=place.row,
            rows=tensor.rows,
            columns=tensor.columns,
            format=tensor.format,
            tensor=piece.tensor,
            top=piece.top,
            first=piece.first,
        )


def _whole(name: str, columns: int) -> View:
    return View(tensor=name, first=0, columns=columns)


def _blocks(rows: int, unit: int = 1) -> list[slice]:
    """Cut rows into blocks, so that one's records are made while another's are used.

    Blocks begin at multiples of a unit: stored transposed, that is where granules begin.
    """
    size = max(LEAST_BLOCK, -(-rows // MOST_BLOCKS))
    size = -(-size // unit) * unit
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def _part(view: View, start: int, stop: int) -> View:
    return replace(view, first=view.first + start, columns=stop - start)


def code_of(instructions: Sequence[Instruction]) -> bytes:
    """The instructions as bytes, as they lie in DRAM."""
    return b"".join(isa.encode(instruction) for instruction in instructions)


def code_array(code: bytes) -> np.ndarray:
    """Instructions as `[n, 16]` words of 32 bits."""
    return np.frombuffer(code, "<u4").reshape(-1, isa.INSTRUCTION_BYTES // 4)
