"""Proving an image against a contract."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

from fullframe.elf.image import Image
from fullframe.entry.prove.code import Code
from fullframe.entry.prove.contract import Contract, WayIn
from fullframe.entry.prove.explore import Explorer
from fullframe.entry.prove.handlers import Handlers
from fullframe.entry.prove.read_contract import open_contract
from fullframe.entry.prove.result import EntryProof, ProofFinding, ProofReport, Unproved
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.ways_in import initial
from fullframe.errors import InputError, InputErrors, Place, UsageError
from fullframe.table import open_table
from fullframe.table.model import Table


def prove_image(
    image: Image | str | os.PathLike[str],
    contract: Contract | str,
    *,
    table: Table | None = None,
    features: Iterable[str] | None = None,
    entries: Iterable[str] | None = None,
    stop_at_first: bool = False,
) -> ProofReport:
    """Prove what the register frame holds at every C call of an image.

    Args:
        image: a linked image or a relocatable object, or its path.
        contract: the contract, its packaged name or its path.
        table: the system-call table whose annotations count; by default the contract's.
        features: the CPU features that are there, by the contract's names; all others are then
            taken to be absent. None: every combination is followed.
        entries: symbols of the ways in to look at; by default all that the image has.
        stop_at_first: give up as soon as one thing is wrong or cannot be followed; for those who
            only want to know whether the image is proved.

    Raises:
        InputError: the image cannot be read, or is not x86-64 code.
        InputErrors: the contract names symbols that the image has not.
        UsageError: an unknown contract, feature or way in.
    """
    if not isinstance(image, Image):
        image = Image.open(image)
    if isinstance(contract, str):
        contract = open_contract(contract)
    code = Code(image)
    decided = _decided(code, contract, features)
    if table is None and contract.annotations:
        table = open_table(contract.annotations)
    handlers = Handlers(contract.handler, table)
    chosen = _ways_in(contract, entries)
    _check_symbols(code, contract, chosen)
    proofs: list[EntryProof] = []
    findings: list[ProofFinding] = []
    unproved: list[Unproved] = []
    absent: list[str] = []
    explorers: list[tuple[Explorer, int]] = []
    for way_in in chosen:
        starts = _starts(code, contract, handlers, way_in)
        # A table without stubs is there: there is nothing of it to look at.
        if not starts and not (way_in.by == "call" and way_in.symbol in code.names):
            absent.append(way_in.symbol)
        for name, where in starts:
            explorer = Explorer(code, contract, handlers, way_in, name, decided, stop_at_first)
            explorers.append((explorer, where))
    met = {feature for explorer, where in explorers for feature in explorer.scan(where)}
    for explorer, where in explorers:
        if stop_at_first and (findings or unproved):
            break
        states = _states(contract, explorer, decided, met)
        proofs.append(explorer.run([(where, known) for known in states]))
        findings += explorer.record.findings.values()
        unproved += explorer.record.unproved.values()
    if not proofs:
        known = ", ".join(way.symbol for way in chosen)
        raise InputError(
            Place(image.path),
            "none of the contract's ways in",
            f"at least one of {known}",
            "name the contract that belongs to this image",
        )
    return ProofReport(
        image=image.path,
        contract=contract.name,
        entries=tuple(proofs),
        absent=tuple(absent),
        findings=tuple(sorted(findings, key=lambda f: (f.entry, f.address, f.code, f.message))),
        not_proved=tuple(sorted(unproved, key=lambda u: (u.entry, u.address, u.reason))),
    )


def _decided(code: Code, contract: Contract, features: Iterable[str] | None) -> dict[int, bool]:
    decided = {contract.features[name]: there for name, there in contract.decided.items()}
    if features is None:
        return decided
    used = {a.feature for sites in code.sites.values() for a in sites}
    for number in used | set(contract.features.values()):
        decided.setdefault(number, False)
    for name in features:
        wanted = contract.features.get(name)
        if wanted is None and name.isdecimal():
            wanted = int(name[:6])
        if wanted is None:
            near = difflib.get_close_matches(name, contract.features, 3)
            known = ", ".join(near or sorted(contract.features))
            raise UsageError(f"no CPU feature {name[:64]!r} in the contract; there are {known}")
        decided[wanted] = True
    return decided


def _ways_in(contract: Contract, entries: Iterable[str] | None) -> list[WayIn]:
    if entries is None:
        return list(contract.ways_in)
    by_symbol = {way.symbol: way for way in contract.ways_in}
    chosen = []
    for name in entries:
        if name not in by_symbol:
            near = difflib.get_close_matches(name, by_symbol, 3) or sorted(by_symbol)
            raise UsageError(
                f"no way in {name[:64]!r} in the contract; there are {', '.join(near)}"
            )
        chosen.append(by_symbol[name])
    return chosen


def _starts(
    code: Code, contract: Contract, handlers: Handlers, way_in: WayIn
) -> list[tuple[str, int]]:
    """Return (name, address) of the first instructions of a way in."""
    if way_in.by != "call":
        address = code.address_of(way_in.symbol)
        return [] if address is None or not code.is_code(address) else [(way_in.symbol, address)]
    found: dict[int, str] = {}
    for target in code.table(way_in.symbol) or ():
        names = code.names_by_address.get(target, ())
        if names and code.is_code(target) and not any(map(handlers.function, names)):
            found[target] = names[0]
    return [(name, address) for address, name in sorted(found.items())]


def _states(
    contract: Contract, explorer: Explorer, decided: dict[int, bool], met: set[int]
) -> list[Known]:
    """Return the states at the first instruction: with and without page tables of its own.

    Args:
        contract: names the feature that separates page tables.
        explorer: of the way in.
        decided: features that are known.
        met: features that some alternative asks for in what the ways in lead to. Where none
            asks for separate page tables, the kernel was built without.
    """
    way_in = explorer.way_in
    due = ""
    if way_in.by == "call":
        prefix = next(t.stub_prefix for t in contract.tables if t.symbol == way_in.symbol)
        due = explorer.name.removeprefix(prefix)
    number = contract.features.get(contract.cr3_feature)
    if number is None or number not in met:
        known = initial(contract, way_in, explorer.space, separate_tables=False)
        return [known._replace(handler_due=due)]
    choices = [decided[number]] if number in decided else [True, False]
    states = []
    for separate in choices:
        known = initial(contract, way_in, explorer.space, separate_tables=separate)
        known = known._replace(handler_due=due)
        if number not in decided:
            known = known._replace(features=frozenset({(number, separate)}))
        states.append(known)
    return states


def _check_symbols(code: Code, contract: Contract, chosen: list[WayIn]) -> None:
    """Refuse a contract that names what a linked image has not.

    A relocatable object has symbols only for what it uses, so it may lack some.
    """
    if code.image.is_relocatable:
        return
    wanted = [(word.symbol, word.place) for word in contract.words if word.symbol]
    wanted += [(t.symbol, t.place) for t in contract.tables if not t.optional]
    wanted += [(way.symbol, way.place) for way in chosen if not way.optional]
    errors = []
    for name, place in dict(wanted).items():
        if name in code.names:
            continue
        near = difflib.get_close_matches(name, code.names, 3)
        errors.append(
            InputError(
                place,
                f"symbol {name}, which {code.image.path} has not",
                "a symbol of the image",
                f"did you mean {', '.join(near)}?" if near else "check contract and image",
            )
        )
    if errors:
        raise InputErrors(errors)
