"""System-call tables: read, write, lint, compare, and what each call needs of the frame."""

from fullframe.table.files import (
    PACKAGED_TABLES,
    open_table,
    packaged_table,
    read_table,
    write_table,
)
from fullframe.table.lint import Finding, lint_table
from fullframe.table.model import Columns, Spelling, Table, TableEntry
from fullframe.table.needs import FrameUse, FullFrameNeed, full_frame_need
from fullframe.table.parse import TableErrors, parse_table

__all__ = [
    "PACKAGED_TABLES",
    "Columns",
    "Finding",
    "FrameUse",
    "FullFrameNeed",
    "Spelling",
    "Table",
    "TableEntry",
    "TableErrors",
    "full_frame_need",
    "lint_table",
    "open_table",
    "packaged_table",
    "parse_table",
    "read_table",
    "write_table",
]
