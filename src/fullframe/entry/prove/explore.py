"""Following every path from one way in to every way out.

States are kept apart as long as they differ: which tests were made, which modes are on, which CPU
features are there. Where too many arrive at one place, those that differ in registers alone are
joined. Every state knows the one it came from, so that a finding can show its path.
"""

from __future__ import annotations

from dataclasses import dataclass

from iced_x86 import FlowControl, Instruction, Mnemonic, OpKind

from fullframe.entry.prove import diagnostics as codes
from fullframe.entry.prove.branch import outcomes
from fullframe.entry.prove.ccall import after_call
from fullframe.entry.prove.check import Checker
from fullframe.entry.prove.code import Code
from fullframe.entry.prove.contract import Contract, DispatchTable, Function, Helper, WayIn
from fullframe.entry.prove.dispatch import check_index, table_of
from fullframe.entry.prove.handlers import Handlers
from fullframe.entry.prove.memory import Memory
from fullframe.entry.prove.record import Record
from fullframe.entry.prove.result import EntryProof
from fullframe.entry.prove.scan import scan
from fullframe.entry.prove.state import Known
from fullframe.entry.prove.step import Stepper
from fullframe.entry.prove.values import CALLER_STACK, INTO_C, PER_CPU, describe, something
from fullframe.track.operands import HARDWARE
from fullframe.track.state import StateSpace
from fullframe.track.values import UNKNOWN, Address, Constant, Value, address, constant
from fullframe.x86.registers import SP, X86_64

