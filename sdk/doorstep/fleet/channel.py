"""A channel: which release devices should run, who goes first, and what healthy means. A TUF target by a role of its
own, so that a stolen channel key can only choose among signed releases.
"""

import json
import re
from dataclasses import asdict, dataclass, field

from doorstep.decoding import decode_json
from doorstep.errors import FormatError
from doorstep.fleet.clock import from_text
from doorstep.fleet.release import check_product, is_digest

FORMAT = 1
MAX_CHANNEL_BYTES = 1 << 20
WHOLE = 10_000
RUNNING, PAUSED, HALTED = "running", "paused", "halted"
_SUBJECT = "channel"
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")
_MOST_WAVES, _MOST_NAMES = 32, 1000


@dataclass(frozen=True, slots=True)
class Wave:
    """From the UTC time `at` on, the first `share` of 10 000 of the devices may update."""

    share: int
    at: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A release on its way to the devices.

    Attributes:
        salt: mixed into the hash that orders the devices, so that not always the same ones go first.
        state: `running`, `paused` (those not there yet wait) or `halted` (trials go back, too).
        spread_minutes: the devices of a wave start at even distances over this time, or until the next wave.
        cohorts: devices with one of these labels go at once.
        devices: sha256 of the ids of devices that go at once.
        deny: devices with one of these labels never go.
    """

    seq: int
    id: str
    salt: str
    state: str
    waves: tuple[Wave, ...]
    spread_minutes: int = 60
    cohorts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """What a release on trial must show before it is committed.

    Attributes:
        confirm_requests: answers an app must have got from it.
        confirm_minutes: where no app is told, the agent commits after this time.
        max_error_rate: share of failed requests (0 to 1).
        max_p95_ms: of the requests, and of the golden examples in the self-test.
        max_rss_mib: peak memory of the self-test.
        shadow_share: share of the requests that the candidate answers beside the active bundle first (0 to 1).
        min_agreement: share of shadowed requests that must get the same label (0 to 1).
    """

    confirm_requests: int = 20
    confirm_minutes: int = 30
    max_error_rate: float = 0.02
    max_p95_ms: float | None = None
    max_rss_mib: float | None = None
    shadow_share: float = 0.0
    min_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """How often devices ask (s), and by what share that varies (0 to 1)."""

    seconds: int = 900
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class Channel:
    """A product's channel.

    Attributes:
        epoch: counts the changes of this channel.
        default: seq of the release that everybody should run; 0 for none yet.
        min_seq: releases below it are refused even as a fallback.
        windows: local times of day at which a release may be activated: `02:00-05:00`; none for any time.
        report: address that status reports are sent to; empty for nowhere.
    """

    format: int
    product: str
    channel: str
    epoch: int
    default: int
    min_seq: int = 0
    rollout: Rollout | None = None
    health: Health = field(default_factory=Health)
    poll: Poll = field(default_factory=Poll)
    windows: tuple[str, ...] = ()
    report: str = ""


def decode_channel(data: bytes) -> Channel:
    """Decode and check a channel's bytes.

    Raises:
        FormatError: not JSON, too large, wrong types, a newer format, or out of range.
    """
    if len(data) > MAX_CHANNEL_BYTES:
        raise FormatError(f"{_SUBJECT}: expected at most {MAX_CHANNEL_BYTES} bytes, got {len(data)}")
    channel = decode_json(data, Channel, _SUBJECT, FORMAT)
    _check(channel)
    return channel


def encode_channel(channel: Channel) -> bytes:
    """Encode without spaces.

    Raises:
        FormatError: what a device would refuse is not encoded.
    """
    data = json.dumps(asdict(channel), ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    decode_channel(data)
    return data


def _check(channel: Channel) -> None:
    check_product(channel.product)
    check_product(channel.channel)
    health, poll = channel.health, channel.poll
    _require(channel.epoch >= 1 and channel.default >= 0 and channel.min_seq >= 0, "a negative number")
    _require(all(_WINDOW.fullmatch(window) for window in channel.windows), "windows other than 02:00-05:00")
    _require(
        0 <= poll.jitter <= 1 and 60 <= poll.seconds <= 31 * 86400, "a poll interval below a minute, or odd jitter"
    )
    _require(0 <= health.confirm_requests <= 10**9 and 0 <= health.confirm_minutes <= 10**6, "odd confirm bounds")
    shares = (health.max_error_rate, health.shadow_share, health.min_agreement or 0.0)
    _require(all(0 <= share <= 1 for share in shares), "a share that is not from 0 to 1")
    _require(len(channel.report) <= 2000, "a long report address")
    if channel.rollout is not None:
        _check_rollout(channel.rollout)


def _check_rollout(rollout: Rollout) -> None:
    _require(rollout.seq >= 1 and rollout.state in (RUNNING, PAUSED, HALTED), f"a rollout that is {rollout.state:.40}")
    _require(0 <= rollout.spread_minutes <= 10**6 and len(rollout.waves) <= _MOST_WAVES, "odd waves")
    names = (*rollout.cohorts, *rollout.devices, *rollout.deny)
    _require(len(names) <= _MOST_NAMES and all(len(name) <= 100 for name in names), "too many or too long names")
    _require(all(map(is_digest, rollout.devices)), "devices that are no sha256")
    try:
        starts = [from_text(wave.at) for wave in rollout.waves]
    except ValueError as error:
        raise FormatError(f"{_SUBJECT}: {error!s:.200}") from error
    shares = [wave.share for wave in rollout.waves]
    is_rising = starts == sorted(starts) and shares == sorted(set(shares))
    _require(is_rising and all(0 < share <= WHOLE for share in shares), "waves that do not rise")


def _require(is_met: bool, found: str) -> None:
    if not is_met:
        raise FormatError(f"{_SUBJECT}: {found}")
