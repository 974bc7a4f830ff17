"""The command line. It stands above everything: it may import all, and nothing imports it."""

import argparse
import os
import sys
from collections.abc import Sequence

from systolith.cli import (
    bench_command,
    build_command,
    compile_command,
    demo_command,
    driver_command,
    ops_command,
    program_command,
    report_command,
    run_command,
    sweep_command,
    synth_command,
    verilog_command,
)
from systolith.cli.exits import Exit, exit_of

_EPILOG = """\
exit codes:
  0  fine
  1  results differ: between levels, or from what was asked for
  2  something in the input: a file, an option, an unsupported model
  3  a tool is missing
  4  the device faulted or did not answer

start with `systolith demo`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="systolith",
        description="A transformer NPU: compile a model, run it on the core's RTL, export it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        demo_command,
        run_command,
        compile_command,
        report_command,
        sweep_command,
        ops_command,
        verilog_command,
        driver_command,
        synth_command,
        build_command,
        program_command,
        bench_command,
    ):
        module.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:
        # Whoever read our output has enough of it: `systolith ops | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FINE
    except KeyboardInterrupt:
        print("systolith: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = exit_of(error)
        if code is None:
            raise
        print(f"systolith: {error}", file=sys.stderr)
        return int(code)


__all__ = ["Exit", "main"]
