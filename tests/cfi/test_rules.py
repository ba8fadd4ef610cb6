from __future__ import annotations

import copy
import pickle

import pytest

from fullframe.cfi.rules import (
    SAME_VALUE,
    UNDEFINED,
    CfaExpression,
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    SameValue,
    Undefined,
    ValExpression,
    ValOffset,
)

RULES = [
    (lambda: Undefined(), "Undefined()"),
    (lambda: SameValue(), "SameValue()"),
    (lambda: Offset(-16), "Offset(-16)"),
    (lambda: ValOffset(8), "ValOffset(8)"),
    (lambda: RegisterRule(3), "RegisterRule(3)"),
    (lambda: Expression(b"\x11\x78"), "Expression('11 78')"),
    (lambda: ValExpression(b"\x11\x78"), "ValExpression('11 78')"),
    (lambda: CfaRegister(7, 8), "CfaRegister(7, 8)"),
    (lambda: CfaExpression(b"\x11\x78"), "CfaExpression('11 78')"),
]


@pytest.mark.parametrize(("make", "text"), RULES)
def test_one_object_for_the_same_arguments(make, text):
    rule = make()
    assert make() is rule
    assert pickle.loads(pickle.dumps(rule)) is rule
    assert copy.deepcopy(rule) is rule
    assert repr(rule) == text


def test_different_arguments_or_classes_differ():
    rules = {make() for make, _ in RULES} | {Offset(-8), CfaRegister(7, 16), CfaRegister(6, 8)}
    assert len(rules) == len(RULES) + 3


def test_rules_cannot_be_changed():
    with pytest.raises(AttributeError, match="immutable"):
        Offset(-16).offset_bytes = 4


def test_singletons():
    assert UNDEFINED is Undefined()
    assert SAME_VALUE is SameValue()


def test_rules_match_by_position():
    match CfaRegister(6, 16):
        case CfaRegister(register, offset):
            assert (register, offset) == (6, 16)
        case _:
            pytest.fail("no match")
