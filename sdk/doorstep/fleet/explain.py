"""Why this device did, or did not, update: one paragraph from what the store remembers. Needs no network."""

from datetime import datetime

from doorstep.fleet.channel import WHOLE, Channel
from doorstep.fleet.clock import from_text
from doorstep.fleet.kept import Outcome
from doorstep.fleet.rollout import Subject, decide, place_of
from doorstep.fleet.settings import Kept
from doorstep.fleet.state import SHADOW, TRIAL, State


def explain(kept: Kept, state: State, channel: Channel | None, outcome: Outcome | None, now: datetime) -> str:
    """Return the paragraph."""
    sentences = [_serves(kept, state)]
    if outcome is None:
        sentences.append("No visit to the depot has ended yet.")
        return " ".join(sentences)
    sentences.append(f"The last visit to the depot was {_ago(now, outcome.time)}: {outcome.text}.")
    if outcome.is_stale:
        sentences.append("The depot's signatures were not accepted, so what it says now is not known.")
    if channel is not None:
        sentences.append(_channel(kept, channel, now))
    if state.phase == TRIAL and state.candidate is not None:
        back = f"release {state.current.id}" if state.current else "the factory's bundle"
        sentences.append(
            f"Release {state.candidate.id} is on trial since {state.began}, {state.crashes} processes died with it; if "
            f"it fails, {back} is served again."
        )
    if state.phase == SHADOW and state.candidate is not None:
        sentences.append(f"Release {state.candidate.id} answers beside the current one; an app must follow this store.")
    sentences += [f"Release {denied.id} is never tried again here: {denied.reason}." for denied in state.denied[-3:]]
    if state.damaged:
        sentences.append(f"Damaged on this disk, to be fetched again: {', '.join(state.damaged)}.")
    return " ".join(sentences)


def _serves(kept: Kept, state: State) -> str:
    what = f"{kept.product} on this device"
    if state.serving is None:
        return f"{what} serves the factory's bundle, if there is one: no release was activated yet."
    return f"{what} serves release {state.serving.id} (version {state.serving.version or 'unknown'})."


def _channel(kept: Kept, channel: Channel, now: datetime) -> str:
    subject = Subject(kept.device, frozenset(kept.labels))
    decision = decide(channel, subject, now)
    text = f"Channel {channel.channel} means release {decision.seq or 'none'} for it, because {decision.reason}."
    if channel.rollout is not None and channel.rollout.waves:
        place = place_of(channel.rollout.salt, kept.device)
        waves = ", ".join(f"{wave.share * 100 / WHOLE:g} % from {wave.at}" for wave in channel.rollout.waves)
        text += f" The waves are {waves}; this device stands at {place * 100 / WHOLE:.2f} %."
    return text


def _ago(now: datetime, then: str) -> str:
    try:
        minutes = round((now - from_text(then)).total_seconds() / 60)
    except ValueError:
        return "at an unknown time"
    if minutes < 0:
        return f"at {then}, which is still to come by this clock"
    return f"{minutes} minutes ago" if minutes < 120 else f"{minutes // 60} hours ago"
