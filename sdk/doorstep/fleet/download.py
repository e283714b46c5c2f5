"""Content into a file, piece by piece: only verified bytes are written, so that a file cut anywhere can be resumed.

What is asked for is a closed range (`bytes=N-M`); what is answered is believed only as far as the digests of its
pieces go. Interrupted transfers resume at the very byte; a run killed resumes at the last whole piece.
"""

import hashlib
import os
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from doorstep.errors import IntegrityError, TransferError
from doorstep.fleet.clock import Clock
from doorstep.fleet.release import Content
from doorstep.fleet.transport import Reply, Transport

_CHUNK = 256 << 10
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_MOST_BAD_RANGES = 2
_FLUSH_BYTES = 16 << 20
_LARGE_BYTES = 8 << 20
_MOST_WAITING = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transfer may take.

    Attributes:
        min_rate: bytes a second, over `window_s`; a slower connection is dropped.
        deadline_s: for all that one run fetches.
        tries: failures without one verified piece between them, before it gives up.
        backoff_s, backoff_most_s: first wait after a failure, doubled each time, and the longest.
    """

    min_rate: int = 2048
    window_s: float = 20.0
    deadline_s: float = 6 * 3600.0
    tries: int = 5
    backoff_s: float = 1.0
    backoff_most_s: float = 60.0


@dataclass(slots=True)
class Tally:
    """What was transferred: bytes of bodies, and requests."""

    received: int = 0
    requests: int = 0


class Downloader:
    """Fetches contents from mirrors, the best of which comes first until it fails."""

    def __init__(self, transport: Transport, mirrors: Sequence[str], limits: Limits, clock: Clock) -> None:
        self._transport = transport
        self._mirrors = [mirror.rstrip("/") + "/" for mirror in mirrors]
        self._limits = limits
        self._clock = clock
        self._end = clock.monotonic() + limits.deadline_s
        self.tally = Tally()

    def fetch(self, content: Content, path: str, part: Path, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Make the file `part` hold exactly `content`, flushed to the disk; what is in it already is used.

        Args:
            path: where the content lies below a mirror.
            is_wanted: asked at every piece; False stops the transfer.

        Raises:
            TransferError: every mirror lacks it, or fails, or time is up; verified pieces are kept in `part`.
            IntegrityError: `part` is no regular file.
            OSError: disk full; verified pieces are kept.
        """
        with _Part(part, content) as target:
            self._fill(target, path, is_wanted)

    def _fill(self, target: "_Part", path: str, is_wanted: Callable[[], bool]) -> None:
        mirrors, failures, bad_ranges = list(self._mirrors), 0, 0
        while not target.is_complete:
            if not is_wanted():
                raise TransferError(f"{path}: no longer wanted; the transfer was stopped")
            if not mirrors:
                raise TransferError(f"{path}: no mirror has it; it was asked for at {', '.join(self._mirrors)}")
            before = target.verified
            wait = None
            try:
                self._stretch(target, mirrors[0] + path, bad_ranges < _MOST_BAD_RANGES, is_wanted)
                continue
            except _Absent:
                mirrors.pop(0)
                continue
            except _BadRange as error:
                bad_ranges += 1
                problem: Exception = error
            except _Later as error:
                wait, problem = error.seconds, error
            except TransferError as error:
                problem = error
            failures = 1 if target.verified > before else failures + 1
            mirrors.append(mirrors.pop(0))
            if failures >= self._limits.tries:
                raise TransferError(f"{path}: given up after {failures} failures in a row; the last: {problem}")
            self._wait(failures, wait, path)

    def _stretch(self, target: "_Part", url: str, is_ranged: bool, is_wanted: Callable[[], bool]) -> None:
        """Read from one answer until it ends, breaks, or the content is complete."""
        size, start = target.content.size, target.offset
        self.tally.requests += 1
        reply = self._transport.get(url, *((start, size - 1) if is_ranged else ()))
        try:
            skip = _check_head(reply, url, start, size) if is_ranged else _check_whole(reply, url, start)
            window_end, window_bytes = self._clock.monotonic() + self._limits.window_s, 0
            while target.offset < size and is_wanted():
                chunk = reply.read(min(_CHUNK, size - target.offset + skip))  # whatever follows is never read
                now = self._clock.monotonic()
                if not chunk:
                    raise TransferError(f"{url}: ended after {target.offset} of {size} bytes")
                self.tally.received += len(chunk)
                window_bytes += len(chunk)
                if skip:
                    skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
                target.feed(chunk, url)
                if now >= window_end:
                    if window_bytes < self._limits.min_rate * self._limits.window_s:
                        raise TransferError(f"{url}: slower than {self._limits.min_rate} bytes a second")
                    window_end, window_bytes = now + self._limits.window_s, 0
                if now > self._end:
                    raise _TimeUp(url)
        finally:
            reply.close()
            target.settle(url)

    def _wait(self, failures: int, asked: float | None, path: str) -> None:
        limits = self._limits
        longest = min(limits.backoff_most_s, limits.backoff_s * 2 ** (failures - 1))
        seconds = random.uniform(longest / 2, longest) if asked is None else asked  # noqa: S311 -- jitter, no secret
        if self._clock.monotonic() + seconds > self._end:
            raise _TimeUp(path)
        self._clock.sleep(seconds)


