"""The baseline with the six registers saved and loaded: that, and nothing else."""

import pytest

from fullframe.compare.six_registers import with_six_registers
from fullframe.cost.path import path_cost
from fullframe.entry.build import build, build_object, describe, link_image
from fullframe.entry.generate import ENTRY_FILE, generate
from fullframe.entry.strategy import ANNOTATED, FULL, PARTIAL
from fullframe.errors import ToolMissingError
from fullframe.run.session import run_scenarios, scenarios_for, trace_paths
from fullframe.table import parse_table
from fullframe.toolchain.find import find_toolchain
from fullframe.x86.ptregs import SLOTS
from tests.support import skip_or_fail

TABLE = parse_table(b"0 common read sys_read\n59 64 execve sys_execve:regs\n", "some.tbl")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The baseline's subject, and the same with the six registers."""
    try:
        toolchain = find_toolchain()
    except ToolMissingError as error:
        skip_or_fail(str(error))
    directory = tmp_path_factory.mktemp("six")
    built = build(PARTIAL, TABLE, toolchain, directory)
    source = directory / "six" / ENTRY_FILE
    source.parent.mkdir()
    source.write_text(with_six_registers(built.code.files[ENTRY_FILE]))
    objects = built.objects | {ENTRY_FILE: build_object(toolchain, source)}
    image = link_image(
        toolchain, list(objects.values()), directory / "six.elf", directory / "image.ld"
    )
    return built.subject(), describe(built.code, image)


def test_it_costs_six_stores_and_six_loads_more(images):
    before, after = (path_cost(trace_paths(subject)[0].instructions) for subject in images)
    assert (after.stores - before.stores, after.loads - before.loads) == (6, 6)
    # Six pushes in the place of one sub, and six loads.
    assert after.instructions - before.instructions == 11


def test_its_fast_path_works(images):
    _, subject = images
    plain = [each for each in scenarios_for(subject) if each.label == "plain"]
    report = run_scenarios(subject, plain)
    assert report.slots_written_fast == SLOTS
    assert report.difference_count == 0


@pytest.mark.parametrize("strategy", [PARTIAL, ANNOTATED])
def test_it_is_made_from_any_entry_code_with_partial_frames(strategy):
    text = generate(strategy, TABLE).files[ENTRY_FILE]
    changed = with_six_registers(text)
    assert changed.count("pushq") - text.count("pushq") == 6
    with pytest.raises(LookupError):
        with_six_registers(changed)


def test_other_entry_code_is_refused():
    with pytest.raises(LookupError, match="found 0"):
        with_six_registers(generate(FULL, TABLE).files[ENTRY_FILE])
    with pytest.raises(LookupError):
        with_six_registers("")
