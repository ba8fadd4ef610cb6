"""``fullframe vdso step``: build the program, step it through an image, ask the unwinders."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fullframe.elf.image import Image
from fullframe.errors import FullframeError, InputError, Place, ToolMissingError, UsageError
from fullframe.run.gdb import GdbError, gdb_version
from fullframe.run.ptrace import CannotRunError
from fullframe.run.stepped import (
    Control,
    ProgramDiedError,
    SteppedProgram,
    TimeLimitError,
    build_program,
)
from fullframe.toolchain.find import find_toolchain
from fullframe.vdso.step.ask import UNWINDERS, AskGdb, AskInProcess, AskRows
from fullframe.vdso.step.emulate import PosedSession, emulate
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.programs import Programs
from fullframe.vdso.step.record import (
    Recorder,
    instructions_of,
    is_way_in,
    owner_of,
    rule_for_flags,
)
from fullframe.vdso.step.result import Failure, StepOptions, SteppedFunction, StepResult
from fullframe.vdso.step.scenario import Scenario, find_scenarios, trampoline_scenario
from fullframe.vdso.step.walk import Stop, WalkEnd, walk
from fullframe.x86.registers import I386, IP, X86_64

LIVE = "the running kernel's vDSO"
_RT_SIGRETURN = {64: 15, 32: 173}
#: Debian's packages of the unwinders that run in the process, by word size.
_PACKAGES = {
    ("libgcc", 64): "libgcc-s1",
    ("libgcc", 32): "lib32gcc-s1",
    ("libunwind", 64): "libunwind8",
    ("libunwind", 32): "libunwind8:i386",
}
#: Where an image is in the emulator, where no process says.
_EMULATED_BASE = 0x1000_0000


def step_image(options: StepOptions) -> StepResult:
    """Step a process through an image, and compare what unwinders say with the truth.

    Args:
        options: what, and by whom asked.

    Returns:
        Everything that was seen.

    Raises:
        UsageError: a function or unwinder that does not exist.
        InputError: the image is none, or of another machine.
        ToolMissingError: no toolchain or C library, ptrace is forbidden, an unwinder that was asked
            for is not there.
        ToolFailedError: the toolchain failed.
    """
    unknown = set(options.unwinders) - set(UNWINDERS)
    if unknown:
        raise UsageError(f"no unwinder {min(unknown)!r}: expected one of {', '.join(UNWINDERS)}")
    image = None if options.image is None else _open(options.image, options.machine)
    if image is not None:
        machine = image.machine
    else:
        machine = I386 if options.machine == I386.name else X86_64
    toolchain = find_toolchain(options.toolchain)
    with tempfile.TemporaryDirectory(prefix="fullframe-step-") as name:
        directory = Path(name)
        program = build_program(machine, toolchain, directory)
        run = _Run(options, image, program, directory)
        try:
            return run.step()
        finally:
            run.close()


def _open(path: Path, machine: str | None) -> Image:
    image = Image.open(path)
    if image.is_x32 or machine not in (None, image.machine.name):
        raise InputError(
            Place(str(path)),
            f"an image of {'x32' if image.is_x32 else image.machine.name}",
            machine or "i386 or x86-64",
            "" if image.is_x32 else f"leave out --machine, or say --machine {image.machine.name}",
        )
    if image.kind != "shared":
        raise InputError(
            Place(str(path)),
            f"an ELF file of kind {image.kind}",
            "a vDSO: a shared object",
            "fullframe vdso build makes one, fullframe vdso dump saves the running kernel's",
        )
    return image


class _Run:
    """One run: the functions of an image, one after the other."""

    def __init__(
        self, options: StepOptions, image: Image | None, program: SteppedProgram, directory: Path
    ) -> None:
        self._options = options
        self._image = image
        self._program = program
        self._machine = program.machine
        self._name = str(options.image) if options.image is not None else LIVE
        self._programs = Programs(options, image, program, directory)
        self._recorder = Recorder(self._machine)
        self._in_process: list[str] = []
        self._stuck = False  # at a way into the kernel, in the function being stepped
        self.result = StepResult(self._name, self._machine.name)

    def close(self) -> None:
        self._programs.close()

    # ------------------------------------------------------------------ the run

    def step(self) -> StepResult:
        """Step everything."""
        try:
            control = self._begin()
        except CannotRunError as error:
            if self._image is None or self._machine is not I386:
                raise
            return self._emulate_only(self._image, str(error).partition("\n")[0])
        owner = self._programs.image_object()
        if owner is None:
            raise InputError(Place(LIVE), "the kernel maps none", "a kernel with a vDSO")
        pairs = [(scenario, owner) for scenario in self._scenarios(owner)]
        if self._options.image is None:
            pairs += self._libc_trampoline(control)
        for scenario, where in self._wanted(pairs):
            self._step_function(scenario, where)
        return self._finished()

    def _wanted(
        self, pairs: Sequence[tuple[Scenario, LoadedObject]]
    ) -> list[tuple[Scenario, LoadedObject]]:
        """Choose the functions that were asked for."""
        if not pairs:
            raise InputError(
                Place(self._name),
                "no function that can be stepped through",
                "__kernel_vsyscall, __vdso_* or a signal trampoline among its global symbols",
                "fullframe vdso build makes such images",
            )
        wanted = self._options.functions
        missing = set(wanted) - {scenario.name for scenario, _ in pairs}
        if missing:
            known = ", ".join(scenario.name for scenario, _ in pairs) or "none"
            raise UsageError(
                f"{self._name} has no function {min(missing)!r} that can be stepped through; "
                f"it has: {known}"
            )
        return [pair for pair in pairs if not wanted or pair[0].name in wanted]

    def _finished(self) -> StepResult:
        result = self.result
        result.rows = self._recorder.rows
        asked = {name for row in result.rows for name in row.unwinders}
        result.unwinders = [name for name in UNWINDERS if name in asked]
        return result

    def _emulate_only(self, image: Image, reason: str) -> StepResult:
        """Step through what can be emulated, where no process can run."""
        result = self.result
        for name in self._options.unwinders:
            if name != "fullframe":
                raise ToolMissingError(f"{name} cannot be asked: {reason}")
        result.missing |= dict.fromkeys(UNWINDERS[:-1], reason)
        lowest = min((each.address for each in image.segments if each.type == 1), default=0)
        owner = LoadedObject("image", image, _EMULATED_BASE - (lowest & -4096))
        pairs = [(scenario, owner) for scenario in self._scenarios(owner)]
        for scenario, _ in self._wanted(pairs):
            function = SteppedFunction(scenario.name, scenario.address, _kind(scenario))
            result.functions.append(function)
            self._emulate(function, scenario, owner, set())
            self._count(function, scenario, owner)
        return self._finished()

    def _begin(self) -> Control:
        """Start both processes, and find out who can be asked."""
        result, wanted = self.result, self._options.unwinders
        try:
            _ = self._programs.process.target
        except (ProgramDiedError, TimeLimitError) as error:
            raise InputError(
                Place(self._name),
                f"the program that loads it {error}",
                "a shared object that can be mapped",
                "check the file, for example with readelf -l",
            ) from error
        control = self._programs.process.control
        assert control is not None
        if control.mapped_by_hand:
            result.remarks.append(
                f"the loader does not take the image ({control.refusal}); it was mapped by hand, "
                "and libgcc and gdb were told of its call-frame information"
            )
            result.missing["libunwind"] = "it finds only images that the loader knows"
        for name, reason in control.missing.items():
            package = _PACKAGES[name, self._machine.bits]
            result.missing[name] = f"{reason} (Debian: apt-get install {package})"
        if not wanted or "gdb" in wanted:
            try:
                _ = self._programs.gdb.target
                result.versions["gdb"] = gdb_version()
            except FullframeError as error:
                result.missing["gdb"] = str(error).partition("\n")[0]
        for name in wanted:
            if name in result.missing:
                raise ToolMissingError(f"{name} cannot be asked: {result.missing[name]}")
        if wanted:
            result.missing |= {
                name: "--unwinder leaves it out"
                for name in UNWINDERS
                if name not in wanted and name not in result.missing
            }
        self._in_process = [n for n in ("libgcc", "libunwind") if n not in result.missing]
        return control

    def _scenarios(self, owner: LoadedObject) -> list[Scenario]:
        scenarios, left = find_scenarios(owner.image)
        self.result.not_stepped |= left
        return scenarios

    def _libc_trampoline(self, control: Control) -> list[tuple[Scenario, LoadedObject]]:
        """Return libc's own restorer, where it has one."""
        address = control.libc_restorer
        owner = self._programs.file_at(address) if address else None
        if owner is None:
            return []
        bits = self._machine.bits
        name, at = "libc's rt_sigreturn", address - owner.load_bias
        return [(trampoline_scenario(self._machine, name, at, _RT_SIGRETURN[bits]), owner)]

    # ------------------------------------------------------------------ one function

    def _step_function(self, scenario: Scenario, owner: LoadedObject) -> None:
        function = SteppedFunction(scenario.name, scenario.address, _kind(scenario))
        self.result.functions.append(function)
        self._stuck = False
        for call in scenario.calls:
            returned = self._walk_process(function, scenario, call, owner)
            if "gdb" not in self.result.missing:
                message = self._walk_gdb(scenario, call, owner)
                if message and returned:
                    function.remarks.append(f"under gdb, the process {message}")
        every = self._every(scenario, owner)
        stepped = self._recorder.stepped_addresses(scenario.name, owner)
        # The kernel may come back elsewhere than behind the way in, or not know this way in.
        missed = scenario.name == "__kernel_vsyscall" and set(every) - stepped
        if missed or self._stuck:
            self._emulate(function, scenario, owner, stepped)
        self._count(function, scenario, owner)

    def _count(self, function: SteppedFunction, scenario: Scenario, owner: LoadedObject) -> None:
        every = self._every(scenario, owner)
        stepped = self._recorder.stepped_addresses(scenario.name, owner)
        function.instructions = len(every)
        function.stepped = len(stepped.intersection(every))

    def _every(self, scenario: Scenario, owner: LoadedObject) -> list[int]:
        return instructions_of(owner, scenario.address)

    def _walk_process(
        self,
        function: SteppedFunction,
        scenario: Scenario,
        call: Mapping[int, int | str],
        owner: LoadedObject,
    ) -> bool:
        """Step under ptrace; return whether it came back."""
        session = self._programs.process
        objects, _ = self._programs.launch(session, scenario, call, owner)
        inside = AskInProcess(session, self._in_process)
        rows = AskRows(self._machine, objects, session.target.read)
        with_rows = "fullframe" not in self.result.missing

        def visit(stop: Stop) -> None:
            where = owner_of(objects, stop.registers[IP])
            self._recorder.record(
                scenario.name,
                where,
                stop,
                "process",
                lambda at: inside.ask(at) | (rows.ask(at) if with_rows else {}),
            )

        flags = rule_for_flags(owner, scenario.address)
        end = walk(session.target, self._program, scenario, visit, with_flags=flags)
        self._account(function, scenario, owner, objects, end)
        if not end.returned:
            session.close()
        return end.returned

    def _walk_gdb(
        self, scenario: Scenario, call: Mapping[int, int | str], owner: LoadedObject
    ) -> str:
        """Step under gdb; return why it did not come back, "" if it did."""
        session = self._programs.gdb
        try:
            objects, address = self._programs.launch(session, scenario, call, owner)
        except (GdbError, ProgramDiedError, TimeLimitError) as error:
            session.close()
            return str(error)
        gdb = AskGdb(session)

        def visit(stop: Stop) -> None:
            where = owner_of(objects, stop.registers[IP])
            self._recorder.record(scenario.name, where, stop, "gdb", gdb.ask)

        bias = address - scenario.address
        stepped = self._recorder.stepped_addresses(scenario.name, owner)
        landmarks = {each + bias for each in stepped.intersection(self._every(scenario, owner))}
        flags = rule_for_flags(owner, scenario.address)
        end = walk(session.target, self._program, scenario, visit, landmarks, with_flags=flags)
        if not end.returned:
            session.close()
        return end.message

    def _account(
        self,
        function: SteppedFunction,
        scenario: Scenario,
        owner: LoadedObject,
        objects: list[LoadedObject],
        end: WalkEnd,
    ) -> None:
        """Say how a walk under ptrace ended, where not by a plain return."""
        last = end.last[IP]
        where = owner_of(objects, last)
        place = f"{last:#x}" if where is None else f"{last - where.load_bias:#x} ({where.name})"
        if not end.returned:
            remark = f"the process {end.message} at {place}"
            if remark not in function.remarks:
                function.remarks.append(remark)
            self._stuck |= self._machine.bits == 32 and is_way_in(where, last)
        if end.differing:
            self.result.process_failures.append(
                Failure(
                    scenario.name,
                    owner.name,
                    scenario.address,
                    "",
                    "process",
                    "the caller does not get its registers back",
                    {
                        self._machine.register_names[number]: pair
                        for number, pair in end.differing.items()
                    },
                )
            )

    def _emulate(
        self,
        function: SteppedFunction,
        scenario: Scenario,
        owner: LoadedObject,
        done: set[int],
    ) -> None:
        """Step in the emulator what no process came by, and ask of the states there."""
        posed = []
        if self._in_process:
            self._programs.launch(self._programs.process, scenario, scenario.calls[0], owner)
            inside = AskInProcess(self._programs.process, self._in_process)
            posed.append(PosedSession("process", self._programs.process, inside.ask))
        if "gdb" not in self.result.missing:
            gdb = self._programs.gdb
            try:
                self._programs.launch(gdb, scenario, scenario.calls[0], owner)
                posed.append(PosedSession("gdb", gdb, AskGdb(gdb).ask))
            except (GdbError, ProgramDiedError, TimeLimitError) as error:
                gdb.close()
                function.remarks.append(f"in the emulator gdb was not asked: {error}")
        end = emulate(
            self._program,
            scenario,
            owner,
            done,
            self._recorder,
            posed,
            with_rows="fullframe" not in self.result.missing,
        )
        function.remarks.append(
            "what no process comes by was stepped in the emulator"
            if end.returned
            else f"the emulated program {end.message}"
        )


def _kind(scenario: Scenario) -> str:
    return "signal return" if scenario.is_signal else "call"
