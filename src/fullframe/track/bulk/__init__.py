"""Following many functions together: guess the state everywhere, then confirm all at once.

A proof by induction needs no order: if the states that are written down hold where a function is
entered, and every instruction and every jump leads from what is written down to what is written
down, they hold. So the states are guessed first, which needs a look only at the few instructions
that build and take down frames and at where control arrives from elsewhere, and all is then held
together in numpy, for thousands of instructions at a time: each pair of a state and an instruction
that occur together is asked for once.

Guesses come from labels: the client names, by a number, what it claims of each place, and where
control arrives from elsewhere, the state is taken to be the one that held last where the label was
the same. A wrong guess is never believed: its function is left to
:class:`fullframe.track.straight.StraightFollower`, as is whatever is rare.
"""

from fullframe.track.bulk.follow import BulkFlow, BulkFollower, labels_of
from fullframe.track.bulk.work import BulkClient, Labels

__all__ = ["BulkClient", "BulkFlow", "BulkFollower", "Labels", "labels_of"]
