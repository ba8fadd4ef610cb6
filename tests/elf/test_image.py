"""Images of every kind, against what binutils say about the same files."""

from __future__ import annotations

import itertools
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from fullframe.cfi.frames import read_frames
from fullframe.elf import lines
from fullframe.elf.image import AddressError, Image
from fullframe.elf.lines import build_id
from fullframe.errors import InputError
from fullframe.x86.registers import I386, X86_64
from tests.cfi.samples import C_SOURCE, compile_source, compiled, library, need
from tests.elf.writer import (
    EM_386,
    NOBITS,
    PROGBITS,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    STRTAB,
    SYMTAB,
    ElfWriter,
)
from tests.support import skip_or_fail

LIBRARIES = ["libc", "libstdc++", "libgcc_s", "libc-i386", "libc-x32"]
OBJECTS = {
    "x86-64": ("-c",),
    "i386": ("-c", "-m32"),
    "i386-pic": ("-c", "-m32", "-fPIC"),
    "x32": ("-c", "-mx32"),
    "sections": ("-c", "-O2", "-ffunction-sections", "-fdata-sections"),
    "kernel": ("-c", "-O2", "-mcmodel=kernel", "-fno-pic"),
}


def run(*command: str) -> str:
    need(command[0])
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def image_of(name: str) -> Image:
    return Image.open(library(name) if name in LIBRARIES else compiled(C_SOURCE, *OBJECTS[name]))


# ---------------------------------------------------------------------------- the whole


@pytest.mark.parametrize(
    ("options", "kind", "machine", "is_x32"),
    [
        (("-c",), "relocatable", X86_64, False),
        (("-c", "-m32"), "relocatable", I386, False),
        (("-c", "-mx32"), "relocatable", X86_64, True),
        (("-shared", "-fPIC"), "shared", X86_64, False),
        (("-shared", "-fPIC", "-m32"), "shared", I386, False),
    ],
)
def test_kinds(options, kind, machine, is_x32):
    image = Image.open(compiled(C_SOURCE, *options))
    assert (image.kind, image.machine, image.is_x32) == (kind, machine, is_x32)
    assert image.address_size_bytes == (8 if machine is X86_64 and not is_x32 else 4)
    assert image.warnings == []


@pytest.mark.parametrize("options", [("-pie", "-fPIE"), ("-no-pie",), ("-static",)])
def test_executables(options):
    image = Image.open(compiled("int main(void) { return 0; }", *options))
    assert image.kind == "executable"
    assert image.executable_end(image.entry) is not None


@pytest.mark.parametrize("name", [*LIBRARIES, *OBJECTS])
def test_sections_like_readelf(name):
    image = image_of(name)
    lines = run("readelf", "-SW", image.path).splitlines()
    pattern = re.compile(r"\[ *(\d+)\] (\S*) +\S+ +([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) \S+ +(\S*) ")
    seen = [match for line in lines if (match := pattern.search(line)) and match[1] != "0"]
    assert len(seen) == len(image.sections) - 1
    for match in seen:
        section = image.sections[int(match[1])]
        assert section.name == match[2]
        assert (section.offset, section.size_bytes) == (int(match[4], 16), int(match[5], 16))
        if not image.is_relocatable:
            assert section.address == int(match[3], 16)
        flags = match[6] if not match[6].isdigit() else ""
        assert (section.alloc, section.executable, section.writable) == tuple(
            letter in flags for letter in "AXW"
        )


@pytest.mark.parametrize("name", [*LIBRARIES, *OBJECTS])
def test_symbols_like_readelf(name):
    image = image_of(name)
    pattern = re.compile(r"^ +\d+: ([0-9a-f]+) +(\w+) (\w+) +(\w+) +\w+ +(?:\[.*\] +)?(\w+) ?(.*)$")
    seen = []
    for line in run("readelf", "-sW", image.path).splitlines():
        match = pattern.match(line)
        if match and not line.lstrip().startswith("0:"):
            seen.append(match)
    assert len(seen) == len(image.symbols)
    # readelf shows .dynsym first, in the order of the sections.
    ours = sorted(image.symbols, key=lambda symbol: (symbol.name, symbol.address, symbol.kind))
    by_name: dict[str, list[tuple[str, ...]]] = {}
    for match in seen:
        by_name.setdefault(match[6].split("@")[0].strip(), []).append(match.groups())
    for symbol in ours:
        if symbol.kind == "section" and not symbol.name:
            continue
        values = by_name[symbol.name]
        assert any(
            (symbol.section_index is None) == (value[4] == "UND")
            and symbol.size_bytes == int(value[1], 0)
            and (image.is_relocatable or symbol.address == int(value[0], 16))
            and symbol.kind.upper() == value[2]
            for value in values
        ), symbol
        if symbol.version is not None and symbol.is_defined:
            assert any(symbol.version in value[5] for value in values)


