"""Called by FuseSoC with a YAML file; writes Verilog and a core file that lists it.

FuseSoC is not asked to cache what this writes: it would not see that Systolith has changed.

It needs the package systolith in the environment of `python3`, which is that of FuseSoC where both
are installed together.
"""

import sys

from fusesoc.capi2.generator import Generator

from systolith.config import preset
from systolith_boards.exported import exported
from systolith_rtl.export import LINT_WAIVERS
from systolith_sim.bench import verilog_bench
from systolith_sim.vectors import small_program, vectors_of

PARAMETERS = {"preset": "tiny", "module": "systolith", "files": "core"}
"""What a core file may ask for, and what it gets if it does not."""


class SystolithGenerator(Generator):
    """One run, for one `generate` section.

    Raises:
        ValueError: a parameter that makes no sense.
    """

    def run(self) -> None:
        """Write the files."""
        given = {**PARAMETERS, **(self.config or {})}
        unknown = given.keys() - PARAMETERS.keys()
        if unknown:
            raise ValueError(f"there is no parameter {', '.join(sorted(unknown))}")
        config, module = preset(given["preset"]), given["module"]
        if given["files"] == "core":
            text = exported(config, name=module).read_text("utf-8")
            self._write(f"{module}.v", text, "verilogSource-2005")
            rules = "".join(
                f'lint_off -rule {rule} -file "*/{module}.v"\n' for rule in LINT_WAIVERS
            )
            self._write(f"{module}.vlt", f"`verilator_config\n{rules}", "vlt")
        elif given["files"] == "bench":
            program = small_program(config)
            text = verilog_bench(program, vectors_of(program), core=module)
            self._write(f"{module}_bench.v", text, "verilogSource-2005")
        else:
            raise ValueError(f"files must be core or bench, not {given['files']!r}")
        self.write()

    def _write(self, name: str, text: str, kind: str) -> None:
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
        self.add_files([name], fileset=kind.partition("-")[0], file_type=kind)


if __name__ == "__main__":
    try:
        SystolithGenerator().run()
    except ValueError as error:
        sys.exit(f"systolith: {error}")
