"""Refusals: what goes wrong with a request, as HTTP status and one line."""

from collections.abc import Mapping
from types import MappingProxyType

from doorstep.errors import DoorstepError, EngineError, FormatError, InputError, UsageError


class RefusalError(DoorstepError):
    """A request that gets no answer; the message is for its sender."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class BusyError(RefusalError):
    """The queue is full, or the server stops."""

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(503, detail, {"Retry-After": str(retry_after_s)})


class DeadlineError(RefusalError):
    """The answer would come too late."""

    def __init__(self, waited_ms: float) -> None:
        super().__init__(504, f"deadline: expected an answer within {waited_ms:.0f} ms, none came; send less or later")


class GoneError(RefusalError):
    """The client hung up before the engine began."""

    def __init__(self) -> None:
        super().__init__(499, "the client hung up")


def refusal_of(error: DoorstepError) -> RefusalError:
    """Return `error` as a refusal: the sender's fault is 400, everything else 500."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, (InputError, FormatError, UsageError)):
        return RefusalError(400, str(error))
    if isinstance(error, EngineError):
        return RefusalError(500, "the engine failed; the server's log says more")
    return RefusalError(500, "the server failed; its log says more")