@pytest.mark.parametrize("name", [*LIBRARIES, *OBJECTS])
def test_relocations_like_readelf(name):
    image = image_of(name)
    pattern = re.compile(r"^([0-9a-f]{8,16}) +([0-9a-f]{8,16}) (R_\w+) *(.*)$")
    section = None
    seen: dict[int, int] = {}
    for line in run("readelf", "-rW", image.path).splitlines():
        if line.startswith("Relocation section"):
            name_of = line.split("'")[1]
            target = re.sub(r"^\.rela?", "", name_of)
            section = image.section(target) if image.is_relocatable else None
        elif (match := pattern.match(line)) and not (image.is_relocatable and not section.alloc):
            address = int(match[1], 16) + (section.address if section else 0)
            seen[address] = seen.get(address, 0) + 1
            found = image.relocations[address]
            shift = 32 if image.elf_bits == 64 else 8
            assert found[0].type == int(match[2], 16) & ((1 << shift) - 1)
            rest = match[4].split()
            if len(rest) >= 2 and found[0].symbol and found[0].symbol.name:
                assert rest[1].split("@")[0] == found[0].symbol.name
            if len(rest) == 4:  # value, name, sign, addend
                assert found[0].addend == int(rest[2] + rest[3], 16)
    if any(item.type == 19 for item in image.sections):
        assert set(seen) <= set(image.relocations)
    else:
        assert set(seen) == set(image.relocations)


def test_relocations_within():
    image = image_of("x86-64")
    text = image.section(".text")
    found = image.relocations.within(text.address, text.end)
    assert found
    assert [item.address for item in found] == sorted(item.address for item in found)
    assert all(text.address <= item.address < text.end for item in found)
    assert text.address - 1 not in image.relocations
    assert image.relocations.get(text.address - 1) is None
    with pytest.raises(KeyError):
        image.relocations[text.address - 1]


# ---------------------------------------------------------------------------- reading


def test_read_gives_what_the_file_holds():
    image = image_of("libc")
    for section in image.sections:
        if section.alloc and section.has_bytes and section.size_bytes and not section.writable:
            assert image.read(section.address, section.size_bytes) == section.data
    bss = image.section(".bss")
    assert bytes(image.read(bss.address, 16)) == bytes(16)
    with pytest.raises(AddressError, match="does not map"):
        image.read(0x7FFF00000000, 1)
    with pytest.raises(AddressError):
        image.read(image.section(".text").address, 1 << 40)
    with pytest.raises(AddressError):
        image.read(-8, 8)


def test_a_file_is_read_once_and_not_copied():
    """Every section is a view of one object, which is as large as the file."""
    path = library("libc")
    image = Image.open(path)
    views = [section.data for section in image.sections if section.has_bytes]
    assert all(view.readonly for view in views)
    (whole,) = {id(view.obj): view.obj for view in views}.values()
    assert type(whole).__name__ == "bytes"
    assert len(whole) == image.size_bytes == Path(path).stat().st_size


def test_a_large_file_is_mapped_not_copied(monkeypatch):
    monkeypatch.setattr("fullframe.elf.image.LARGEST_READ_BYTES", 4096)
    view = Image.open(library("libc")).section(".text").data
    assert view.readonly
    assert type(view.obj).__name__ == "mmap"


# ---------------------------------------------------------------------------- relocatable


@pytest.mark.parametrize("name", OBJECTS)
def test_sections_of_objects_get_addresses_of_their_own(name):
    image = image_of(name)
    spans = sorted((s.address, s.end) for s in image.sections if s.alloc and s.size_bytes)
    assert spans[0][0] >= 0x1000
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(spans))
    section = image.section_at(image.executable_ranges()[0][0])
    assert image.place(section.address + 2) == f"{section.name}+0x2"
    assert image.place(section.end) == f"{section.name}+{section.size_bytes:#x}"


