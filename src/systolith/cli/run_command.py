"""`systolith run`: a user's model and inputs on a device."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from systolith.cli.execute import FloatModel, Outcome, execute, summary
from systolith.cli.exits import Exit, UsageError
from systolith.cli.inputs import Sample, is_image, load_samples, load_tokenizer, tokenize
from systolith.cli.layers import layer_errors
from systolith.cli.options import (
    DeviceOptions,
    add_device_options,
    add_model_options,
    chosen_preset,
    memory_of,
    opened,
    say_expected_time,
)
from systolith.cli.prepare import (
    PROGRAM_SUFFIX,
    bucket_for,
    calibration,
    parse_buckets,
    prepare,
    preset_config,
)
from systolith.cli.report import write_report
from systolith.cli.show import show_outcome
from systolith.cli.weights import weight_options

_EPILOG = """\
examples:
  systolith run model.onnx --text "a sentence" --tokenizer tokenizer.json
  systolith run model.onnx --inputs inputs.npz --seq-len 64 --check
  systolith run model.systolith --inputs inputs.npz --device iss --json

inputs.npz holds one array for each input of the model, [tokens] or [inputs, tokens]; an
attention_mask says which tokens of a padded row count. Images are one array [channels, height,
width] or [images, channels, height, width], as the model takes them, and have as many tokens as
the model makes of them. Text files hold a sentence a line.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="run a model on the core",
        description="Run an ONNX model, or a compiled program, on a core.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="an .onnx model, or a compiled .systolith program")
    parser.add_argument("--inputs", type=Path, metavar="FILE", help="inputs: .npz, or text")
    parser.add_argument("--text", action="append", metavar="SENTENCE", help="an input; repeatable")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the model's outputs to this .npz"
    )
    parser.add_argument(
        "--errors", action="store_true", help="list float against integer, layer by layer"
    )
    add_model_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    samples: list[Sample] = []
    if options.inputs:
        samples += load_samples(options.inputs, tokenizer)
    if options.text:
        if tokenizer is None:
            raise UsageError("--text needs the model's tokenizer.json: give it by --tokenizer")
        samples += tokenize(tokenizer, options.text)
    if not samples:
        raise UsageError("nothing to run: give --inputs FILE or --text SENTENCE")

    options.preset = chosen_preset(options)
    config = preset_config(options.preset)
    calibrated = calibration(options.calibration, tokenizer)
    quantization = weight_options(options)
    is_program = options.model.suffix == PROGRAM_SUFFIX
    if is_program and options.errors:
        raise UsageError("--errors needs the float model: give the .onnx file")
    buckets = parse_buckets(options.seq_len)
    # Images have as many tokens as their model makes of them, whatever the length.
    lengths = [0 if is_image(sample) else len(next(iter(sample.values()))) for sample in samples]
    seq_len = 0 if is_program else bucket_for(max(lengths), buckets)
    program = prepare(
        options.model,
        config=config,
        seq_len=seq_len,
        calibrated=calibrated,
        quantization=quantization,
        quiet=options.json,
    )
    reference = None if is_program else FloatModel(options.model)
    chosen = DeviceOptions.of(options)
    with opened(
        chosen, config, inputs=len(samples), check=options.check, quiet=options.json
    ) as devices:
        say_expected_time(program, devices, len(samples))
        outcome = execute(
            program,
            devices,
            samples,
            reference=reference,
            check=options.check,
            quiet=options.json,
        )
        if options.output:
            save_outputs(options.output, outcome)
        errors = None
        if options.errors:
            errors = layer_errors(
                options.model,
                config=config,
                seq_len=seq_len,
                calibrated=calibrated,
                quantization=quantization,
                samples=samples,
            )
        if options.report:
            memory = memory_of(options)
            write_report(options.report, program, devices[0], options.preset, memory, outcome)
        if options.json:
            print(json.dumps(summary(program, devices[0], options.preset, outcome)))
        else:
            show_outcome(program, devices[0], options.preset, outcome)
        if errors is not None:
            print(errors, file=sys.stderr if options.json else sys.stdout)
    return exit_code(outcome)


def exit_code(outcome: Outcome) -> Exit:
    """Different if levels were compared and differ."""
    differs = any(result.difference is not None for result in outcome.results)
    return Exit.DIFFERENT if differs else Exit.FINE


def save_outputs(path: Path, outcome: Outcome) -> None:
    """Write outputs, stacked over the inputs; shorter ones are filled with zeros."""
    arrays: dict[str, np.ndarray] = {}
    for name in outcome.results[0].outputs:
        values = [result.outputs[name] for result in outcome.results]
        shape = np.max([value.shape for value in values], axis=0)
        stacked = np.zeros((len(values), *shape), values[0].dtype)
        for index, value in enumerate(values):
            stacked[(index, *(slice(size) for size in value.shape))] = value
        arrays[name] = stacked
    np.savez(path, allow_pickle=False, **arrays)
