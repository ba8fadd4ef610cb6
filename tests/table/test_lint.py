import pytest

from fullframe.table import Spelling, full_frame_need, lint_table, packaged_table, parse_table
from fullframe.table import diagnostics as codes
from fullframe.table.model import is_unimplemented
from fullframe.table.needs import call_of_entry_point

#: Written out by hand, from the sources that ``needs.py`` names: not derived from it.
ANNOTATED_64 = {
    ("64", 15, "rt_sigreturn"), ("common", 56, "clone"), ("common", 57, "fork"),
    ("common", 58, "vfork"), ("64", 59, "execve"), ("common", 172, "iopl"),
    ("64", 322, "execveat"), ("common", 435, "clone3"), ("x32", 513, "rt_sigreturn"),
    ("x32", 520, "execve"), ("x32", 545, "execveat"),
}  # fmt: skip
ANNOTATED_I386 = {
    ("i386", 2, "fork"), ("i386", 11, "execve"), ("i386", 110, "iopl"),
    ("i386", 113, "vm86old"), ("i386", 119, "sigreturn"), ("i386", 120, "clone"),
    ("i386", 166, "vm86"), ("i386", 173, "rt_sigreturn"), ("i386", 190, "vfork"),
    ("i386", 358, "execveat"), ("i386", 435, "clone3"),
}  # fmt: skip
PACKAGED = {"x86-64": ANNOTATED_64, "i386": ANNOTATED_I386}
ALL_ANNOTATED = [(table, *key) for table, keys in PACKAGED.items() for key in sorted(keys)]


def lint(text):
    return [
        (finding.code, finding.severity, finding.line, finding.column, finding.name)
        for finding in lint_table(parse_table(text))
    ]


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_annotations_are_the_known_ones(name):
    table = packaged_table(name)
    assert {(e.abi, e.number, e.name) for e in table.annotated} == PACKAGED[name]
    assert lint_table(table) == []


@pytest.mark.parametrize(("table_name", "abi", "number", "name"), ALL_ANNOTATED)
def test_each_annotation_removed_is_an_error(table_name, abi, number, name):
    table = packaged_table(table_name).with_annotation(name, False, abi=abi)
    (finding,) = lint_table(table)
    entry = next(e for e in table.entries if (e.abi, e.name) == (abi, name))
    assert finding.code == codes.MISSING_ANNOTATION
    assert finding.severity == "error"
    assert (finding.name, finding.number, finding.abi) == (name, number, abi)
    assert (finding.path, finding.line) == (table.path, entry.line)
    assert finding.column == entry.columns.entry_point


@pytest.mark.parametrize("table_name", PACKAGED)
def test_each_annotation_added_elsewhere_is_a_warning(table_name):
    table = packaged_table(table_name)
    tried = 0
    for entry in table.entries:
        implemented = [p for p, _, _ in entry.entry_points() if not is_unimplemented(p)]
        if entry.needs_full_frame or not implemented:
            continue
        tried += 1
        findings = lint_table(table.with_annotation(entry.name, True, abi=entry.abi))
        assert [f.code for f in findings] == [codes.NEEDLESS_ANNOTATION] * len(implemented)
        for finding in findings:
            assert finding.severity == "warning"
            assert (finding.name, finding.number) == (entry.name, entry.number)
            assert (finding.abi, finding.line) == (entry.abi, entry.line)
    assert tried > 370


@pytest.mark.parametrize("spelling", Spelling)
def test_both_spellings_count(spelling):
    assert lint(f"59 64 execve sys_execve{spelling}\n") == []


@pytest.mark.parametrize(
    "point",
    ["sys_execve", "compat_sys_execve", "__x64_sys_execve", "__ia32_compat_sys_execve",
     "__x32_compat_sys_execve", "stub_execve", "stub_x32_execve", "stub32_execve", "sys32_execve"],
)  # fmt: skip
def test_a_renamed_call_is_found_by_its_entry_point(point):
    assert lint(f"9 64 launch {point}\n") == [(codes.MISSING_ANNOTATION, "error", 1, 13, "launch")]


