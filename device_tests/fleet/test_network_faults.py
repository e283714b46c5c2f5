"""Faults 6 to 18, 36 and 37: what a network and a web server can do to a transfer."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_tests.fleet.fault_server import Exchange, Fault, Served, serving
from device_tests.fleet.world import PIECE, ObedientClock, World, model, noise
from doorstep.errors import TransferError
from doorstep.fleet import download
from doorstep.fleet.clock import Clock, SystemClock
from doorstep.fleet.download import Downloader, Limits
from doorstep.fleet.kept import Outcome
from doorstep.fleet.publishing import cut
from doorstep.fleet.release import Content
from doorstep.fleet.transport import AnyTransport, Network

SIZE = 400_000
PIECE_SIZE = 64 << 10
QUICK = Limits(min_rate=0, tries=6, backoff_s=0.01, backoff_most_s=0.02, deadline_s=60)


@pytest.fixture(params=["one thread", "two threads"], autouse=True)
def _threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large contents are written by a second thread, small ones are not; every fault meets both."""
    if request.param == "two threads":
        monkeypatch.setattr(download, "_LARGE_BYTES", 0)


@pytest.fixture
def blob(tmp_path: Path) -> Content:
    """A file of 400 kB in the folder that is served, in pieces of 64 KiB."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/blob").write_bytes(noise(SIZE, 3))
    return cut(tmp_path / "served/blob", PIECE_SIZE)


@pytest.fixture
def server(tmp_path: Path, blob: Content) -> Iterator[Served]:
    with serving(tmp_path / "served") as served:
        yield served


def downloader(*mirrors: str, limits: Limits = QUICK, clock: Clock | None = None) -> Downloader:
    return Downloader(AnyTransport(Network(5.0, 1.0)), mirrors, limits, clock or SystemClock())


def fetch(one: Downloader, blob: Content, part: Path) -> bytes:
    one.fetch(blob, "blob", part)
    return part.read_bytes()


def closes_early(exchange: Exchange) -> bool:
    exchange.range_head()
    exchange.send(exchange.body[:50_000])
    exchange.close()
    return True


def tells_less(exchange: Exchange) -> bool:
    exchange.range_head(length=min(50_000, len(exchange.body)))
    exchange.send(exchange.body[:50_000])
    return True


def resets(exchange: Exchange) -> bool:
    exchange.range_head()
    exchange.send(exchange.body[:100_000])
    time.sleep(0.05)  # the bytes on their way are to arrive before the reset
    exchange.reset()
    return True


def ignores_ranges(exchange: Exchange) -> bool:
    exchange.head(200, Content_Length=len(exchange.data))
    exchange.send(exchange.data)
    return True


def is_busy_twice(exchange: Exchange) -> bool:
    if exchange.number % 3 == 0:
        return False
    exchange.head(503 if exchange.number % 3 == 1 else 500, Content_Length=0)
    return True


def stalls_once(exchange: Exchange) -> bool:
    if exchange.number > 1:
        return False
    exchange.range_head()
    exchange.send(exchange.body[:70_000])
    exchange.handler.served.stop.wait(10)
    return True


def is_silent_once(exchange: Exchange) -> bool:
    if exchange.number > 1:
        return False
    exchange.handler.served.stop.wait(10)
    return True


@pytest.mark.parametrize(
    ("fault", "extra"),
    [
        pytest.param(closes_early, 0, id="6 closed early"),
        pytest.param(tells_less, 0, id="7 a short length"),
        pytest.param(resets, PIECE_SIZE, id="8 reset again and again"),
        pytest.param(ignores_ranges, 0, id="11 ranges are ignored"),
        pytest.param(is_busy_twice, 0, id="16 every third answer is good"),
        pytest.param(stalls_once, PIECE_SIZE, id="15 stalls"),
        pytest.param(is_silent_once, 0, id="15 no answer"),
    ],
)
def test_an_interrupted_transfer_ends_with_the_right_bytes(
    server: Served, blob: Content, tmp_path: Path, fault: Fault, extra: int
) -> None:
    server.misbehave("blob", fault)
    one = downloader(server.address)
    assert fetch(one, blob, tmp_path / "part") == noise(SIZE, 3)
    assert one.tally.received <= SIZE + extra


def test_a_server_that_ignores_ranges_does_not_lose_what_was_fetched_before(
    server: Served, blob: Content, tmp_path: Path
) -> None:
    (tmp_path / "part").write_bytes(noise(SIZE, 3)[:200_000])
    server.misbehave("blob", ignores_ranges)
    assert fetch(downloader(server.address), blob, tmp_path / "part") == noise(SIZE, 3)


def flips(exchange: Exchange) -> bool:
    body = bytearray(exchange.body)
    if len(body) > 300_000 - exchange.first > 0:
        body[300_000 - exchange.first] ^= 4
    exchange.range_head()
    exchange.send(bytes(body))
    return True


def test_9_a_flipped_bit_costs_a_piece_and_another_mirror_mends_it(
    server: Served, blob: Content, tmp_path: Path
) -> None:
    server.misbehave("blob", flips)
    with serving(tmp_path / "served") as good:
        one = downloader(server.address, good.address)
        assert fetch(one, blob, tmp_path / "part") == noise(SIZE, 3)
        assert good.sent <= SIZE - 4 * PIECE_SIZE


def test_9_a_flipped_bit_everywhere_stops_after_some_tries_and_keeps_the_good_pieces(
    server: Served, blob: Content, tmp_path: Path
) -> None:
    server.misbehave("blob", flips)
    with pytest.raises(TransferError, match="piece 4 is not the one that was signed"):
        fetch(downloader(server.address), blob, tmp_path / "part")
    assert len(server.requests) <= QUICK.tries + 1
    assert (tmp_path / "part").read_bytes() == noise(SIZE, 3)[: 4 * PIECE_SIZE]


def bad_range(text: str) -> Fault:
    def fault(exchange: Exchange) -> bool:
        if not exchange.is_range:
            return False
        exchange.head(206, Content_Range=text, Content_Length=len(exchange.body))
        exchange.send(exchange.body)
        return True

    return fault


@pytest.mark.parametrize(
    "text",
    ["", "bytes", "bytes 1-399999/400000", "bytes 0-399998/400000", "bytes 0-399999/*", "bytes 0-399999/500000",
     "bytes 0-1/400000, bytes 0-399999/400000", "octets 0-399999/400000", "bytes -1-399999/400000", "bytes 0-9e9/1"],
)  # fmt: skip
def test_12_an_answer_of_another_range_is_refused_and_then_ranges_are_given_up(
    server: Served, blob: Content, tmp_path: Path, text: str
) -> None:
    server.misbehave("blob", bad_range(text))
    assert fetch(downloader(server.address), blob, tmp_path / "part") == noise(SIZE, 3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("stale", [b"x" * 500_000, b"x" * SIZE, noise(SIZE, 3) + b"more", noise(70_000, 3) + b"y" * 99])
def test_13_a_stale_part_is_cut_to_its_verified_pieces(
    server: Served, blob: Content, tmp_path: Path, stale: bytes
) -> None:
    (tmp_path / "part").write_bytes(stale)
    assert fetch(downloader(server.address), blob, tmp_path / "part") == noise(SIZE, 3)


def refuses_ranges(exchange: Exchange) -> bool:
    if exchange.is_range:
        exchange.head(416, Content_Length=0)
    return exchange.is_range


def test_13_a_416_leads_to_a_transfer_without_ranges(server: Served, blob: Content, tmp_path: Path) -> None:
    server.misbehave("blob", refuses_ranges)
    assert fetch(downloader(server.address), blob, tmp_path / "part") == noise(SIZE, 3)


def trickles(exchange: Exchange) -> bool:
    exchange.range_head()
    for place in range(0, len(exchange.body), 20):
        if exchange.handler.served.stop.wait(0.02):
            return True
        exchange.send(exchange.body[place : place + 20])
    return True


def test_14_a_trickle_is_dropped(server: Served, blob: Content, tmp_path: Path) -> None:
    server.misbehave("blob", trickles)
    limits = Limits(min_rate=20_000, window_s=0.2, tries=2, backoff_s=0.01)
    with pytest.raises(TransferError, match="slower than 20000 bytes a second"):
        fetch(downloader(server.address, limits=limits), blob, tmp_path / "part")
    assert len(server.requests) == 2


def test_the_deadline_ends_a_transfer(server: Served, blob: Content, tmp_path: Path) -> None:
    server.misbehave("blob", trickles)
    limits = Limits(min_rate=0, deadline_s=0.3, tries=2)
    with pytest.raises(TransferError, match="time for this run is up"):
        fetch(downloader(server.address, limits=limits), blob, tmp_path / "part")


@pytest.mark.parametrize(
    ("said", "waited"),
    [("7", 7.0), ("99999", 3600.0), ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0), ("soon", None), ("-5", None)],
)
def test_16_a_server_that_is_busy_is_left_alone_as_long_as_it_asks(
    server: Served, blob: Content, tmp_path: Path, said: str, waited: float | None
) -> None:
    def busy(exchange: Exchange) -> bool:
        if exchange.number > 1:
            return False
        exchange.handler.send_response_only(429)
        exchange.handler.send_header("Date", "Sun, 01 Mar 2026 12:00:00 GMT")
        exchange.handler.send_header("Retry-After", said)
        exchange.handler.send_header("Content-Length", "0")
        exchange.handler.end_headers()
        return True

    server.misbehave("blob", busy)
    clock = ObedientClock()
    limits = Limits(tries=3)
    assert fetch(downloader(server.address, clock=clock, limits=limits), blob, tmp_path / "part") == noise(SIZE, 3)
    assert len(clock.slept) == 1
    assert clock.slept[0] == waited if waited is not None else 0.5 <= clock.slept[0] <= 1.0


def test_17_a_blob_that_is_nowhere_is_asked_for_once_at_every_mirror(
    server: Served, blob: Content, tmp_path: Path
) -> None:
    one = downloader(server.address, f"{server.address}/other")
    with pytest.raises(TransferError, match="no mirror has it"):
        one.fetch(blob, "missing", tmp_path / "part")
    assert server.requests == ["missing", "other/missing"]


def is_endless(exchange: Exchange) -> bool:
    exchange.head(206, Content_Range=f"bytes {exchange.first}-{exchange.last}/{len(exchange.data)}")
    exchange.send(exchange.body)
    while not exchange.handler.served.stop.is_set():
        exchange.send(bytes(100_000))
    return True


def test_18_an_endless_body_is_cut_at_the_signed_size(server: Served, blob: Content, tmp_path: Path) -> None:
    server.misbehave("blob", is_endless)
    one = downloader(server.address)
    assert fetch(one, blob, tmp_path / "part") == noise(SIZE, 3)
    assert one.tally.received <= SIZE + (1 << 20)


def test_18_endless_metadata_is_cut(web: Callable[..., Outcome], served: Served) -> None:
    def endless(exchange: Exchange) -> bool:
        exchange.head(200)
        while not exchange.handler.served.stop.is_set():
            exchange.send(b" " * 10_000)
        return True

    served.misbehave("timestamp.json", endless)
    outcome = web()
    assert (outcome.kind, "expected at most 16384 bytes" in outcome.text) == ("failed", True)


def test_36_content_replaced_while_it_is_fetched_is_not_mixed(server: Served, blob: Content, tmp_path: Path) -> None:
    def other_bytes(exchange: Exchange) -> bool:
        if exchange.number == 1:
            return closes_early(exchange)
        if exchange.number == 2:
            exchange.range_head()
            exchange.send(noise(SIZE, 4)[exchange.first :])
            return True
        return False

    server.misbehave("blob", other_bytes)
    assert fetch(downloader(server.address), blob, tmp_path / "part") == noise(SIZE, 3)


def portal(exchange: Exchange) -> bool:
    page = b"<html>Welcome to the airport</html>"
    exchange.head(200, Content_Length=len(page), Content_Type="text/html")
    exchange.send(page)
    return True


def redirects(exchange: Exchange) -> bool:
    exchange.head(302, Location="http://127.0.0.1:1/elsewhere", Content_Length=0)
    return True


@pytest.mark.parametrize("fault", [pytest.param(portal, id="a page"), pytest.param(redirects, id="a redirect")])
def test_37_a_captive_portal_changes_nothing(
    world: World, web: Callable[..., Outcome], served: Served, fault: Fault
) -> None:
    assert web().kind == "updated"
    world.publish(2)
    served.misbehave("", fault)
    assert web().kind == "failed"
    assert world.served() == "1"


def test_37_content_from_a_captive_portal_is_refused(server: Served, blob: Content, tmp_path: Path) -> None:
    server.misbehave("blob", redirects)
    with pytest.raises(TransferError, match="redirects are not followed"):
        fetch(downloader(server.address), blob, tmp_path / "part")


def test_a_transfer_that_was_killed_resumes_at_the_last_whole_piece(
    server: Served, blob: Content, tmp_path: Path
) -> None:
    (tmp_path / "part").write_bytes(noise(SIZE, 3)[: 3 * PIECE_SIZE + 1000])
    one = downloader(server.address)
    assert fetch(one, blob, tmp_path / "part") == noise(SIZE, 3)
    assert one.tally.received == SIZE - 3 * PIECE_SIZE


def test_only_what_the_device_lacks_is_fetched(world: World, web: Callable[..., Outcome], served: Served) -> None:
    assert web().kind == "updated"
    served.requests.clear()
    world.publish(2, has_deltas=False)
    outcome = web()
    blobs = [path for path in served.requests if path.startswith("blobs/")]
    assert outcome.kind == "updated"
    assert len(blobs) == 3  # the manifest, the model, the labels: not the tokenizer, not the golden examples
    assert outcome.received < len(model(2)) + 2 * PIECE


def test_an_idle_visit_is_two_requests_of_less_than_a_kilobyte(
    world: World, web: Callable[..., Outcome], served: Served
) -> None:
    assert web().kind == "updated"
    served.requests.clear()
    served.sent = 0
    assert web().kind == "current"
    assert sorted(served.requests) == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert served.sent < 1000
