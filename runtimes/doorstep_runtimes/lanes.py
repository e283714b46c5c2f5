"""Several sessions of one model behind one: for engines whose session runs one call at a time."""

from collections.abc import Sequence
from queue import SimpleQueue

from doorstep.session import Session
from doorstep.tensors import Feeds, Fetches, TensorSpec


class Lanes:
    """As many calls at a time as there are sessions; a further one waits for the next session that is free.

    The engines map the file, so that weights they use as they lie are shared; weights they repack are not.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = tuple(sessions)
        self._free: SimpleQueue[Session] = SimpleQueue()
        for session in self._sessions:
            self._free.put(session)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._sessions[0].inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._sessions[0].outputs

    def run(self, feeds: Feeds) -> Fetches:
        session = self._free.get()
        try:
            return session.run(feeds)
        finally:
            self._free.put(session)

    def close(self) -> None:
        for session in self._sessions:
            session.close()