class _Part:
    """A file that grows by verified pieces, and the unverified beginning of the next ones in memory.

    Pieces of a large content are hashed and written in a second thread while the next ones arrive. At most
    `_MOST_WAITING` wait there, and nothing counts as verified before that thread has written it.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self._path = path
        self.content = content
        self._pending = bytearray()
        self.verified = 0
        self._unflushed = 0
        self._second = ThreadPoolExecutor(1) if content.size >= _LARGE_BYTES else None
        self._waiting: deque[tuple[Future[bool], int]] = deque()

    def __enter__(self) -> "_Part":
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._handle = os.open(self._path, flags, 0o644)
        except OSError as error:
            if self._path.is_symlink():
                raise IntegrityError(f"{self._path}: expected a regular file, got a link; remove it") from error
            raise
        self._recover()
        return self

    def __exit__(self, *ended: object) -> None:
        try:
            if self._second is not None:
                self._second.shutdown()
            os.fsync(self._handle)
        finally:
            os.close(self._handle)

    @property
    def offset(self) -> int:
        """The place of the next byte to fetch."""
        return self._begun + len(self._pending)

    @property
    def is_complete(self) -> bool:
        return self.verified == self.content.size

    def feed(self, chunk: bytes, source: str) -> None:
        """Take bytes that follow; raise TransferError where a piece turns out wrong."""
        self._pending += chunk
        while self._pending and len(self._pending) >= (length := self._length_at(self._begun)):
            place = self._begun
            if self._second is None:
                with memoryview(self._pending) as view, view[:length] as piece:
                    is_right = self._keep(piece, place)
                self._count(is_right, length, source)
            else:
                with memoryview(self._pending) as view:
                    self._waiting.append((self._second.submit(self._keep, bytes(view[:length]), place), length))
            del self._pending[:length]
            if len(self._waiting) > _MOST_WAITING:
                self._first_done(source)

    def settle(self, source: str) -> None:
        """Wait for what is being written; raise TransferError where a piece turns out wrong."""
        while self._waiting:
            self._first_done(source)

    @property
    def _begun(self) -> int:
        return self.verified + sum(length for _, length in self._waiting)

    def _first_done(self, source: str) -> None:
        future, length = self._waiting.popleft()
        self._count(future.result(), length, source)

    def _count(self, is_right: bool, length: int, source: str) -> None:
        if is_right:
            self.verified += length
            return
        while self._waiting:  # what follows a wrong piece is fetched again
            self._waiting.popleft()[0].result()
        os.ftruncate(self._handle, self.verified)
        self._pending.clear()
        number = self.verified // self.content.piece_size
        raise TransferError(f"{source}: piece {number} is not the one that was signed")

    def _keep(self, piece: bytes | memoryview, place: int) -> bool:
        """Write a piece where it is the one that was signed; tells whether it is."""
        if not self._is_right(piece, place):
            return False
        done = 0
        while done < len(piece):
            done += os.pwrite(self._handle, piece[done:], place + done)
        self._unflushed += len(piece)
        if self._unflushed >= _FLUSH_BYTES:  # keeps what a power cut costs small, and the last flush short
            os.fdatasync(self._handle)
            self._unflushed = 0
        return True

    def _recover(self) -> None:
        """Keep the verified pieces of an earlier run, cut off the rest."""
        while not self.is_complete:
            piece = os.pread(self._handle, self._length_at(self.verified), self.verified)
            if len(piece) < self._length_at(self.verified) or not self._is_right(piece, self.verified):
                break
            self.verified += len(piece)
        os.ftruncate(self._handle, self.verified)

    def _length_at(self, place: int) -> int:
        return min(self.content.piece_size, self.content.size - place)

    def _is_right(self, piece: bytes | memoryview, place: int) -> bool:
        return hashlib.sha256(piece).hexdigest() == self.content.pieces[place // self.content.piece_size]


class _Absent(TransferError):
    """This mirror does not have it, and said so."""


class _BadRange(TransferError):
    """The answer is not the range that was asked for."""


class _TimeUp(TransferError):
    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject}: the time for this run is up; the next one resumes")


class _Later(TransferError):
    def __init__(self, url: str, status: int, seconds: float | None) -> None:
        super().__init__(f"{url}: answered {status}")
        self.seconds = seconds


def _check_head(reply: Reply, url: str, start: int, size: int) -> int:
    """Return how many bytes to skip: none after a right 206, `start` where the server ignores ranges."""
    if reply.status == 200:
        return _check_whole(reply, url, start)
    _check_status(reply, url)
    if reply.status == 416:
        raise _BadRange(f"{url}: refused the range from {start}")
    if reply.status != 206:
        raise TransferError(f"{url}: expected 206 or 200, got {reply.status}")
    match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if match is None or (int(match[1]), int(match[2]), int(match[3])) != (start, size - 1, size):
        got = reply.headers.get("Content-Range", "none")
        raise _BadRange(f"{url}: expected bytes {start}-{size - 1}/{size}, got {got[:80]!r}")
    _check_coding(reply, url)
    return 0


def _check_whole(reply: Reply, url: str, start: int) -> int:
    _check_status(reply, url)
    if reply.status != 200:
        raise TransferError(f"{url}: expected 200, got {reply.status}")
    _check_coding(reply, url)
    return start


def _check_coding(reply: Reply, url: str) -> None:
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        raise TransferError(f"{url}: came compressed, though that was not asked for")


def _check_status(reply: Reply, url: str) -> None:
    if reply.status in (404, 410):
        raise _Absent(f"{url}: answered {reply.status}")
    if reply.status in (408, 425, 429) or reply.status >= 500:
        raise _Later(url, reply.status, retry_after(reply))
    if 300 <= reply.status < 400:
        to = reply.headers.get("Location", "?")
        raise TransferError(f"{url}: redirects are not followed; give the final address (it points to {to[:120]})")


def retry_after(reply: Reply) -> float | None:
    """Return the seconds a server asks to wait, at most an hour; None where it says nothing readable."""
    text = reply.headers.get("Retry-After", "").strip()
    if text.isdecimal() and len(text) < 9:
        return float(min(int(text), 3600))
    try:
        until = parsedate_to_datetime(text)
        date = parsedate_to_datetime(reply.headers.get("Date", ""))
    except (TypeError, ValueError, IndexError):
        return None
    return min(max(0.0, (until - date).total_seconds()), 3600.0)