def test_a_private_entry_point_is_found_by_the_name():
    assert lint("59 64 execve my_own_exec\n") == [
        (codes.MISSING_ANNOTATION, "error", 1, 14, "execve")
    ]


@pytest.mark.parametrize(
    ("point", "call"),
    [("compat_sys_x32_rt_sigreturn", "rt_sigreturn"), ("sys32_x32_rt_sigreturn", "rt_sigreturn"),
     ("compat_sys_ia32_clone", "clone"), ("compat_sys_x86_clone", "clone"), ("sys_", "sys_"),
     ("sys_x86_", "x86_"), ("__x64_sys_fork", "fork"), ("systematic", "systematic")],
)  # fmt: skip
def test_prefixes_of_entry_points(point, call):
    assert call_of_entry_point(point) == call


@pytest.mark.parametrize("point", ["", "sys_ni_syscall", "__x64_sys_ni_syscall"])
def test_what_is_not_implemented_needs_nothing(point):
    table = parse_table(f"59 64 execve {point}\n")
    assert lint_table(table) == []
    assert full_frame_need(table.entries[0]) is None


def test_an_annotation_on_what_is_not_implemented_is_a_warning():
    assert lint("59 64 execve sys_ni_syscall:regs\n") == [
        (codes.NEEDLESS_ANNOTATION, "warning", 1, 28, "execve")
    ]


@pytest.mark.parametrize(("native", "compat", "column"), [(":regs", "", 31), ("", "/ptregs", 16)])
def test_half_annotated_is_an_error(native, compat, column):
    text = f"11 i386 execve sys_execve{native} compat_sys_execve{compat}\n"
    if native:
        column = text.index("compat") + 1
    assert lint(text) == [(codes.HALF_ANNOTATED, "error", 1, column, "execve")]


def test_the_line_of_another_abi_is_pointed_at():
    findings = lint_table(
        parse_table("59 64 execve sys_execve:regs\n520 x32 execve compat_sys_execve\n")
    )
    assert findings[0].message.endswith("; ABI 64 has it, line 1")


def test_a_stub_is_told_apart():
    (finding,) = lint_table(parse_table("59 64 execve stub_execve\n"))
    assert finding.message.endswith("write sys_execve:regs")


def test_calls_of_the_users_own():
    text = "900 64 snap sys_snap\n901 64 other do_other:regs\n"
    table = parse_table(text)
    assert [f.code for f in lint_table(table)] == [codes.NEEDLESS_ANNOTATION]
    findings = lint_table(table, also_needs=["snap", "do_other"])
    assert [(f.code, f.name) for f in findings] == [(codes.MISSING_ANNOTATION, "snap")]


@pytest.mark.parametrize(
    ("text", "column"), [(" 0 64 read sys_read\n", 1), ("0 64 read sys_read # x\n", 20)]
)
def test_lines_that_the_kernel_reads_differently(text, column):
    assert lint(text) == [(codes.READ_DIFFERENTLY, "warning", 1, column, "read")]


def test_later_columns():
    assert lint("60 64 exit sys_exit - noreturn\n") == []
    assert lint("60 64 exit sys_exit - noretrun\n") == [
        (codes.UNKNOWN_LATER_COLUMN, "warning", 1, 23, "exit")
    ]


def test_newer_kernels_calls():
    assert [f.name for f in lint_table(parse_table("335 64 uretprobe sys_uretprobe\n"))] == [
        "uretprobe"
    ]


def test_findings_are_in_the_order_of_the_file():
    text = "59 64 execve sys_execve\n1 64 write sys_write:regs\n57 64 fork sys_fork\n"
    assert [line for _, _, line, _, _ in lint(text)] == [1, 2, 3]


def test_every_code_is_in_the_catalogue():
    constants = {name for name in vars(codes) if name.isupper()} - {"DIAGNOSTICS"}
    used = {getattr(codes, name) for name in constants}
    assert used == set(codes.DIAGNOSTICS)
    for diagnostic in codes.DIAGNOSTICS.values():
        assert all((diagnostic.title, diagnostic.meaning, diagnostic.cause, diagnostic.fix))