def calls_of(image: Image) -> set[str]:
    """Names of the targets of every direct call, as the bytes have them after relocation."""
    names = set()
    for begin, end in image.executable_ranges():
        for address in range(begin, end - 5):
            if image.read(address, 1)[0] != 0xE8 or address + 1 not in image.relocations:
                continue
            (displacement,) = struct.unpack("<i", image.read(address + 1, 4))
            names.add(image.name_of(address + 5 + displacement))
    return names


@pytest.mark.parametrize("name", OBJECTS)
def test_calls_of_undefined_functions_have_names(name):
    image = image_of(name)
    names = calls_of(image)
    assert "callee" in names
    target = next(symbol for symbol in image.symbols if symbol.name == "callee")
    assert not target.is_defined
    assert image.symbol_at(target.address) == target
    with pytest.raises(AddressError):
        image.read(target.address, 1)


def test_calls_between_sections_and_comdat_groups():
    source = """
    template <class T> __attribute__((noinline)) T twice(T a) { asm volatile(""); return a + a; }
    int f(int a) { return twice(a) + 1; }
    long g(long a) { return twice(a) + 1; }
    """
    image = Image.open(compiled(source, "-c", "-O1", "-ffunction-sections", suffix=".cc"))
    assert {"_Z5twiceIiET_S0_", "_Z5twiceIlET_S0_"} <= calls_of(image)
    (frames,) = read_frames(image)
    assert frames.all_problems() == []
    names = {image.name_of(fde.begin) for fde in frames.fdes}
    assert names == {"_Z1fi", "_Z1gl", "_Z5twiceIiET_S0_", "_Z5twiceIlET_S0_"}


def test_bytes_of_an_object_like_those_that_the_linker_makes(tmp_path):
    """ld, told where the sections are, must store the same bytes."""
    path = compiled(
        "int callee(int); static int x; int *p = &x;"
        "int f(int a) { return callee(a) + x; } int (*q)(int) = f;",
        "-c",
        "-O1",
        "-fno-pic",
        "-mcmodel=kernel",
    )
    image = Image.open(path)
    commands = ["-T", "/dev/stdin", "-o", str(tmp_path / "linked"), path]
    script = "SECTIONS {\n"
    for section in image.sections:
        if section.alloc:
            script += f" {section.name} {section.address:#x} : {{ *({section.name}) }}\n"
    script += "/DISCARD/ : { *(*) } }\n"
    callee = next(symbol for symbol in image.symbols if symbol.name == "callee")
    script += f"callee = {callee.address:#x};\n"
    need("ld")
    subprocess.run(["ld", *commands], input=script, text=True, check=True, capture_output=True)
    linked = Image.open(tmp_path / "linked")
    for name in (".text", ".data"):
        section = image.section(name)
        if section.size_bytes:
            assert linked.read(section.address, section.size_bytes) == section.data


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", LIBRARIES)
def test_plt_stubs_like_objdump(name):
    path = library(name)
    image = Image.open(path)
    labels = {
        int(match[1], 16): match[2].split("@")[0].removeprefix("*ABS*+")
        for match in re.finditer(
            r"^([0-9a-f]+) <(.+)@plt>:$",
            run("objdump", "-d", "-j", ".plt", "-j", ".plt.got", "-j", ".plt.sec", path),
            re.MULTILINE,
        )
    }
    if not labels:
        skip_or_fail(f"objdump names no PLT stub of {path}")
    for address, label in labels.items():
        found = image.import_at_plt(address)
        if label.startswith(("0x", "*ABS*")):
            # An IFUNC of the library itself: objdump has no name, or the resolver's address.
            assert found is None or any(
                symbol.name == found and symbol.kind == "ifunc" for symbol in image.symbols
            )
        else:
            assert found == label
            assert image.name_of(address) == f"{label}@plt"
    assert image.import_at_plt(image.section(".text").address) is None


@pytest.mark.parametrize("options", [("-m64",), ("-m32",), ("-m32", "-fno-pic", "-no-pie")])
@pytest.mark.parametrize("protection", ["full", "none"])
def test_plt_of_programs(options, protection):
    source = "int puts(const char *); int main(void) { return puts(0); }"
    path = compiled(source, "-O1", *options, f"-fcf-protection={protection}", "-Wl,-z,lazy")
    image = Image.open(path)
    names = {
        image.import_at_plt(address)
        for section in image.sections
        if section.name.startswith(".plt")
        for address in range(section.address, section.end, 8)
    }
    assert "puts" in names


