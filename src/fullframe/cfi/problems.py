"""What can be wrong with call-frame information itself, before anybody compares it with code."""

from __future__ import annotations

from dataclasses import dataclass

#: Every kind of problem that reading reports, and what it means.
PROBLEM_KINDS: dict[str, str] = {
    "unreadable-section": "The section's bytes cannot be had: it is compressed in a way that is "
    "not supported, or broken.",
    "truncated": "An entry, a number or an instruction ends after its container does.",
    "bad-leb128": "A LEB128 number does not end, or does not fit 64 bits.",
    "bad-encoding": "A pointer encoding is unknown, or relative to a base that the image lacks.",
    "bad-cie-pointer": "An FDE's CIE pointer leads to something that is not a CIE.",
    "bad-cie": "A CIE has a version, sizes or factors that make no sense on x86.",
    "unknown-augmentation": "A CIE's augmentation string has a letter that unwinders do not know; "
    "they give up on every function that uses the CIE.",
    "terminator-in-middle": "A zero terminator is followed by more entries: an unwinder that walks "
    "the section from its start sees none of them.",
    "unknown-instruction": "An opcode that neither DWARF 5 nor GNU defines for x86; what follows "
    "it in the entry cannot be decoded.",
    "restore-without-remember": "DW_CFA_restore_state without a remembered state.",
    "cfa-not-register": "An instruction changes the register or the offset of a CFA that is not "
    "given by a register and an offset.",
    "advance-in-cie": "A CIE's initial instructions advance the location.",
    "backward-location": "DW_CFA_set_loc goes backwards.",
    "too-complex": "An entry is beyond every bound of honest size.",
    "empty-range": "An FDE covers no byte.",
    "overlap": "Two FDEs of one section cover one address: unwinders disagree on which counts.",
    "outside-code": "An FDE covers addresses that hold no code.",
    "rows-past-end": "An FDE's instructions describe addresses after its end.",
    "too-many-problems": "The section has more problems than are listed.",
    "header-version": "The .eh_frame_hdr has an unknown version or cannot be decoded.",
    "header-table-address": "The .eh_frame_hdr points to something other than .eh_frame.",
    "header-count": "The .eh_frame_hdr's table has not one entry for each FDE.",
    "header-unsorted": "The .eh_frame_hdr's table is not sorted: binary search misses functions.",
    "header-missing": "An FDE is not in the .eh_frame_hdr's table: unwinders do not find it.",
    "header-wrong": "An entry of the .eh_frame_hdr's table leads to no FDE, or to one that begins "
    "elsewhere.",
}


@dataclass(frozen=True, slots=True)
class FrameProblem:
    """One thing that is wrong with a section of call-frame information.

    Attributes:
        kind: a key of :data:`PROBLEM_KINDS`.
        section: the section's name.
        offset: where in the section, in bytes.
        message: what was found, in words.
        function: the first address of the function concerned; None if it is not known.
    """

    kind: str
    section: str
    offset: int
    message: str
    function: int | None = None
