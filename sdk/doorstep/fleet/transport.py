"""One GET of a stretch of bytes, over HTTP or from a folder; nothing above it knows which.

Redirects are not followed: a captive portal's is no answer, and one from https to http would undo the first.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from doorstep import __version__
from doorstep.errors import TransferError, UsageError

_DRAINED_BYTES = 4 << 10
_RETRYABLE = (urllib3.exceptions.HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class Network:
    """How to reach a depot.

    Attributes:
        connect_s, stall_s: longest time to connect, and between two bytes.
        ca: a file of CA certificates instead of the system's.
        proxy: address of a proxy; empty for what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
        agent: added to the User-Agent, so that a CDN's log shows what a device runs.
    """

    connect_s: float = 10.0
    stall_s: float = 30.0
    ca: Path | None = None
    proxy: str = ""
    agent: str = ""


class Reply(Protocol):
    """An answer whose body has not been read yet."""

    status: int
    headers: Mapping[str, str]

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes as soon as any are there; b"" at the end.

        Raises:
            TransferError: the connection broke, or nothing came in time.
        """

    def close(self) -> None:
        """Give the connection back, or drop it where the body was not read to its end."""


class Transport(Protocol):
    """What fetches."""

    def get(self, url: str, first: int | None = None, last: int | None = None) -> Reply:
        """Ask for `url`, or for its bytes `first` to `last`, both included.

        Raises:
            TransferError: no answer.
            UsageError: no address that can be fetched.
        """


class AnyTransport:
    """HTTP, HTTPS and `file://`."""

    def __init__(self, network: Network) -> None:
        self._http = HttpTransport(network)

    def get(self, url: str, first: int | None = None, last: int | None = None) -> Reply:
        return _file_reply(url, first, last) if url.startswith("file://") else self._http.get(url, first, last)


class HttpTransport:
    """HTTP and HTTPS by urllib3, connections kept."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._timeout = urllib3.Timeout(connect=network.connect_s, read=network.stall_s)
        self._pools: dict[str, urllib3.PoolManager] = {}
        agent = f"doorstep/{__version__}" + (f" ({network.agent})" if network.agent else "")
        self._headers = {"User-Agent": agent, "Accept-Encoding": "identity"}

    def get(self, url: str, first: int | None = None, last: int | None = None) -> Reply:
        headers = dict(self._headers)
        if first is not None:
            headers["Range"] = f"bytes={first}-{last}"
        try:
            response = self._pool(url).request(
                "GET", url, headers=headers, preload_content=False, decode_content=False,
                redirect=False, retries=False, timeout=self._timeout,
            )  # fmt: skip
        except _RETRYABLE as error:
            raise TransferError(f"{url}: no answer ({_reason(error)})") from error
        return _HttpReply(response, url)

    def send(self, url: str, method: str, data: bytes) -> int:
        """Send a small body and return the status; the answer's body is not read.

        Raises:
            TransferError: no answer.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            response = self._pool(url).request(
                method, url, body=data, headers=headers, preload_content=False, redirect=False, retries=False,
                timeout=self._timeout,
            )  # fmt: skip
        except _RETRYABLE as error:
            raise TransferError(f"{url}: no answer ({_reason(error)})") from error
        response.close()
        return response.status

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url[:200]}: expected an address with http://, https:// or file://")
        proxy = self._network.proxy
        if not proxy and not proxy_bypass(parts.netloc):
            proxy = getproxies().get(parts.scheme, "")
        if proxy not in self._pools:
            self._pools[proxy] = self._make_pool(proxy)
        return self._pools[proxy]

    def _make_pool(self, proxy: str) -> urllib3.PoolManager:
        try:
            context = ssl.create_default_context(cafile=str(self._network.ca) if self._network.ca else None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{self._network.ca}: expected CA certificates in PEM form ({error!s:.120})") from error
        if not proxy:
            return urllib3.PoolManager(maxsize=2, ssl_context=context)
        return urllib3.ProxyManager(proxy, maxsize=2, ssl_context=context)


class _HttpReply:
    def __init__(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def read(self, most: int) -> bytes:
        try:
            return self._response.read1(most, decode_content=False)
        except _RETRYABLE as error:
            raise TransferError(f"{self._url}: the connection broke ({_reason(error)})") from error

    def close(self) -> None:
        left = self._response.length_remaining
        if left is not None and left <= _DRAINED_BYTES:
            self._response.drain_conn()  # a connection can only be used again when nothing is left in it
            self._response.release_conn()
        else:
            self._response.close()


class _FileReply:
    def __init__(self, status: int, file: BinaryIO | None, left: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._file = file
        self._left = left

    def read(self, most: int) -> bytes:
        if self._file is None:
            return b""
        try:
            data = self._file.read(min(most, self._left))
        except OSError as error:  # a stick pulled out
            raise TransferError(f"{self._file.name}: cannot be read ({error.strerror})") from error
        self._left -= len(data)
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _file_reply(url: str, first: int | None, last: int | None) -> Reply:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{url[:200]}: expected file:///PATH, with three slashes")
    place = Path(unquote(parts.path))
    try:
        file = open(place, "rb")  # noqa: SIM115 -- closed by the reply
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return _FileReply(404, None, 0, {})
    except OSError as error:
        raise TransferError(f"{place}: cannot be read ({error.strerror})") from error
    size = file.seek(0, 2)
    if first is None or last is None:
        file.seek(0)
        return _FileReply(200, file, size, {"Content-Length": str(size)})
    if first >= size:
        file.close()
        return _FileReply(416, None, 0, {})
    last = min(last, size - 1)
    file.seek(first)
    return _FileReply(206, file, last - first + 1, {"Content-Range": f"bytes {first}-{last}/{size}"})


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error!s:.160}"
