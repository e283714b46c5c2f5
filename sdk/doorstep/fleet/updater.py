"""The short way of an update: refresh → decide → fetch → verify → stage → self-test → (shadow) → trial → commit.

One `Updater.run` is one visit to the depot. Whatever it meets, what is served stays served.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from doorstep.bundle import Bundle
from doorstep.errors import BundleError, DoorstepError, IntegrityError, TrustError
from doorstep.fleet.channel import HALTED, Channel, Health
from doorstep.fleet.clock import Clock, SystemClock, from_text, to_text
from doorstep.fleet.download import Downloader, Tally
from doorstep.fleet.kept import (
    CURRENT,
    FAILED,
    FORMAT,
    ON_TRIAL,
    REFUSED,
    UPDATED,
    WAITING,
    Outcome,
    keep_channel,
    keep_outcome,
    last_channel,
)
from doorstep.fleet.release import Release
from doorstep.fleet.rollout import Decision, decide, opens_at
from doorstep.fleet.selftest import Bounds, Verdict, prove
from doorstep.fleet.settings import Settings, keep_settings
from doorstep.fleet.staging import Staging, stage
from doorstep.fleet.state import (
    IDLE,
    TRIAL,
    Held,
    State,
    committed,
    on_shadow,
    on_trial,
    refused,
    repaired,
    rolled_back,
)
from doorstep.fleet.status import Sign, deliver, spool, status_of
from doorstep.fleet.store import Store
from doorstep.fleet.transport import AnyTransport, HttpTransport, Transport
from doorstep.fleet.trust import Signed, Trust

_MOST_TEXT = 2000

Prover = Callable[[Store, Release, Health], Verdict]


class Updater:
    """Brings one product on this device up to what its channel says."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        transport: Transport | None = None,
        prover: Prover | None = None,
    ) -> None:
        self.settings = settings
        self.store = Store.open(settings.store, settings.product, settings.factory)
        self._clock = clock or SystemClock()
        self._transport = transport or AnyTransport(settings.network)
        self._prove = prover or _prove
        self._trust = Trust(self.store.trust, settings.root, self._clock)
        self._tally = Tally()

    def run(self, *, is_checked: bool = False) -> Outcome:
        """Visit the depot once.

        Args:
            is_checked: hash all that is served first, and fetch again what is damaged.

        Raises:
            StoreError: another updater is at work; nothing was done. Every other known error is an outcome.
        """
        with self.store.updating():
            keep_settings(self.settings)
            try:
                if is_checked:
                    self._check()
                outcome = self._visit()
            except (DoorstepError, OSError) as error:
                is_stale = isinstance(error, TrustError)
                outcome = self._outcome(FAILED, f"{error!s:.{_MOST_TEXT}}", is_stale=is_stale)
                with suppress(DoorstepError, OSError):  # the first problem is the one to tell
                    self._settle(last_channel(self.store))
            keep_outcome(self.store, outcome)
            self._report(outcome)
        return outcome

    def _report(self, outcome: Outcome) -> None:
        """Keep a status report, and deliver what is kept where the channel says where to."""
        settings = self.settings
        sign = Sign(settings.device_hash, settings.product, settings.channel, tuple(sorted(settings.labels)))
        spool(self.store, status_of(self.store, sign, self.store.state(), outcome))
        channel = last_channel(self.store)
        if url := settings.report or (channel.report if channel else ""):
            deliver(self.store, url, settings.device_hash, HttpTransport(settings.network))

    def _visit(self) -> Outcome:
        signed = self._trust.refresh(self.settings.depots, self._transport)
        channel = signed.channel(self.settings.product, self.settings.channel)
        keep_channel(self.store, channel)
        state = self._settle(channel)
        decision = decide(channel, self.settings.subject, self._now())
        serving = state.serving
        if serving is not None and serving.id in state.damaged:
            return self._repair(signed, channel, decision, serving.seq)
        if state.phase != IDLE and state.candidate is not None:
            return self._outcome(ON_TRIAL, f"{state.note} since {state.began}", decision, state.candidate.seq)
        lowest = max(self._trust.floor_file.load().seq, channel.min_seq)
        if decision.seq == 0:
            return self._done(CURRENT, "nothing is meant for this device yet", decision)
        if serving is not None and decision.seq == serving.seq:
            return self._done(CURRENT, f"release {serving.id} is what this device should run", decision)
        if decision.seq < lowest:
            text = (
                f"release {decision.seq} is older than release {lowest}, and a device never goes back below what it "
                f"committed; to return to an old bundle, publish it again"
            )
            return self._done(CURRENT if serving else REFUSED, text, decision)
        return self._update(signed, channel, decision)

    def _update(self, signed: Signed, channel: Channel, decision: Decision) -> Outcome:
        release = signed.release(self.settings.product, decision.seq)
        if reason := self.store.state().why_denied(release.id):
            return self._done(REFUSED, f"release {release.id} failed on this device before: {reason}", decision)
        held = self._stage(release, self._still_wanted(release.seq))
        opening = opens_at(channel.windows, self._clock.now().astimezone())
        if opening is not None and self.store.state().current is not None:
            text = f"release {release.id} is staged; the next maintenance window opens at {opening:%Y-%m-%d %H:%M %Z}"
            return self._outcome(WAITING, text, decision)
        verdict = self._prove(self.store, release, channel.health)
        if not verdict.is_passed:
            self.store.change(lambda state: refused(state, held.id, verdict.reason))
            return self._done(REFUSED, f"release {held.id} failed its self-test: {verdict.reason}", decision)
        began = to_text(self._clock.now())
        is_shadowed = channel.health.shadow_share > 0 and self.store.state().current is not None
        enter = on_shadow if is_shadowed else on_trial
        self.store.change(lambda state: replace(enter(state, held, began), min_seq=channel.min_seq))
        state = self._settle(channel)
        if state.phase == IDLE:
            return self._done(UPDATED, f"release {held.id} is active and committed", decision)
        return self._outcome(ON_TRIAL, state.note, decision)

    def _settle(self, channel: Channel | None) -> State:
        """End a trial that was halted or has lasted long enough, and raise the floor to what is committed."""
        state = self.store.state()
        candidate = state.candidate
        health = channel.health if channel else Health()
        if channel and state.min_seq != channel.min_seq:
            state = self.store.change(lambda known: replace(known, min_seq=channel.min_seq))
        if candidate is not None:
            rollout = channel.rollout if channel else None
            is_halted = rollout is not None and rollout.state == HALTED and rollout.seq == candidate.seq
            if is_halted or candidate.seq < state.min_seq:
                reason = (
                    "its rollout was halted" if is_halted else f"releases below {state.min_seq} are no longer allowed"
                )
                state = self.store.change(lambda known: rolled_back(known, candidate.id, reason, is_denied=False))
            elif state.phase == TRIAL and self._has_soaked(state, health):
                state = self.store.change(lambda known: committed(known, candidate.id))
        if state.current is not None:
            self._trust.commit(state.current.seq, state.current.created)
        return state

    def _has_soaked(self, state: State, health: Health) -> bool:
        if health.confirm_minutes == 0:
            return health.confirm_requests == 0
        began, now = from_text(state.began), self._clock.now()
        if now < began:  # the clock was turned back: count from now
            self.store.change(lambda known: replace(known, began=to_text(now)))
            return False
        return now - began >= timedelta(minutes=health.confirm_minutes)

    def _repair(self, signed: Signed, channel: Channel, decision: Decision, seq: int) -> Outcome:
        held = self._stage(signed.release(self.settings.product, seq), lambda: True)
        self.store.change(lambda state: repaired(state, held.id))
        return self._outcome(UPDATED, f"release {held.id} was damaged on this disk and was fetched again", decision)

    def _check(self) -> None:
        serving = self.store.state().serving
        if serving is None:
            return
        try:
            Bundle.open(self.store.place(serving), trust=self.settings.trust)
        except BundleError:
            self.store.change(lambda state: replace(state, damaged=(*state.damaged, serving.id)))

    def _stage(self, release: Release, is_wanted: Callable[[], bool]) -> Held:
        settings = self.settings
        downloader = Downloader(self._transport, settings.depots, settings.limits, self._clock)
        downloader.tally = self._tally
        staging = Staging(self.store, downloader, settings.every_variant, settings.quota_bytes, settings.trust)
        try:
            return stage(staging, release, is_wanted)
        except IntegrityError:  # what was here already was damaged, and is gone now: once more with the depot's
            return stage(staging, release, is_wanted)

    def _still_wanted(self, seq: int) -> Callable[[], bool]:
        """Return what a long transfer asks now and then: does the channel still want `seq` here?"""
        asked = self._clock.monotonic()

        def is_wanted() -> bool:
            nonlocal asked
            if self._clock.monotonic() - asked < self.settings.recheck_s:
                return True
            asked = self._clock.monotonic()
            try:
                signed = self._trust.refresh(self.settings.depots, self._transport)
                channel = signed.channel(self.settings.product, self.settings.channel)
            except DoorstepError:  # no news is no reason to stop
                return True
            return decide(channel, self.settings.subject, self._now()).seq == seq

        return is_wanted

    def _is_clock_behind(self) -> bool:
        """Tell whether this machine's clock is before a time surely past: how fresh anything is, is unknown."""
        try:
            return to_text(self._clock.now()) < self._trust.floor_file.load().latest
        except TrustError:
            return True

    def _now(self) -> datetime:
        return self._trust.reference_time(self._trust.floor_file.load())

    def _done(self, kind: str, text: str, decision: Decision) -> Outcome:
        self.store.collect(wanted=set())
        return self._outcome(kind, text, decision)

    def _outcome(
        self, kind: str, text: str, decision: Decision | None = None, target: int = 0, *, is_stale: bool = False
    ) -> Outcome:
        return Outcome(
            format=FORMAT,
            kind=WAITING
            if kind == CURRENT and decision and decision.due and decision.due > self._clock.now()
            else kind,
            text=text,
            time=to_text(self._clock.now()),
            decision=decision.reason if decision else "",
            target=target or (decision.seq if decision else 0),
            received=self._tally.received,
            is_stale=is_stale or self._is_clock_behind(),
        )


def _prove(store: Store, release: Release, health: Health) -> Verdict:
    return prove(store.releases / release.id, Bounds.of(health))
