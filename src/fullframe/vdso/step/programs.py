"""The two processes of a run: one under ptrace, one under gdb, and what is where in them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fullframe.elf.image import Image
from fullframe.run.gdb import GdbProcess
from fullframe.run.ptrace import TracedProcess
from fullframe.run.stepped import Control, SteppedProgram, child_environment, control_field
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.result import StepOptions
from fullframe.vdso.step.scenario import Scenario
from fullframe.vdso.step.session import Session, Target, file_object, kernel_object


class Programs:
    """Starts both, and knows what code they may come by.

    Args:
        options: of the run.
        image: to be stepped through; None for the running kernel's own.
        program: what both run.
        directory: for the image's copy, and what the program prints.

    Attributes:
        process: under ptrace.
        gdb: under gdb.
    """

    def __init__(
        self, options: StepOptions, image: Image | None, program: SteppedProgram, directory: Path
    ) -> None:
        self._image = image
        self._program = program
        self._directory = directory
        self._limit_seconds = options.limit_seconds
        if options.image is not None:
            # A copy: its path has nothing that gdb would divide it at, and it cannot change.
            shutil.copyfile(options.image, directory / _COPY)
        self.process = Session(program, self._start_process)
        self.gdb = Session(program, self._start_gdb)
        self.process.prepare = self.gdb.prepare = self._register_frames

    def close(self) -> None:
        """End both."""
        self.process.close()
        self.gdb.close()

    def _start_process(self) -> Target:
        argument = "-" if self._image is None else str(self._directory / _COPY)
        target = TracedProcess(
            [str(self._program.path), "traced", argument],
            self._directory / "messages",
            bits=self._program.machine.bits,
            limit_seconds=self._limit_seconds,
            environment=child_environment(),
        )
        try:
            target.run_to_breakpoint()
        except BaseException:
            target.close()
            raise
        return target

    def _start_gdb(self) -> Target:
        argument = "-" if self._image is None else f"./{_COPY}"
        return GdbProcess(
            self._program.path,
            ["running", argument],
            self._program.machine,
            self._directory,
            limit_seconds=self._limit_seconds,
        )

    def _register_frames(self, target: Target, control: Control) -> None:
        """Tell libgcc and gdb of an image that the loader does not know."""
        if not control.mapped_by_hand or self._image is None:
            return
        section = self._image.section(".eh_frame")
        if section is not None:
            address = self._program.symbols["step_control"] + control_field("frame_table")
            target.write(address, (section.address + control.load_bias).to_bytes(8, "little"))
        if isinstance(target, GdbProcess):
            target.add_symbol_file(self._directory / _COPY, control.load_bias)

    # ------------------------------------------------------------------ what is where

    def image_object(self) -> LoadedObject | None:
        """Return the image, where the process under ptrace has it; None if there is none."""
        if self._image is None:
            return self._kernel(self.process, "vDSO")
        return LoadedObject("image", self._image, self.process.started_control.load_bias)

    def file_at(self, address: int) -> LoadedObject | None:
        """Return the file that an address of the process under ptrace is mapped from."""
        return file_object(_pid(self.process.target), address)

    def _kernel(self, session: Session, name: str) -> LoadedObject | None:
        target = session.target
        return kernel_object(_pid(target), target.read, name)

    def _objects(self, session: Session, owner: LoadedObject) -> list[LoadedObject]:
        """List what code a session may come by; addresses may differ between sessions."""
        control = session.started_control
        objects = [LoadedObject("program", self._program.image, 0)]
        if self._image is not None:
            objects.append(LoadedObject("image", self._image, control.load_bias))
        kernel = self._kernel(session, "vDSO" if self._image is None else "kernel's vDSO")
        if kernel is not None:
            objects.append(kernel)
        if owner.name not in {each.name for each in objects}:
            libc = file_object(_pid(session.target), control.libc_restorer)
            objects += [libc] if libc is not None else []
        return objects

    def launch(
        self,
        session: Session,
        scenario: Scenario,
        call: Mapping[int, int | str],
        owner: LoadedObject,
    ) -> tuple[list[LoadedObject], int]:
        """Bring a session to where a scenario begins.

        Args:
            session: one of the two.
            scenario: what is to be stepped.
            call: one of its calls.
            owner: what its function belongs to.

        Returns:
            What code the session may come by, and the function's run-time address in it.
        """
        objects = self._objects(session, owner)
        bias = next(each.load_bias for each in objects if each.name == owner.name)
        address = scenario.address + bias
        session.launch(scenario, call, address)
        return objects, address


_COPY = "image.so"


def _pid(target: Target) -> int:
    assert isinstance(target, TracedProcess | GdbProcess)
    return target.pid
