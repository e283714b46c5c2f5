"""Whatever bytes come over the network, a decoder refuses them with a known error or reads what was meant."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_tests.fleet.decoders import READERS, samples, with_value
from doorstep.fleet.release import Content, Release, ReleaseFile, encode_release, piece_size_for

SAMPLES = samples()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
everyone = pytest.mark.parametrize("name", sorted(READERS))
documents = pytest.mark.parametrize("name", ["channel", "manifest", "release"])


@everyone
def test_a_sample_is_accepted(name: str) -> None:
    assert READERS[name](SAMPLES[name])


@everyone
@QUICK
@given(data=st.binary(max_size=400))
def test_noise_is_refused(name: str, data: bytes) -> None:
    assert not READERS[name](data)


@everyone
@QUICK
@given(places=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4), value=st.integers(1, 255), cut=st.booleans())
def test_changed_bytes_are_refused_or_read_as_they_stand(name: str, places: list[int], value: int, cut: bool) -> None:
    data = bytearray(SAMPLES[name])
    for place in places:
        data[place % len(data)] ^= value
    if cut:
        del data[places[0] % len(data) :]
    READERS[name](bytes(data))


@documents
@QUICK
@given(place=st.integers(0, 1 << 20), value=JSON)
def test_another_value_at_any_place_is_refused_or_read_as_it_stands(name: str, place: int, value: Any) -> None:
    READERS[name](with_value(SAMPLES[name], place, value))


@QUICK
@given(places=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_delta_with_other_numbers_in_its_heads_never_gives_other_bytes(places: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLES["delta"])
    for place, value in places:
        data[place % len(data)] = value
    READERS["delta"](bytes(data))


def test_500_mb_are_described_in_less_than_64_kb() -> None:
    size, digest = 500_000_000, "ab" * 32
    piece = piece_size_for(size)
    weights = Content(digest, size, piece, (digest,) * -(-size // piece))
    files = (ReleaseFile("manifest.json", Content(digest, 20, piece, (digest,))), ReleaseFile("model.bin", weights))
    release = Release(1, "reviews", "1.0", 7, "2026-01-01T00:00:00Z", digest, files)
    assert len(encode_release(release)) <= 64_000