def test_lazy_stubs_with_indirect_branch_tracking():
    source = "int puts(const char *); int main(void) { return puts(0); }"
    path = compiled(source, "-O1", "-fcf-protection=full", "-Wl,-z,lazy,-z,ibtplt")
    image = Image.open(path)
    plt = image.section(".plt")
    assert image.section(".plt.sec") is not None
    for section in (plt, image.section(".plt.sec")):
        stubs = range(section.address, section.end, 16)
        assert "puts" in {image.import_at_plt(address) for address in stubs}


def test_symbol_lookup():
    writer = ElfWriter(file_type=3)
    text = writer.text(b"\x90" * 0x100, address=0x1000)
    writer.text(b"\x90" * 0x100, name=".other", address=0x1200)
    data = writer.section(".data", bytes(16), flags=SHF_ALLOC | SHF_WRITE, address=0x2000)
    writer.symbol("outer", 0x1010, text, 0x40)
    writer.symbol("inner", 0x1020, text, 0x10)
    writer.symbol("label", 0x1030, text, 0, kind=0)
    writer.symbol("bare", 0x1080, text, 0, kind=0)
    writer.symbol("weak_alias", 0x1010, text, 0x40, binding=2)
    writer.symbol("oo", 0x1010, text, 0x40, kind=0)
    writer.symbol("o", 0x1010, text, 0x40, binding=0)
    writer.symbol("object", 0x2000, data, 8, kind=1)
    writer.symbol("note", 0x2008, data, 0, kind=0)
    writer.symbol("undefined", 0, 0)
    writer.symbol("absolute", 0x1040, 0xFFF1)
    writer.symtab()
    image = Image.from_bytes(writer.build(), "sample.so")
    names = [symbol.name for symbol in image.function_symbols()]
    assert names == ["o", "oo", "outer", "weak_alias", "inner", "label", "bare"]
    assert image.name_of(0x1010) == "outer"
    assert image.name_of(0x1018) == "outer+0x8"
    assert image.name_of(0x1024) == "inner+0x4"
    assert image.name_of(0x1034) == "outer+0x24"
    assert image.name_of(0x1084) == "bare+0x4"
    assert image.name_of(0x10FF) == "bare+0x7f"
    assert image.symbol_at(0x1000) is None
    assert image.symbol_at(0x1210) is None
    assert image.name_of(0x1210) == "0x1210"
    undefined = next(symbol for symbol in image.symbols if symbol.name == "undefined")
    assert undefined.section_index is None


def test_source_lines_like_addr2line():
    source = "int g(int);\nint f(int a)\n{\n  return g(a)\n    + 1;\n}\n"
    for options in (("-shared", "-fPIC", "-gdwarf-5"), ("-shared", "-fPIC", "-gdwarf-4")):
        path = compiled(source, "-O1", "-g", *options)
        image = Image.open(path)
        f = next(symbol for symbol in image.function_symbols() if symbol.name == "f")
        addresses = range(f.address, f.address + f.size_bytes)
        seen = run("addr2line", "-e", path, *map(hex, addresses)).splitlines()
        ours = [image.source_line(address) for address in addresses]
        seen = [re.sub(r" \(discriminator \d+\)", "", line) for line in seen]
        assert ours == seen
        assert image.source_line(0) is None


@pytest.mark.parametrize("options", [(), ("-m32",), ("-gz=zlib",)])
def test_source_lines_of_objects(options):
    path = compiled("int f(int a)\n{\n  return a;\n}\n", "-c", "-g", "-O1", *options)
    image = Image.open(path)
    f = next(symbol for symbol in image.function_symbols() if symbol.name == "f")
    addresses = range(f.address, f.address + f.size_bytes)
    offsets = [hex(address - image.section_at(address).address) for address in addresses]
    seen = run("addr2line", "-e", path, *offsets).splitlines()
    assert [image.source_line(address) for address in addresses] == seen


