"""``fullframe entry prove``: what the register frame holds at every C call, proved."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fullframe.cli.arguments import path
from fullframe.cli.output import print_json
from fullframe.errors import EXIT_FINDINGS, EXIT_OK


def add_prove(commands: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prove",
        help="prove what the register frame holds at every C call, and what the user gets back",
        description="Follow every path from every way in to every way out, and prove against a "
        "contract: what the slots of the register frame hold at each C call; that no handler "
        "which needs the full frame runs on a partial one; that the user gets back what the frame "
        "says; GS base, CR3, interrupts, the stack; the conditions of SYSRET. Exit code 1 if "
        "anything is wrong or not proved.",
    )
    parser.add_argument(
        "image", type=path, metavar="IMAGE", help="a linked image or a relocatable object"
    )
    parser.add_argument(
        "--contract",
        type=path,
        required=True,
        metavar="C",
        help="partial, full, annotated, linux-6.1, or a TOML file",
    )
    parser.add_argument(
        "--entry",
        action="append",
        metavar="SYMBOL",
        help="look at this way in only (may be given again); default: all that the image has",
    )
    parser.add_argument(
        "--features",
        metavar="F,F",
        help="the CPU features that are there, by the contract's names ('' for none); default: "
        "every combination is followed",
    )
    parser.add_argument(
        "--table",
        type=path,
        metavar="TABLE",
        help="the system-call table whose annotations count; default: the contract's",
    )
    parser.add_argument(
        "--allow-unproved",
        action="store_true",
        help="what could not be followed does not make the exit code 1",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--sarif", action="store_true", help="print a SARIF 2.1.0 log")
    parser.set_defaults(handler=_prove)


def _prove(arguments: argparse.Namespace) -> int:
    from fullframe.elf.image import Image
    from fullframe.entry.prove.diagnostics import DIAGNOSTICS
    from fullframe.entry.prove.prove import prove_image
    from fullframe.report import prove as report
    from fullframe.report.sarif import sarif
    from fullframe.table import open_table

    features = None
    if arguments.features is not None:
        features = [name for name in arguments.features.split(",") if name]
    image = Image.open(arguments.image)
    proof = prove_image(
        image,
        arguments.contract,
        table=open_table(arguments.table) if arguments.table else None,
        features=features,
        entries=arguments.entry,
    )
    if arguments.json:
        print_json(report.proof_json(proof))
    elif arguments.sarif:
        print_json(sarif(report.proof_sarif_results(proof), DIAGNOSTICS))
    else:
        report.write_proof(sys.stdout, proof, image.name_of)
    if proof.findings or not proof.entries:
        return EXIT_FINDINGS
    return EXIT_FINDINGS if proof.not_proved and not arguments.allow_unproved else EXIT_OK
