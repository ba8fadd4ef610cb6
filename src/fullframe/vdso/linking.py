"""How an image is linked: one segment, the symbol versions, no relocations.

Source: the layout that a kernel maps (vdso(7)): header, dynamic segment, notes, unwind tables and
code in one segment that may be read and executed; the linkers' manuals on PHDRS and VERSION.
"""

from __future__ import annotations

from pathlib import Path

from fullframe.errors import UsageError
from fullframe.toolchain.find import Toolchain
from fullframe.vdso.images import VdsoImage

PAGE_BYTES = 4096
#: A kernel maps its images as few whole pages.
MOST_PAGES = 2

_SCRIPT = """\
/* Made by `fullframe vdso build`. */
PHDRS
{{
	load PT_LOAD FLAGS(5) FILEHDR PHDRS;
	dynamic PT_DYNAMIC FLAGS(4);
	note PT_NOTE FLAGS(4);
{eh_frame_header}\
	/* Kernels' images have none; without it a loader would make every stack executable. */
	stack PT_GNU_STACK FLAGS(6);
}}

SECTIONS
{{
	. = {base:#x} + SIZEOF_HEADERS;
	.hash : {{ *(.hash) }} :load
	.gnu.hash : {{ *(.gnu.hash) }}
	.dynsym : {{ *(.dynsym) }}
	.dynstr : {{ *(.dynstr) }}
	.gnu.version : {{ *(.gnu.version) }}
	.gnu.version_d : {{ *(.gnu.version_d) }}
	.dynamic : {{ *(.dynamic) }} :load :dynamic
	.note : {{ *(.note.linux) *(.note.gnu.build-id) }} :load :note
{eh_frame_sections}\
	.text : ALIGN(16) {{ *(.text) }} :load
	/DISCARD/ : {{ *(.comment) *(.note.gnu.property) *(.note.GNU-stack) }}
}}
"""


def link_script(base_address: int, *, with_cfi: bool) -> str:
    """Return the linker script of an image.

    Args:
        base_address: that its header is linked at; 0, so that it can be mapped anywhere.
        with_cfi: whether its objects have call-frame information.
    """
    return _SCRIPT.format(
        base=base_address,
        eh_frame_header="\teh_frame_header PT_GNU_EH_FRAME FLAGS(4);\n" if with_cfi else "",
        eh_frame_sections=(
            "\t.eh_frame_hdr : { *(.eh_frame_hdr) } :load :eh_frame_header\n"
            "\t.eh_frame : { KEEP(*(.eh_frame)) } :load\n"
            if with_cfi
            else ""
        ),
    )


def version_script(image: VdsoImage) -> str:
    """Return the script that gives an image's symbols their versions; all others are local."""
    nodes = []
    versions = image.exports
    for number, (version, symbols) in enumerate(versions.items(), 1):
        hidden = "\tlocal:\n\t\t*;\n" if number == len(versions) else ""
        names = "".join(f"\t\t{symbol};\n" for symbol in symbols)
        nodes.append(f"{version} {{\n\tglobal:\n{names}{hidden}}};\n")
    return "\n".join(nodes)


def check_base_address(image: VdsoImage, base_address: int) -> None:
    """Refuse an address that an image cannot be linked at.

    Raises:
        UsageError: it is no page, or its program could not have mapped the image there.
    """
    # User addresses of 64-bit programs have 47 bits (Documentation/arch/x86/x86_64/mm.rst).
    end = 1 << (32 if image.machine.bits == 32 else 47)
    if base_address % PAGE_BYTES or not 0 <= base_address <= end - MOST_PAGES * PAGE_BYTES:
        raise UsageError(
            f"--base {base_address:#x}: expected a multiple of {PAGE_BYTES:#x} up to "
            f"{end - MOST_PAGES * PAGE_BYTES:#x} for {image.machine.name}"
        )


def link(
    toolchain: Toolchain,
    image: VdsoImage,
    source_object: Path,
    output: Path,
    *,
    base_address: int,
    with_cfi: bool,
) -> None:
    """Link an image; its scripts are left beside ``output``.

    Raises:
        ToolFailedError: the linker refused it.
    """
    script, versions = output.with_suffix(".lds"), output.with_suffix(".map")
    script.write_text(link_script(base_address, with_cfi=with_cfi), encoding="ascii")
    versions.write_text(version_script(image), encoding="ascii")
    flags = ["-soname", image.soname, "--version-script", str(versions), "--hash-style=both"]
    # By its build ID a profiler or debugger knows an image again, when all it has is a process.
    flags += ["--build-id=sha1", "-Bsymbolic", "-z", f"max-page-size={PAGE_BYTES}", "-z", "norelro"]
    if with_cfi:
        flags.append("--eh-frame-hdr")
    toolchain.link(
        [source_object], output, script=script, bits=image.machine.bits, flags=flags, shared=True
    )
