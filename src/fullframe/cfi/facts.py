"""What is known of one image while its functions are checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from fullframe.cfi.engine import Engine
from fullframe.cfi.entries import Entries
from fullframe.cfi.image_code import ImageCode
from fullframe.track.calls import Callees
from fullframe.track.jump_tables import Readings


@dataclass(slots=True)
class ImageFacts:
    """What is known of one image.

    Attributes:
        code: its code, by FDE.
        engine: state spaces and claims of its machine.
        callees: what calls of its functions do.
        entries: tells functions from their parts.
        readings: what looking for jump tables told of functions.
    """

    code: ImageCode
    engine: Engine
    callees: Callees
    entries: Entries
    readings: Readings = field(default_factory=dict)
