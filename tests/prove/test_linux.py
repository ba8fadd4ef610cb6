"""A real kernel that nobody here wrote: Linux 6.1's own entry code (`make linux-objects`)."""

import os
from pathlib import Path

import pytest
from iced_x86 import Mnemonic

from fullframe.elf.image import Image
from fullframe.entry.prove.prove import prove_image
from tests.prove.mutants import Mutant, applied, instructions
from tests.support import skip_or_fail

BUILD = Path(
    os.environ.get("FULLFRAME_LINUX_OBJECTS", Path(__file__).parents[2] / "build" / "linux")
)
CONFIGURATIONS = ("plain", "mitigated")
WAYS_IN = {
    "entry_SYSCALL_64": ("do_syscall_64", {"sysretq", "iretq"}),
    "entry_SYSENTER_compat": ("do_SYSENTER_32", {"sysretl", "iretq"}),
    "entry_SYSCALL_compat": ("do_fast_syscall_32", {"sysretl", "iretq"}),
    "asm_int80_emulation": ("do_int80_emulation", {"iretq"}),
    "ret_from_fork": ("syscall_exit_to_user_mode", {"iretq"}),
}


def built(configuration: str, name: str) -> Path:
    path = BUILD / configuration / name
    if not path.exists():
        skip_or_fail(f"no {path}: make linux-objects (WHOLE=vmlinux for the whole kernel)")
    return path


def check(proof):
    assert proof.findings == ()
    assert proof.not_proved == ()
    assert proof.proved
    # This version has one of the two ways in of INT 0x80.
    assert proof.absent == ("entry_INT80_compat",)
    assert [entry.symbol for entry in proof.entries] == list(WAYS_IN)
    for entry in proof.entries:
        function, instructions_out = WAYS_IN[entry.symbol]
        call = next(call for call in entry.calls if call.callee == function)
        assert call.frame == "full"
        assert {way.instruction for way in entry.ways_out} == instructions_out


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_entry_objects(configuration):
    check(prove_image(built(configuration, "entry.o"), "linux-6.1"))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_linked_kernel(configuration):
    check(prove_image(built(configuration, "vmlinux"), "linux-6.1"))


@pytest.mark.parametrize("features", [[], ["PTI"], ["PTI", "PCID", "KERNEL_IBRS"], ["SMAP"]])
def test_feature_sets(features):
    check(prove_image(built("mitigated", "entry.o"), "linux-6.1", features=features))


def test_one_object_alone_says_what_it_lacks():
    proof = prove_image(built("plain", "arch/x86/entry/entry_64_compat.o"), "linux-6.1")
    assert not proof.proved
    assert proof.findings == ()
    assert {item.reason for item in proof.not_proved} == {
        "jumps to swapgs_restore_regs_and_return_to_usermode, of which the contract says nothing"
    }


def is_hygiene(instruction) -> bool:
    """Whether an instruction only keeps secrets from speculation: no frame needs it."""
    zeroing = instruction.mnemonic == Mnemonic.XOR
    return zeroing or instruction.mnemonic in (Mnemonic.VERW, Mnemonic.NOP, Mnemonic.INT3)


def test_deleted_instructions_are_found():
    """Of those that no relocation touches: patched back, a deletion would be none."""
    path = built("plain", "entry.o")
    data, image = path.read_bytes(), Image.open(path)
    begin = next(s.address for s in image.function_symbols() if s.name == "entry_SYSCALL_64")
    end = next(s.address for s in image.function_symbols() if s.name == "entry_SYSRETQ_end")
    survivors, tried = [], 0
    for i in instructions(image, begin, end):
        if is_hygiene(i) or image.relocations.within(i.ip, i.ip + i.len):
            continue
        mutant = Mutant(str(i), i.ip, b"\x90" * i.len)
        tried += 1
        proof = prove_image(
            applied(image, data, mutant),
            "linux-6.1",
            entries=["entry_SYSCALL_64"],
            stop_at_first=True,
        )
        if proof.proved:
            survivors.append(mutant.name)
    assert tried > 55
    # The jump around VERW: then that runs on every CPU.
    assert [name.split()[0] for name in survivors] == ["jmp"]
