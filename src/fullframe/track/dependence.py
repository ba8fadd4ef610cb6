"""What, besides an instruction's code, tells its effect in the coarse space.

Of most instructions it is only the register that they write: thousands of encodings need no look.
"""

from __future__ import annotations

from typing import Final

from iced_x86 import Instruction, Mnemonic, OpKind

from fullframe.track.classify import WRITES_OPERAND_0, Classifier
from fullframe.track.handlers import HANDLERS
from fullframe.track.operands import SIZE_BYTES

#: The whole encoding.
ENCODING: Final = 0
#: Only which register operand 0 is.
REGISTER: Final = 1
#: Only that, unless memory is addressed through the stack or the frame pointer: what is loaded
#: counts only if it comes from the frame.
REGISTER_UNLESS_OF_FRAME: Final = 2
#: Only that, unless it is the frame pointer, which may hold addresses, or memory is addressed
#: through a callee-saved register: without a displacement what is written is that one's value.
REGISTER_UNLESS_ADDRESS: Final = 3


def depends_on(classifier: Classifier, i: Instruction) -> int:
    """Return what the effect depends on of all instructions with the same code.

    Args:
        classifier: of the coarse space.
        i: one of them, whose operand 0 is a general register. Of the stack pointer, the encoding
            tells.
    """
    if i.mnemonic in (Mnemonic.PUSH, Mnemonic.POP):
        return REGISTER
    # Under x32 half a register may hold an address.
    if classifier.space.narrow_pointers or classifier.relevance[i.code] != WRITES_OPERAND_0:
        return ENCODING
    # Of narrower registers, and without a handler, whatever is written is nobody's value.
    if i.mnemonic not in HANDLERS or SIZE_BYTES[i.op0_register] < classifier.word_bytes:
        return REGISTER
    if i.mnemonic == Mnemonic.MOV and i.op1_kind == OpKind.MEMORY:
        return REGISTER_UNLESS_OF_FRAME
    return REGISTER_UNLESS_ADDRESS if i.mnemonic == Mnemonic.LEA else ENCODING
