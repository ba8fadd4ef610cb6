"""Random tables, and random lines that are almost tables."""

from hypothesis import strategies as st

from fullframe.table.model import NAME_SPACES

IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
BLANKS = st.text(" \t", min_size=1, max_size=4)
ANNOTATIONS = st.sampled_from(["", "", "", ":regs", "/ptregs"])
COMMENTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20).map(
    lambda text: "#" + text
)
LINE_ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n"])


@st.composite
def entry_lines(draw, taken):
    """Draw a line whose number and name are not taken yet in its name spaces."""
    abi = draw(st.sampled_from(sorted(NAME_SPACES)))
    number = draw(st.integers(0, 0xFFFF))
    name = draw(IDENTIFIERS)
    keys = {(space, key) for space in NAME_SPACES[abi] for key in (number, name)}
    if keys & taken:
        return draw(COMMENTS)
    taken |= keys
    columns = [str(number), abi, name]
    depth = draw(st.integers(0, 3))
    if depth > 0:
        columns.append(draw(st.one_of(IDENTIFIERS, st.just("sys_ni_syscall"))) + draw(ANNOTATIONS))
    if depth > 1:
        columns.append(draw(st.one_of(st.just("-"), IDENTIFIERS.map(lambda n: n + ":regs"))))
    if depth > 2:
        columns += draw(st.lists(st.sampled_from(["noreturn", "-", "x=1"]), max_size=3))
    text = draw(st.sampled_from(["", "", "", " ", "\t"])) + columns[0]
    for column in columns[1:]:
        text += draw(BLANKS) + column
    return text + draw(st.one_of(st.just(""), BLANKS, COMMENTS.map(lambda text: " " + text)))


@st.composite
def tables(draw):
    """Draw the bytes of a right table."""
    taken = set()
    lines = draw(
        st.lists(
            st.one_of(st.just(""), BLANKS, COMMENTS, entry_lines(taken), entry_lines(taken)),
            max_size=12,
        )
    )
    text = "".join(line + draw(LINE_ENDS) for line in lines)
    if lines and draw(st.booleans()):
        text = text.rstrip("\r\n")
    return text.encode()


ALMOST_TABLES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(
            st.sampled_from(
                [b"0", b"59", b"64", b"common", b"x32", b"i386", b"execve", b"sys_execve:regs",
                 b"sys_execve/ptregs", b" ", b"\t", b"\n", b"\r", b"#", b"-", b":", b"\0",
                 b"\xff", b"\xc2\xa0", b"\xef\xbb\xbf", b"1073741824"]
            ),
            st.binary(max_size=3),
        ),
        max_size=60,
    ).map(b"".join),
)  # fmt: skip