def test_source_lines_of_assembly():
    image = Image.open(compiled("\n.globl f\nf: nop\n ret\n", "-c", "-g", suffix=".s"))
    f = next(symbol for symbol in image.function_symbols() if symbol.name == "f")
    assert image.source_line(f.address + 1).endswith(".s:4")


def test_source_lines_of_clang():
    """It writes no .debug_aranges: what a unit covers is in the unit itself."""
    source = "int g(int);\nint f(int a)\n{\n  return g(a) + 1;\n}\n"
    try:
        import ziglang  # noqa: F401
    except ImportError:
        skip_or_fail("the ziglang wheel is not installed")
    for options in (("-gdwarf-5",), ("-gdwarf-4", "-ffunction-sections")):
        path = compile_source(source, ("-c", "-O1", "-g", *options), ".c", "zig")
        image = Image.open(path)
        assert image.section(".debug_aranges") is None
        f = next(symbol for symbol in image.function_symbols() if symbol.name == "f")
        line = image.source_line(f.address + 1)
        assert line is not None
        assert re.search(r"\.c:[34]$", line)


def test_source_lines_of_a_separate_debug_file(tmp_path, monkeypatch):
    source = "int g(int);\nint f(int a)\n{\n  return g(a) + 1;\n}\n"
    source += "__attribute__((used, noinline)) static int hidden(int a) { return g(a) + 2; }\n"
    options = ("-g", "-shared", "-fPIC", "-fno-asynchronous-unwind-tables", "-Wl,--build-id")
    path = compiled(source, "-O1", *options)
    whole = Image.open(path)
    identity = build_id(whole)
    debug = tmp_path / identity[:2] / f"{identity[2:]}.debug"
    debug.parent.mkdir()
    run("objcopy", "--only-keep-debug", path, str(debug))
    run("strip", "-o", str(tmp_path / "stripped"), path)
    monkeypatch.setattr(lines, "DEBUG_DIRECTORY", tmp_path)
    stripped = Image.open(tmp_path / "stripped")
    f = next(symbol for symbol in whole.function_symbols() if symbol.name == "f")
    expected = whole.source_line(f.address)
    assert expected is not None
    assert stripped.source_line(f.address) == expected
    # And the name of what the library itself has no symbol of.
    static = next(symbol for symbol in whole.function_symbols() if symbol.name == "hidden")
    assert stripped.symbol_at(static.address) != static
    assert stripped.function_name(static.address) == "hidden"
    assert stripped.function_name(static.address + 1) == "hidden+0x1"
    # The debug file alone has the frames, but no code to hold them against.
    kept = Image.open(debug)
    wanted = next(table for table in read_frames(whole) if not table.is_eh)
    (found,) = read_frames(kept)
    assert found.all_problems() == []
    assert [(fde.begin, fde.rows()) for fde in found.fdes] == [
        (fde.begin, fde.rows()) for fde in wanted.fdes
    ]


def test_no_source_lines():
    assert image_of("libgcc_s").source_line(0x1000) is None


# ---------------------------------------------------------------------------- no sections


def without_section_headers(path: str) -> bytes:
    data = bytearray(Path(path).read_bytes())
    wide = data[4] == 2
    at = 16 + (24 if wide else 16)
    data[at : at + (8 if wide else 4)] = bytes(8 if wide else 4)
    counts = 60 if wide else 48
    data[counts : counts + 4] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("name", ["libc", "libgcc_s", "libc-i386", "libc-x32", "libcrypto"])
def test_images_without_section_headers(name):
    """Program headers alone give the same frames, dynamic symbols, imports and relocations."""
    path = library(name)
    whole, bare = Image.open(path), Image.from_bytes(without_section_headers(path), path)
    assert bare.sections == ()
    assert bare.warnings == []
    (ours,), (theirs,) = read_frames(bare), read_frames(whole)
    assert ours.address == theirs.address
    assert [(f.begin, f.end, f.lsda) for f in ours.fdes] == [
        (f.begin, f.end, f.lsda) for f in theirs.fdes
    ]
    assert ours.fdes[-1].rows() == theirs.fdes[-1].rows()
    assert ours.all_problems() == []
    dynamic = [s for s in whole.symbols if s.version is not None]
    by_name = {(s.name, s.address, s.size_bytes, s.version) for s in bare.symbols}
    assert {(s.name, s.address, s.size_bytes, s.version) for s in dynamic} == {
        item for item in by_name if item[3] is not None
    }
    assert set(bare.relocations) == set(whole.relocations)
    plt = whole.section(".plt")
    stubs = range(plt.address, plt.end, 16)
    assert [bare.import_at_plt(at) for at in stubs] == [whole.import_at_plt(at) for at in stubs]