#: States kept apart at one place before those that differ in registers alone are joined.
_MOST_APART = 8
#: States at one place, and of one way in, before it is given up: bounds hostile input.
_MOST_AT_ONE_PLACE = 256
_MOST_STATES = 60_000
_OUT = {
    Mnemonic.SYSRETQ: "SYSRETQ", Mnemonic.SYSRET: "SYSRETL", Mnemonic.IRETQ: "IRETQ",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Node:
    address: int
    known: Known
    before: int
    site_chosen: bool


class Explorer:
    """Follows one way in.

    Args:
        code: the image.
        contract: what to expect.
        handlers: what the dispatch tables' handlers need.
        way_in: where to start.
        name: of the way in, for messages.
        features: CPU features that are known, by number.
        stop_at_first: stop when something is wrong or cannot be followed.
    """

    def __init__(
        self,
        code: Code,
        contract: Contract,
        handlers: Handlers,
        way_in: WayIn,
        name: str,
        features: dict[int, bool],
        stop_at_first: bool = False,
    ) -> None:
        self.code = code
        self.contract = contract
        self.handlers = handlers
        self.name = name
        self.way_in = way_in
        self.space = StateSpace(X86_64, precise=True)
        self.memory = Memory(code, contract, self.space)
        self.stepper = Stepper(contract, self.memory, self.space)
        self.checker = Checker(contract, way_in, self._may_have)
        self._features = features
        self._stop_at_first = stop_at_first
        self._functions = {s: f for f in contract.functions for s in f.symbols}
        self._helpers = {s: h for h in contract.helpers for s in h.symbols}
        self._kept = {
            contract.features[feature]
            for feature in (contract.cr3_feature, contract.ac_feature, *contract.canonical_bits)
            if feature
        }
        self.nodes: list[_Node] = []
        self.work: list[int] = []
        self.at: dict[int, dict[Known, int]] = {}
        self.boundaries: set[int] = set()
        self.merged = 0
        self.leaders: frozenset[int] = frozenset()
        self.ahead: dict[int, frozenset[int]] = {}
        self.record = Record(name, self._path, self._feature_names)
        self._here = -1

    # ------------------------------------------------------------------ the whole

    def run(self, starts: list[tuple[int, Known]]) -> EntryProof:
        """Follow everything from the first instruction, which was scanned, in each state."""
        for start, known in starts:
            self._go(start, known, -1)
        while self.work:
            if self._stop_at_first and (self.record.findings or self.record.unproved):
                break
            if len(self.nodes) > _MOST_STATES:
                self.record.cannot(self.nodes[self.work[-1]].address, "too many states to follow")
                break
            self._follow(self.work.pop())
        if self.record.leads_nowhere:
            message = f"no path from {self.name} leads out"
            self.record.found(codes.NO_WAY_OUT, starts[0][0], message)
        return self.record.proof(self.way_in.by, len(self.boundaries), self.merged)

    def scan(self, start: int) -> frozenset[int]:
        """Look at the code before it is followed.

        Args:
            start: the first instruction.

        Returns:
            The CPU features that some alternative on the way asks for.
        """
        found = scan(self.code, start, lambda place: self._named(place) is not None)
        self.leaders, self.ahead = found.leaders, found.ahead
        return found.features

    # ------------------------------------------------------------------ nodes

    def _go(self, where: int, known: Known, before: int, site_chosen: bool = False) -> None:
        """Let a state arrive somewhere."""
        if self.code.sites and not site_chosen and before >= 0:
            known = self._without_past_features(where, known)
        states = self.at.setdefault(-where if site_chosen else where, {})
        if known in states:
            self.merged += 1
            return
        if len(states) >= _MOST_APART:
            joined = self._join(states, known)
            if joined is not None:
                self.merged += 1
                known = joined
                if known in states:
                    return
            elif len(states) >= _MOST_AT_ONE_PLACE:
                self.record.cannot(where, "too many states arrive here")
                return
        states[known] = len(self.nodes)
        self.work.append(len(self.nodes))
        self.nodes.append(_Node(where, known, before, site_chosen))

    def _join(self, states: dict[Known, int], known: Known) -> Known | None:
        for other in states:
            if (
                other.machine.slots == known.machine.slots
                and other.machine.registers[SP] is known.machine.registers[SP]
                and other._replace(machine=known.machine, facts=known.facts, condition=None)
                == known._replace(condition=None)
            ):
                registers = tuple(
                    a if a is b else UNKNOWN
                    for a, b in zip(other.machine.registers, known.machine.registers, strict=True)
                )
                machine = self.space.make(registers, known.machine.slots)
                facts = other.facts & known.facts
                return known._replace(machine=machine, facts=facts, condition=None)
        return None

    def _without_past_features(self, where: int, known: Known) -> Known:
        """Forget features that no site ahead asks for: they would keep equal paths apart."""
        ahead = self.ahead.get(where)
        if ahead is None or not known.features:
            return known
        kept = frozenset(f for f in known.features if f[0] in ahead or f[0] in self._kept)
        return known if kept == known.features else known._replace(features=kept)

    # ------------------------------------------------------------------ one piece of straight code

    def _follow(self, number: int) -> None:
        node = self.nodes[number]
        self._here = number
        where, known = node.address, node.known
        chosen = node.site_chosen
        while True:
            if not chosen and where in self.code.sites:
                self._choose(where, known, number)
                return
            chosen = False
            found = self.code.instruction(where)
            if found is None:
                self.record.cannot(where, "control reaches bytes that are no instruction")
                return
            i, raw = found
            self.boundaries.add(where)
            if i.flow_control != FlowControl.NEXT or i.mnemonic in _ENDS:
                self._transfer(known, i, number)
                return
            after = self._step(known, i, raw)
            if after is None:
                return
            known = after
            where = self.code.after(i)
            if where in self.leaders:
                self._go(where, known, number)
                return

    def _step(self, known: Known, i: Instruction, raw: bytes) -> Known | None:
        stepper = self.stepper
        after = stepper.step(known, i, raw)
        if not self._reported(i):
            return None
        if after.modes is not known.modes and after.modes.interrupts != "off":
            work = tuple(
                "unseen" if kind.volatile and status == "none" else status
                for kind, status in zip(self.contract.work, after.work, strict=True)
            )
            # The scratch word is for whoever enters the kernel next.
            slots = {k: v for k, v in after.machine.slots.items() if k[0] is not PER_CPU}
            machine = self.space.make(after.machine.registers, slots)
            after = after._replace(work=work, machine=machine)
        return after

    def _reported(self, i: Instruction) -> bool:
        """Report what the stepper met at an instruction; return whether the path goes on."""
        stepper = self.stepper
        for message in stepper.problems:
            self.record.found(codes.WRONG_MEMORY, i.ip, message)
        for reason in stepper.unproved:
            self.record.cannot(i.ip, reason)
        goes_on = not stepper.unproved
        stepper.problems.clear()
        stepper.unproved.clear()
        return goes_on

    # ------------------------------------------------------------------ alternatives

    def _may_have(self, known: Known, feature: str) -> bool:
        """Return whether a feature may be there on a path; "" is always."""
        if not feature:
            return True
        number = self.contract.features[feature]
        decided = known.feature(number)
        if decided is None:
            decided = self._features.get(number)
        return decided is not False

    def _choose(self, where: int, known: Known, number: int) -> None:
        """Go on with each variant that the features known so far leave possible.

        The kernel patches in the order of the records, so the last one that applies stays.
        """
        for alternative in reversed(self.code.sites[where]):
            feature = alternative.feature
            has = self._features.get(feature)
            if has is None:
                has = known.feature(feature)
            if has is None:
                with_it = known._replace(features=known.features | {(feature, True)})
                without = known._replace(features=known.features | {(feature, False)})
                if alternative.inverted:
                    with_it, without = without, with_it
                self._go(alternative.entered_at, with_it, number)
                known = without
            elif has is not alternative.inverted:
                self._go(alternative.entered_at, known, number)
                return
        self._go(where, known, number, site_chosen=True)

    # ------------------------------------------------------------------ transfers of control

    def _transfer(self, known: Known, i: Instruction, number: int) -> None:
        flow = i.flow_control
        if i.mnemonic in _OUT:
            self._leave(known, i)
        elif flow == FlowControl.CONDITIONAL_BRANCH:
            self._branch(known, i, number)
        elif flow == FlowControl.UNCONDITIONAL_BRANCH and i.op0_kind == OpKind.NEAR_BRANCH64:
            self._jump(known, i, i.near_branch_target, number)
        elif flow == FlowControl.CALL and i.op0_kind == OpKind.NEAR_BRANCH64:
            pushed = self._push_return(known, i)
            if pushed is not None:
                self._enter(pushed, i, i.near_branch_target, number)
        elif flow == FlowControl.RETURN and i.mnemonic == Mnemonic.RET and not i.op_count:
            self._return(known, i, number)
        elif flow in (FlowControl.INDIRECT_CALL, FlowControl.INDIRECT_BRANCH):
            self._indirect(known, i, number)
        elif i.mnemonic in (Mnemonic.INT3, Mnemonic.UD2):
            self.record.cannot(i.ip, "control reaches a trap")
        else:
            self.record.cannot(i.ip, f"control goes on in a way that is not modelled: {i}")

    def _branch(self, known: Known, i: Instruction, number: int) -> None:
        if i.mnemonic in (Mnemonic.LOOP, Mnemonic.LOOPE, Mnemonic.LOOPNE, Mnemonic.JRCXZ):
            self.record.cannot(i.ip, f"a jump that is not modelled: {i}")
            return
        for taken, after in outcomes(self.contract, known, i.condition_code):
            if taken:
                self._jump(after, i, i.near_branch_target, number)
            else:
                self._go(self.code.after(i), after, number)

    def _jump(self, known: Known, i: Instruction, target: int, number: int) -> None:
        if self.code.sites and self.code.inside_a_site(target, i.ip):
            self.record.cannot(i.ip, "jumps into instructions that alternatives replace")
            return
        self._arrive(known, i, target, number)

    def _arrive(self, known: Known, i: Instruction, target: int, number: int) -> None:
        """Go to a place, which may be a C function."""
        if self._named(target) is not None:
            self._enter(known, i, target, number)
        elif self.code.is_code(target):
            self._go(target, known, number)
        else:
            self.record.cannot(
                i.ip, f"jumps to {self._names(target)}, of which the contract says nothing"
            )

    def _push_return(self, known: Known, i: Instruction) -> Known | None:
        after = self.stepper.push(known, constant(self.code.after(i)))
        return after if self._reported(i) else None

    def _named(self, target: int) -> Function | Helper | None:
        """Return what the contract, or the system-call table, says of a place."""
        for name in self.code.names_by_address.get(target, ()):
            function = self._functions.get(name) or self.handlers.function(name)
            if function is not None:
                return function
            helper = self._helpers.get(name)
            if helper is not None and (helper.does != "clobber" or not self.code.is_code(target)):
                return helper
        return None

    def _names(self, target: int) -> str:
        names = self.code.names_by_address.get(target)
        return names[0] if names else self.code.image.name_of(target)

    def _enter(self, known: Known, i: Instruction, target: int, number: int) -> None:
        """Go to a place that may be a C function; the return address is pushed already."""
        what = self._named(target)
        if isinstance(what, Function):
            name = self._names(target)
            self._c_call(known, what, name, name, i, number)
        elif isinstance(what, Helper):
            self._help(known, what, self._names(target), i, number)
        elif self.code.is_code(target):
            self._go(target, known, number)
        else:
            self.record.cannot(
                i.ip, f"calls {self._names(target)}, of which the contract says nothing"
            )

    def _help(self, known: Known, helper: Helper, name: str, i: Instruction, number: int) -> None:
        if helper.does == "return":
            self._return(known, i, number)
        elif helper.does.startswith("jump "):
            register = X86_64.register_names.index(helper.does.split()[1])
            self._indirect_to(known, known.machine.registers[register], i, register, number)
        else:
            for register in helper.clobbers:
                left_over = something(f"a leftover of {name}")
                known = self.stepper.set_register(known, register, left_over)
            self._return(known._replace(condition=None), i, number)

    def _return(self, known: Known, i: Instruction, number: int) -> None:
        pointer = known.machine.registers[SP]
        known, target = self.stepper.pop(known)
        self.stepper.problems.clear()
        if self.stepper.unproved:
            self.stepper.unproved.clear()
            self.record.cannot(i.ip, f"returns from a stack that is {describe(pointer)}")
        elif isinstance(target, Constant):
            self._arrive(known, i, target.number, number)
        elif target is INTO_C and pointer is address(CALLER_STACK, 0):
            self.record.way_out(i.ip, "ret", True)
        else:
            self.record.found(codes.WRONG_STACK, i.ip, f"returns to {describe(target)}")

    # ------------------------------------------------------------------ indirect transfers

    def _indirect(self, known: Known, i: Instruction, number: int) -> None:
        is_call = i.flow_control == FlowControl.INDIRECT_CALL
        if is_call:
            pushed = self._push_return(known, i)
            if pushed is None:
                return
        else:
            pushed = known
        if i.op0_kind == OpKind.REGISTER and i.op0_register in HARDWARE:
            register = HARDWARE[i.op0_register]
            target = known.machine.registers[register]
            self._indirect_to(pushed, target, i, register, number)
            return
        table = table_of(self.code, self.contract, i)
        if table is None:
            self.record.cannot(i.ip, f"an indirect transfer whose targets cannot be seen: {i}")
            return
        self._dispatch(known, pushed, i, table, number)

    def _indirect_to(
        self, known: Known, target: Value, i: Instruction, register: int, number: int
    ) -> None:
        if isinstance(target, Constant):
            self._enter(known, i, target.number, number)
            return
        name = X86_64.register_names[register]
        for function in self.contract.functions:
            if function.shared == name and i.flow_control != FlowControl.UNCONDITIONAL_BRANCH:
                self._c_call(known, function, f"*{name}", f"*{name}", i, number)
                return
        self.record.cannot(i.ip, f"an indirect transfer to {describe(target)}")

    def _dispatch(
        self, known: Known, pushed: Known, i: Instruction, table: DispatchTable, number: int
    ) -> None:
        for code, message in check_index(self.code, self.contract, known, i, table):
            self.record.found(code, i.ip, message)
        targets = self.code.table(table.symbol)
        if targets is None:
            self.record.cannot(i.ip, f"the image does not hold the table {table.symbol}")
            return
        classes: dict[tuple[str, int], tuple[Function | None, str, int]] = {}
        for target in dict.fromkeys(targets):
            what = self._named(target)
            if isinstance(what, Function):
                kind = Handlers.class_of(what)
                function, example, count = classes.get((kind, 0), (what, self._names(target), 0))
                classes[kind, 0] = (function, example, count + 1)
            else:
                classes["", target] = (None, "", target)
        for (kind, target), (found, example, count) in classes.items():
            if found is None:
                due = self._names(target).removeprefix(table.stub_prefix)
                self._enter(pushed._replace(handler_due=due), i, target, number)
            else:
                more = f" and {count - 1} more" if count > 1 else ""
                self._c_call(pushed, found, f"{example}{more} ({kind})", example, i, number)

    # ------------------------------------------------------------------ C

    def _c_call(
        self, known: Known, function: Function, title: str, name: str, i: Instruction, number: int
    ) -> None:
        """Check a call into C, the return address pushed, and go on where it returns."""
        pointer = known.machine.registers[SP]
        inside = self.way_in.by == "call"
        verdict, held, problems = self.checker.call(known, function, title, inside)
        if known.handler_due not in ("", name) and self.handlers.function(name) is not None:
            message = f"the stub of {known.handler_due} leads to {name}"
            problems.append((codes.WRONG_DISPATCH, message))
        if inside and pointer is not address(CALLER_STACK, 0):
            problems.append((codes.WRONG_STACK, f"{title} is entered with the stack moved"))
        for code, message in problems:
            self.record.found(code, i.ip, message)
        self.record.call(i.ip, title, verdict, held, not problems)
        if inside:
            self.record.way_out(i.ip, "jmp", not problems)
            return
        base = self.checker.base_of(known, function)
        return_to = (
            self.memory.read(known, pointer, 8, []) if isinstance(pointer, Address) else None
        )
        site: int = i.ip
        if name not in self._functions and not name.startswith("*"):
            # One handler of a class does what another does: their paths need no telling apart.
            name, site = Handlers.one_of(function), 0
        after = after_call(
            self.contract, self.space, known, function, name, site, base, self.checker.frame_place
        )
        if isinstance(return_to, Constant):
            self._arrive(after, i, return_to.number, number)
        else:
            self.record.cannot(i.ip, f"{title} returns to {describe(return_to)}")

    # ------------------------------------------------------------------ ways out

    def _leave(self, known: Known, i: Instruction) -> None:
        name = _OUT[i.mnemonic]
        rule = self.contract.ways_out.get(name)
        if rule is None:
            self.record.cannot(i.ip, f"{name}, of which the contract says nothing")
            return
        popped: list[Value] | None = None
        if name == "IRETQ":
            pointer = known.machine.registers[SP]
            if not isinstance(pointer, Address):
                self.record.found(
                    codes.WRONG_STACK, i.ip, f"IRETQ from a stack that is {describe(pointer)}"
                )
                self.record.way_out(i.ip, name, False)
                return
            popped = [
                self.memory.read(
                    known, address(pointer.region, pointer.offset_bytes + 8 * n), 8, []
                )
                for n in range(5)
            ]
        problems = list(self.checker.way_out(known, rule, popped))
        for code, message in problems:
            self.record.found(code, i.ip, message)
        self.record.way_out(i.ip, name, not problems)

    # ------------------------------------------------------------------ for the record

    def _path(self, where: int) -> tuple[int, ...]:
        path, number = [where], self._here
        while number >= 0 and len(path) < 4096:
            path.append(self.nodes[number].address)
            number = self.nodes[number].before
        return tuple(dict.fromkeys(reversed(path)))

    def _feature_names(self) -> tuple[str, ...]:
        if self._here < 0:
            return ()
        names = {number: name for name, number in self.contract.features.items()}
        return tuple(
            ("" if there else "no ") + names.get(number, f"feature {number}")
            for number, there in sorted(self.nodes[self._here].known.features)
        )


_ENDS = frozenset(_OUT) | {Mnemonic.IRET, Mnemonic.IRETD, Mnemonic.HLT, Mnemonic.SYSEXIT}
