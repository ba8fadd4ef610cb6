"""The tracker: where is each of the caller's register values at every instruction?

What others build on, and nothing else:

* :class:`~fullframe.track.values.Value` and its kinds: what a register or slot can hold;
* :class:`~fullframe.track.state.StateSpace` and :class:`~fullframe.track.state.State`: where
  everything is at one boundary, interned, joined where paths meet;
* :class:`~fullframe.track.classify.Classifier`: instructions to effects on states;
* :func:`~fullframe.track.listing.decode`: a code range to its boundaries and events;
* :class:`~fullframe.track.flow.Follower`: the state at every boundary of a listing, by a
  worklist, whatever the control flow;
* :class:`~fullframe.track.reader.StreamReader` and
  :class:`~fullframe.track.straight.StraightFollower`: the same for the common case, many ranges
  decoded together and each followed in one pass;
* :class:`~fullframe.track.bulk.BulkFollower`: many ranges followed together, as most can be;
* :class:`~fullframe.track.flow.Surroundings`: what a client tells of callees, jump tables and
  landing pads; :class:`~fullframe.track.calls.Callees` and
  :class:`~fullframe.track.jump_tables.TableReader` find most of it.

``docs/tracker.md`` walks through it with an example that the tests run.
"""

from fullframe.track.bulk import BulkFollower
from fullframe.track.calls import Callees
from fullframe.track.classify import Classifier
from fullframe.track.flow import Flow, Follower, Surroundings
from fullframe.track.jump_tables import TableReader
from fullframe.track.listing import Listing, decode
from fullframe.track.reader import StreamReader
from fullframe.track.state import State, StateSpace
from fullframe.track.straight import StraightFlow, StraightFollower, StraightSurroundings
from fullframe.track.streams import Stream
from fullframe.track.values import (
    CFA,
    CFA_REGION,
    OTHER,
    UNKNOWN,
    Address,
    Constant,
    Derived,
    Entry,
    Region,
    Value,
)

__all__ = [
    "CFA",
    "CFA_REGION",
    "OTHER",
    "UNKNOWN",
    "Address",
    "BulkFollower",
    "Callees",
    "Classifier",
    "Constant",
    "Derived",
    "Entry",
    "Flow",
    "Follower",
    "Listing",
    "Region",
    "State",
    "StateSpace",
    "StraightFlow",
    "StraightFollower",
    "StraightSurroundings",
    "Stream",
    "StreamReader",
    "Surroundings",
    "TableReader",
    "Value",
    "decode",
]
