"""Random functions in machine code, for property tests of the tracker.

Instructions are spelled in bytes (Intel SDM vol. 2), so that thousands of functions are made
without an assembler. Memory is addressed through the stack pointer and the frame pointer only,
near where they are: that stores through other pointers miss the frame is an assumption of the
tracker (docs/tracker.md), not something to be tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

#: Instructions of x86-64 that move registers, addresses and the stack.
_PLAIN_64 = tuple(
    bytes.fromhex(text)
    for text in (
        "53", "55", "41 54", "41 57", "56", "57",  # push rbx rbp r12 r15 rsi rdi
        "5b", "5d", "41 5c", "41 5f", "5e", "5f",  # pop
        "48 83 ec 08", "48 83 ec 18", "48 83 c4 08", "48 83 c4 10",  # sub, add rsp
        "48 8d 64 24 f8", "48 8d 64 24 10", "48 8d 65 f0",  # lea -8(%rsp) 16(%rsp) -16(%rbp), %rsp
        "48 89 e5", "48 89 ec", "48 89 e0", "48 89 c4",  # mov rsp, rbp; back; rsp, rax; back
        "48 8d 6c 24 08", "48 8d 44 24 f0",  # lea 8(%rsp), %rbp; lea -16(%rsp), %rax
        "c9", "c8 10 00 00", "c8 08 00 02",  # leave; enter 16, 0; enter 8, 2
        "48 89 5c 24 f8", "48 89 1c 24", "48 89 5d f8", "4c 89 65 f0",  # saves by mov
        "48 8b 5c 24 f8", "48 8b 1c 24", "48 8b 5d f8", "4c 8b 65 f0",  # loads
        "48 89 6c 24 08", "48 8b 6c 24 08", "48 8b 6d 00",
        "89 5c 24 f8", "8b 5c 24 f8", "c6 44 24 03 00", "66 89 5d f8",  # parts
        "48 c7 04 24 07 00 00 00", "48 c7 45 f8 00 00 00 00",
        "31 db", "89 db", "bb 01 00 00 00", "88 c3", "66 bb 34 12", "b7 01", "0f 94 c3",
        "48 89 d8", "48 89 c3", "49 89 dc", "4c 89 e3", "48 89 eb", "48 89 dd",  # copies
        "48 87 d8", "48 87 1c 24", "48 87 5c 24 f8", "48 87 ec", "49 87 dc",  # xchg
        "48 0f 44 d8", "48 0f 45 1c 24", "0f 44 d8",  # cmovz
        "66 48 0f 6e c3", "66 48 0f 7e c3", "66 0f 6e c3", "66 0f 7e c3",  # movq, movd
        "66 0f ef c0", "f3 0f 7e c1",
        "ff 34 24", "ff 75 f8", "ff 74 24 10", "8f 04 24", "8f 44 24 08", "8f 45 f8",
        "6a 07", "68 07 00 00 00", "66 53", "66 5b", "9c", "9d",
        "48 83 eb 08", "48 01 c3", "48 ff c3", "48 f7 db", "48 0f c8", "48 0f cb",
        "e8 00 00 10 00", "e8 00 00 10 00",  # call of something elsewhere
        "f0 83 0c 24 00", "48 83 0c 24 00", "48 ff 04 24", "48 01 5d f8",
        "48 39 c4", "48 39 e8", "85 ff", "39 fe", "84 c0",  # compares and tests
        "48 c7 c0 10 00 00 00", "48 29 c4", "48 01 c4", "b8 f0 ff ff ff", "0f a2", "90", "99",
        "48 8b 1c 04", "48 8b 5c 0d 00",  # (%rsp,%rax), (%rbp,%rcx)
        "4c 8d 54 24 08", "41 52", "41 5a", "4c 89 d4", "49 8d 62 f8", "41 ff 72 f8",
    )
)  # fmt: skip
_PLAIN_32 = tuple(
    bytes.fromhex(text)
    for text in (
        "53", "55", "56", "57", "50", "5b", "5d", "5e", "5f", "58",
        "83 ec 08", "83 ec 0c", "83 c4 08", "83 c4 04", "8d 64 24 f8", "8d 64 24 04", "8d 65 f4",
        "89 e5", "89 ec", "89 e0", "89 c4", "8d 6c 24 04", "8d 4c 24 04",
        "c9", "c8 10 00 00", "c8 08 00 02", "60", "61",
        "89 5c 24 fc", "89 1c 24", "89 5d fc", "89 75 f8",
        "8b 5c 24 fc", "8b 1c 24", "8b 5d fc", "8b 75 f8", "8b 6d 00", "8b 64 24 0c",
        "66 89 5d f8", "c6 44 24 01 00", "c7 04 24 07 00 00 00",
        "31 db", "89 db", "bb 01 00 00 00", "88 c3", "66 bb 34 12",
        "89 d8", "89 c3", "89 de", "89 f3", "89 eb", "89 dd",
        "93", "87 1c 24", "87 5c 24 fc", "87 ec", "87 de", "0f 44 d8", "0f 45 1c 24",
        "66 0f 6e c3", "66 0f 7e c3", "66 0f ef c0",
        "ff 34 24", "ff 75 f8", "ff 74 24 10", "8f 04 24", "8f 44 24 08",
        "6a 07", "66 53", "66 5b", "9c", "9d", "66 60", "66 61",
        "83 eb 04", "01 c3", "43", "f7 db", "0f cb", "e8 00 00 10 00", "f0 83 0c 24 00", "ff 04 24",
        "39 c4", "85 ff", "39 fe", "84 c0", "b8 10 00 00 00", "29 c4", "01 c4", "0f a2", "90",
        "8b 1c 04", "8b 5c 0d 00",
        "51", "59", "8d 61 fc", "ff 71 fc",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RandomCode:
    """A function.

    Attributes:
        bits: 64 or 32.
        code: its bytes.
        text: what it consists of, for messages.
    """

    bits: int
    code: bytes
    text: str


_Item = tuple[bytes, int | None]


def _laid_out(bits: int, items: list[_Item]) -> RandomCode:
    """Put instructions one behind the other; a branch leads to an item, modulo their number."""
    sizes = [len(head) + (0 if target is None else 4) for head, target in items]
    places = [sum(sizes[:number]) for number in range(len(items))]
    code = b""
    texts = []
    for number, (head, target) in enumerate(items):
        code += head
        if target is not None:
            goal = target % len(items)
            distance = places[goal] - places[number] - sizes[number]
            code += distance.to_bytes(4, "little", signed=True)
            texts.append(f"{head.hex()}->{goal}")
        else:
            texts.append(head.hex())
    return RandomCode(bits, code, " ".join(texts))


def random_functions(bits: int, most: int = 30) -> st.SearchStrategy[RandomCode]:
    """Functions of up to ``most`` instructions, and a return."""
    plain = st.tuples(st.sampled_from(_PLAIN_64 if bits == 64 else _PLAIN_32), st.none())
    branches = st.tuples(
        st.sampled_from([b"\x0f\x84", b"\x0f\x85", b"\x0f\x82"]), st.integers(0, most)
    )
    # Few: what stands behind them is reached only if some branch leads there.
    ends = st.one_of(st.just((b"\xc3", None)), st.tuples(st.just(b"\xe9"), st.integers(0, most)))
    item = st.one_of(*[plain] * 14, branches, branches, ends)
    return st.lists(st.tuples(item, st.integers(0, 5)), min_size=1, max_size=most).map(
        lambda items: _laid_out(bits, _led_to(items))
    )


def _led_to(items: list[tuple[_Item, int]]) -> list[_Item]:
    """Let a branch lead to most of what stands behind an end, and add a return."""
    found: list[_Item] = []
    for (head, target), chance in items:
        if head in (b"\xc3", b"\xe9") and chance:
            found.append((b"\x0f\x84", len(found) + 2))
        found.append((head, target))
    return [*found, (b"\xc3", None)]
