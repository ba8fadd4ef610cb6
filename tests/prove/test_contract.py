"""Contracts: the packaged ones are read; what makes no sense is refused with its position."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullframe.entry.prove.prove import prove_image
from fullframe.entry.prove.read_contract import (
    open_contract,
    packaged_contracts,
    read_contract,
)
from fullframe.errors import FullframeError, InputError, InputErrors, UsageError
from tests.prove.built import image_path
from tests.prove.samples import RIGHT, build

SMALL = """\
[contract]
name = "small"

[[word]]
name = "stack_top"
offset = 8
holds = "task stack top"

[[way_in]]
symbol = "entry_SYSCALL_64"
by = "SYSCALL"
slots = { ax = -38, cx = "ip" }

[[way_out]]
instruction = "SYSRETQ"
cs = 0x33

[[function]]
symbols = ["do_call"]
frame = "full"
arguments = ["frame", "int(orig_ax)"]
modifies = ["ax", "*"]
"""


def test_packaged_contracts_are_read():
    names = packaged_contracts()
    assert names == ("partial", "full", "annotated", "linux-6.1")
    for name in names:
        contract = open_contract(name)
        assert contract.name == name
        assert contract.summary
        assert contract.frame_offset_bytes == -168


def test_small_contract():
    contract = read_contract("small.toml", SMALL)
    assert contract.ways_in[0].slots == (("ax", -38), ("cx", "ip"))
    assert len(contract.functions[0].modifies) == 22
    assert contract.canonical_bits == {"": 48}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('by = "SYSCALL"', 'by = "SYSCAL"',
         "small.toml:11:7: way in 'SYSCAL'; expected a known one\n  next: did you mean SYSCALL, "),
        ("{ ax = -38,", "{ rax = -38,",
         "small.toml:12:11: slot 'rax'; expected a known one\n  next: did you mean ax"),
        ('cx = "ip"', 'cx = "rip"',
         "small.toml:12:27: value 'rip'; expected a known one\n  next: did you mean ip"),
        ('"task stack top"', '"task stack"',
         "small.toml:7:10: contents 'task stack'; expected a known one\n"
         "  next: did you mean task stack top"),
        ('instruction = "SYSRETQ"', 'instruction = "SYSRET"',
         "small.toml:15:16: instruction 'SYSRET'; expected a known one\n"
         "  next: did you mean SYSRETQ"),
        ('frame = "full"', 'frame = "ful"',
         "small.toml:20:10: frame 'ful'; expected a known one\n  next: did you mean full?"),
        ('"int(orig_ax)"', '"int(orig)"',
         "small.toml:21:28: argument 'orig'; expected a known one\n  next: did you mean orig_ax"),
        ('modifies = ["ax"', 'modifies = ["eax"',
         "small.toml:22:14: slot 'eax'; expected a known one\n  next: did you mean ax"),
        ("[[function]]", "[[funktion]]",
         "small.toml:18:3: table [funktion]; expected a known one\n  next: did you mean function?"),
        ("symbols =", "symbol =",
         "small.toml:19:1: key 'symbol' in [function]; expected a known key\n"
         "  next: did you mean symbols"),
        ('symbols = ["do_call"]', 'symbols = "do_call"',
         "small.toml:19:1: symbols = do_call; expected a list of strings"),
        ("offset = 8", 'offset = "8"', "small.toml:6:1: offset = 8; expected a number"),
        ("[contract]", "[contract", "small.toml:1:10: not TOML"),
        ('[[way_in]]\nsymbol = "entry_SYSCALL_64"\nby = "SYSCALL"\n'
         'slots = { ax = -38, cx = "ip" }\n', "", "small.toml: no [[way_in]]; expected at least"),
        ('frame = "full"', 'frame = "full"\nbecause = "tracing"',
         "small.toml:21:12: work 'tracing'; expected a known one"),
        ('frame = "full"', 'frame = "full"\nnonzero = ["cs is 3"]',
         "small.toml:21:13: 'cs is 3'; expected SLOT == N, SLOT & MASK == N or SLOT is canonical"),
        ("[[word]]", '[frame]\nslots = ["r15"]\n\n[[word]]',
         "small.toml:5:1: 1 slots; expected 21"),
        ("[[word]]", '[[helper]]\nsymbols = ["x"]\ndoes = "jump eip"\n\n[[word]]',
         "small.toml:6:14: register 'eip'; expected a known one\n  next: "),
        ("[[word]]", '[modes]\npage_tables = "PTI"\n\n[[word]]',
         "small.toml:5:16: feature 'PTI'; expected a known one"),
    ],
)  # fmt: skip
def test_rejected(old, new, message):
    assert old in SMALL
    with pytest.raises((InputError, InputErrors)) as raised:
        read_contract("small.toml", SMALL.replace(old, new, 1))
    assert message in str(raised.value)
    assert raised.value.exit_code == 3


def test_all_errors_are_reported_at_once():
    text = SMALL.replace("SYSRETQ", "SYSRET").replace('"full"', '"ful"')
    with pytest.raises(InputErrors) as raised:
        read_contract("small.toml", text)
    assert len(raised.value.errors) == 2


def test_unknown_contract():
    with pytest.raises(UsageError, match="did you mean partial"):
        open_contract("partal")


def test_a_contract_that_names_what_the_image_has_not(tmp_path):
    contract = read_contract(
        "wrong.toml", SMALL.replace('name = "stack_top"', 'name = "top"\nsymbol = "sys_cal_table"')
    )
    with pytest.raises(InputErrors, match=r"symbol sys_cal_table, which .* has not") as raised:
        prove_image(build(tmp_path, RIGHT), contract)
    assert str(raised.value).startswith("wrong.toml:6:11: ")
    assert "did you mean sys_call_table" in str(raised.value)


def test_an_image_without_the_ways_in():
    text = SMALL.replace("_SYSCALL_64", "_SYSCALL")
    with pytest.raises(InputErrors, match="x:10:11: symbol entry_SYSCALL, which") as raised:
        prove_image(image_path("full"), read_contract("x", text))
    assert "did you mean entry_SYSCALL_64" in str(raised.value)
    text = text.replace('by = "SYSCALL"', 'by = "SYSCALL"\noptional = true')
    with pytest.raises(InputError, match="none of the contract's ways in"):
        prove_image(image_path("full"), read_contract("x", text))


def test_unknown_features_and_ways_in():
    with pytest.raises(UsageError, match=r"no CPU feature 'PTY'.*PTI"):
        prove_image(image_path("full"), "linux-6.1", features=["PTY"])
    with pytest.raises(UsageError, match="no way in 'entry'"):
        prove_image(image_path("full"), "full", entries=["entry"])


_WORDS = st.sampled_from([*SMALL.split(), "=", "[", "]", '"', "{", "}", "0x", "nan", "[[", "\n"])


@given(st.lists(_WORDS, max_size=40), st.integers(0, len(SMALL)))
@settings(max_examples=60, deadline=None)
def test_no_text_raises_anything_else(words, at):
    text = SMALL[:at] + " ".join(words) + SMALL[at:]
    with contextlib.suppress(FullframeError):
        read_contract("hostile.toml", text)