def test_vdso_of_the_running_kernel():
    vdso = None
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.rstrip().endswith("[vdso]"):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            with Path("/proc/self/mem").open("rb") as memory:
                memory.seek(begin)
                vdso = memory.read(end - begin)
    if vdso is None:
        skip_or_fail("the running kernel maps no vDSO")
    image = Image.from_bytes(vdso, "[vdso]")
    frames = read_frames(image)
    assert frames
    assert frames[0].fdes
    assert frames[0].all_problems() == []
    assert "__vdso_clock_gettime" in {symbol.name for symbol in image.function_symbols()}


# ---------------------------------------------------------------------------- hostile


def test_errors_name_the_file_and_the_next_step(tmp_path):
    path = tmp_path / "text"
    path.write_text("#!/bin/sh\n")
    with pytest.raises(InputError) as caught:
        Image.open(path)
    assert str(path) in str(caught.value)
    assert "not an ELF file (it starts with 23 21 2f 62)" in str(caught.value)
    assert "next: give an x86 executable" in str(caught.value)
    assert caught.value.exit_code == 3


ELF64 = bytes(ElfWriter(file_type=3).build())


def header(**changes: int) -> bytes:
    places = {"class": 4, "order": 5, "machine": 18, "shentsize": 58, "phentsize": 54}
    data = bytearray(ELF64)
    for name, value in changes.items():
        data[places[name]] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF file (it starts with nothing)"),
        (b"\x7fELF", "cut short"),
        (ELF64[:40], "40 bytes long"),
        (header(**{"class": 3}), "neither 32 nor 64"),
        (header(order=2), "byte order 2"),
        (header(machine=183), "an ELF file for AArch64 (64-bit class)"),
        (header(machine=3), "machine number 3"),
        (header(machine=77), "machine number 77"),
        (header(shentsize=1), "no readable section headers"),
    ],
)
def test_files_that_are_refused(data, message):
    with pytest.raises(InputError) as caught:
        Image.from_bytes(data, "sample")
    assert message in str(caught.value)


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for path, message in [
        (tmp_path / "missing", "No such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "empty", "an empty file"),
        ("/dev/null", "not a regular file"),
    ]:
        with pytest.raises(InputError, match=message):
            Image.open(path)


def test_a_section_beyond_the_file_is_cut_with_a_warning():
    for file_type in (1, 3):
        writer = ElfWriter(file_type=file_type)
        writer.text(b"\x90" * 16, address=0x1000)
        writer.sections[-1].claimed_size = 1 << 40
        image = Image.from_bytes(writer.build(), "sample")
        assert image.warnings
        assert "sample" in str(image.warnings[0])
        text = image.section(".text")
        assert len(text.data) < 4096
        assert image.executable_ranges()


def test_a_segment_beyond_the_file_is_cut_with_a_warning():
    writer = ElfWriter(file_type=3, with_section_headers=False)
    text = writer.text(b"\x90" * 64, address=0x1000)
    writer.segment(1, 5, writer.offset_of(text), 0x1000, 1 << 50)
    image = Image.from_bytes(writer.build(), "sample")
    assert "claims 1125899906842624 bytes" in str(image.warnings[0])
    assert bytes(image.read(0x1000, 4)) == b"\x90" * 4
    with pytest.raises(AddressError):
        image.read(0x1000, 1 << 20)


def test_overlapping_sections_of_an_object():
    writer = ElfWriter()
    first = writer.text(b"\x90" * 64)
    second = writer.text(b"\x90" * 64, name=".text.b")
    writer.sections[second].claimed_offset = writer.offset_of(first)
    image = Image.from_bytes(writer.build(), "sample")
    assert "overlap" in str(image.warnings[0])
    assert image.sections[second].size_bytes == 0


def test_more_sections_than_sixteen_bits_count():
    writer = ElfWriter()
    for number in range(66000):
        writer.section(f".text.{number}", b"\xc3", flags=SHF_ALLOC | SHF_EXECINSTR)
    image = Image.from_bytes(writer.build(), "sample")
    assert len(image.sections) == 66002
    assert image.sections[66000].name == ".text.65999"
    assert len(image.executable_ranges()) == 66000


def test_a_string_table_without_an_end_does_not_explode():
    writer = ElfWriter(file_type=3)
    text = writer.text(address=0x1000)
    writer.names = bytearray(b"\0" + b"a" * 100_000)
    strings = writer.section(".strtab", bytes(writer.names), type=STRTAB)
    records = b"".join(
        struct.pack("<IBBHQQ", 1 + number, 0x12, 0, text, 0x1000, 1) for number in range(20_000)
    )
    writer.section(".symtab", bytes(24) + records, type=SYMTAB, link=strings, info=1, entry_size=24)
    image = Image.from_bytes(writer.build(), "sample")
    assert sum(len(symbol.name) for symbol in image.symbols) < 20 * len(writer.names)


def test_links_that_lead_nowhere_or_in_circles():
    writer = ElfWriter()
    text = writer.text()
    # A symbol table that is its own string table, and relocations of relocations.
    table = writer.section(".symtab", bytes(48), type=SYMTAB, link=2, info=1, entry_size=0)
    assert table == 2
    writer.section(".rela.a", bytes(48), type=4, link=99, info=4)
    writer.section(".rela.b", bytes(48), type=4, link=3, info=3)
    writer.section(".rela.c", bytes(48), type=4, link=table, info=text)
    image = Image.from_bytes(writer.build(), "sample")
    assert len(image.symbols) == 1
    assert [bytes(section.data) for section in image.sections]
    assert isinstance(dict(image.relocations), dict)


def test_relocations_outside_of_their_section_are_ignored():
    writer = ElfWriter()
    text = writer.text(b"\x90" * 8)
    writer.symbol("f", 0, text)
    symtab = writer.symtab()
    writer.rela(text, symtab, [(1 << 60, 2, 1, 0), (6, 2, 1, 0), (4, 2, 99, 0), (0, 200, 1, 0)])
    image = Image.from_bytes(writer.build(), "sample")
    data = bytes(image.section(".text").data)
    assert data[:4] == b"\x90" * 4
    assert data[6:] == b"\x90\x90"[:0] + data[6:]
    assert len(image.relocations) == 4


def test_compressed_sections_that_lie():
    for claimed, message in ((1 << 40, "claim to hold"), (10, "after decompression")):
        writer = ElfWriter(file_type=3)
        writer.text(address=0x1000)
        import zlib

        packed = struct.pack("<IIQQ", 1, 0, claimed, 1) + zlib.compress(bytes(5))
        writer.section(".debug_info", packed, flags=0x800)
        image = Image.from_bytes(writer.build(), "sample")
        with pytest.raises(InputError, match=message):
            bytes(image.section(".debug_info").data)
    writer = ElfWriter(file_type=3)
    writer.section(".debug_info", struct.pack("<IIQQ", 2, 0, 5, 1) + b"x", flags=0x800)
    writer.section(".debug_line", b"\1", flags=0x800)
    image = Image.from_bytes(writer.build(), "sample")
    with pytest.raises(InputError, match="compressed with zstd"):
        bytes(image.section(".debug_info").data)
    with pytest.raises(InputError, match="compression header"):
        bytes(image.section(".debug_line").data)


def test_i386_objects_keep_the_addend_in_place():
    writer = ElfWriter(bits=32, machine=EM_386)
    text = writer.text(b"\xe8\xfc\xff\xff\xff\xc3" + b"\x90" * 10)
    writer.symbol("callee", 0, 0, kind=0)
    symtab = writer.symtab()
    writer.rela(text, symtab, [(1, 2, 1, 0)])
    image = Image.from_bytes(writer.build(), "sample")
    address = image.section(".text").address
    (relocation,) = image.relocations[address + 1]
    assert (relocation.type, relocation.addend) == (2, -4)
    (displacement,) = struct.unpack("<i", image.read(address + 1, 4))
    assert image.name_of(address + 5 + displacement) == "callee"


def test_bss_of_objects():
    writer = ElfWriter()
    writer.text()
    writer.section(".bss", bytes(64), type=NOBITS, flags=SHF_ALLOC | SHF_WRITE)
    writer.section(".data", b"x" * 8, type=PROGBITS, flags=SHF_ALLOC | SHF_WRITE)
    image = Image.from_bytes(writer.build(), "sample")
    bss = image.section(".bss")
    assert bytes(image.read(bss.address, 64)) == bytes(64)
    assert bytes(image.read(image.section(".data").address, 8)) == b"x" * 8


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        Image.open(path)


def test_sections_that_all_claim_the_whole_file():
    """A thousand relocation sections over the same bytes are not read a thousand times."""
    writer = ElfWriter(file_type=3)
    writer.text(b"\x90" * (1 << 20), address=0x1000)
    for _ in range(1000):
        writer.section(".rela.dyn", b"", type=4, flags=SHF_ALLOC)
        writer.sections[-1].claimed_offset = 0
        writer.sections[-1].claimed_size = 1 << 20
    image = Image.from_bytes(writer.build(), "sample")
    assert len(image.relocations) < (1 << 20) // 24 + 1
    assert len(image.warnings) == 101
    assert "not listed" in str(image.warnings[-1])


def test_overlapping_executable_sections_are_one_range():
    writer = ElfWriter(file_type=3)
    writer.text(b"\x90" * 64, address=0x1000)
    writer.text(b"\x90" * 64, name=".b", address=0x1020)
    writer.text(b"\x90" * 64, name=".c", address=0x1060)
    image = Image.from_bytes(writer.build(), "sample")
    assert image.executable_ranges() == [(0x1000, 0x1060), (0x1060, 0x10A0)]


@pytest.mark.parametrize("claimed", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_only_code_that_the_file_holds_is_walked(claimed):
    """A section header may claim any size; what is not there is no code."""
    writer = ElfWriter(file_type=3)
    writer.text(b"\x90" * 64, address=0x1000)
    writer.sections[-1].claimed_size = claimed
    writer.segment(1, 5, 0, 0, 0x2000)
    text = writer.offset_of(len(writer.sections) - 1)
    writer.segments[0] = (1, 5, text, 0x1000, 64, 1 << 40)
    image = Image.from_bytes(writer.build(), "sample")
    assert image.executable_ranges() == [(0x1000, 0x1040)]
    pieces = [(address, bytes(piece)) for address, piece in image.executable_pieces(24, 4)]
    assert [address for address, _ in pieces] == [0x1000, 0x1018, 0x1030]
    assert [len(piece) for _, piece in pieces] == [28, 28, 16]


def test_bytes_mapped_a_thousand_times_are_not_walked_a_thousand_times():
    writer = ElfWriter(file_type=3, with_section_headers=False)
    writer.section(".text", b"\x90" * (1 << 16))
    for number in range(1000):
        writer.segment(1, 5, 0x40, number << 20, 1 << 16)
    data = writer.build()
    image = Image.from_bytes(data, "sample")
    assert len(image.segments) == 1000
    walked = sum(len(piece) for _, piece in image.executable_pieces(1 << 12, 0))
    assert walked <= 2 * len(data)


def test_pieces_of_overlapping_regions_can_be_read():
    writer = ElfWriter(file_type=3)
    writer.text(b"\x90" * 64, address=0x1000)
    writer.text(b"\xcc" * 64, name=".b", address=0x1020)
    image = Image.from_bytes(writer.build(), "sample")
    assert image.executable_ranges() == [(0x1000, 0x1060)]
    assert [
        (address, bytes(piece[:1]), len(piece)) for address, piece in image.executable_pieces(64, 4)
    ] == [(0x1000, b"\x90", 32), (0x1020, b"\xcc", 64)]


def test_no_address_is_beyond_the_highest():
    for bits, top in ((64, 1 << 64), (32, 1 << 32)):
        writer = ElfWriter(bits=bits, file_type=3)
        writer.text(b"\x90" * 64, address=top - 32)
        image = Image.from_bytes(writer.build(), "sample")
        assert image.mapped_end(top - 32) == top
        assert image.executable_ranges() == [(top - 32, top - 1)]


def test_no_code_where_nothing_is_loaded():
    writer = ElfWriter(file_type=3)
    writer.section(".text", b"", flags=SHF_ALLOC, address=0x1000)
    image = Image.from_bytes(writer.build(), "sample")
    assert image.executable_ranges() == []
    assert list(image.executable_pieces(16, 0)) == []
