"""Knowledge of other nodes: to a node that is alone nothing need be announced."""

import time
from collections.abc import Callable

TABLE_BELIEVED = 5.0  # seconds for which the table of nodes is believed; it is read every other second
REMEMBERED = 10.0  # seconds for which a node that has announced something counts, also if the table does not have it


class Neighbours:
    """Knowledge of whether there may be other nodes. In doubt there are.

    A node is in the table of nodes before it listens, and then it tells the others that it does. So there is none if
    the table had none after this node had begun to listen, and none has been heard of since. ``on_found`` is called for
    the first sign of another node, or of doubt, after there was none: nothing was announced to it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_found: Callable[[], None] = lambda: None
        self._clock = clock
        self._alone_until = 0.0
        self._in_doubt_until = 0.0
        self._was_alone = False  # at some time since another was found

    @property
    def are_possible(self) -> bool:
        """False while this node is known to be alone."""
        return self._clock() >= self._alone_until

    def counted(self, others: int, asked_at: float) -> None:
        """Note how many other nodes the table has, which was asked at this time of ``time.monotonic``."""
        if others:
            self._find()
        elif asked_at >= self._in_doubt_until:
            self._alone_until = asked_at + TABLE_BELIEVED
            self._was_alone = True

    def heard(self) -> None:
        """Note that another node has announced something."""
        self._in_doubt_until = self._clock() + REMEMBERED
        self._find()

    def listening(self) -> None:
        """Note that this node listens from now on. What was announced before it may have missed."""
        self._in_doubt_until = max(self._clock(), self._in_doubt_until)
        self._find()

    def _find(self) -> None:
        was_alone, self._was_alone, self._alone_until = self._was_alone, False, 0.0
        if was_alone:
            self.on_found()
