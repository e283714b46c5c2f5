"""With a trust key, only what its owner signed is used."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep import signing
from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.errors import IntegrityError, SignatureError, UsageError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.signing import TRUST_VARIABLE, TrustKey, keygen, sign_manifest

Damage = Callable[[Path, Path], Any]


def edit(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Return a damage that edits the envelope."""

    def damage(bundle: Path, keys: Path) -> None:
        plain = json.loads((bundle / SIGNATURE).read_bytes())
        change(plain)
        (bundle / SIGNATURE).write_text(json.dumps(plain))

    return damage


def write(data: bytes) -> Damage:
    return lambda bundle, keys: (bundle / SIGNATURE).write_bytes(data)


def altered_manifest(bundle: Path, keys: Path) -> None:
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b"\n")


def signed_by_theirs(bundle: Path, keys: Path) -> None:
    (bundle / SIGNATURE).write_bytes(sign_manifest((bundle / MANIFEST).read_bytes(), keys / "theirs"))


def by_theirs_under_our_name(bundle: Path, keys: Path) -> None:
    name = json.loads((bundle / SIGNATURE).read_bytes())["signatures"][0]["keyid"]
    signed_by_theirs(bundle, keys)
    edit(lambda plain: plain["signatures"][0].update(keyid=name))(bundle, keys)


def of_another_type(bundle: Path, keys: Path) -> None:
    """Sign the right bytes with the right key as something else."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    envelope = Envelope((bundle / MANIFEST).read_bytes(), "application/vnd.in-toto+json", {})
    envelope.sign(CryptoSigner(load_pem_private_key((keys / "ours").read_bytes(), None)))
    (bundle / SIGNATURE).write_text(json.dumps(envelope.to_dict()))


OTHER = base64.b64encode(b'{"format": 1}').decode()
DAMAGES: dict[str, Damage] = {
    "no signature": lambda bundle, keys: (bundle / SIGNATURE).unlink(),
    "an altered manifest": altered_manifest,
    "another key": signed_by_theirs,
    "another key under our key's name": by_theirs_under_our_name,
    "the right bytes signed as another type": of_another_type,
    "another payload": edit(lambda plain: plain.update(payload=OTHER)),
    "another payload type": edit(lambda plain: plain.update(payloadType="text/plain")),
    "no signatures in it": edit(lambda plain: plain.update(signatures=[])),
    "an empty signature": edit(lambda plain: plain["signatures"][0].update(sig="")),
    "a signature of zeros": edit(lambda plain: plain["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode())),
    "a signature that is no base64": edit(lambda plain: plain["signatures"][0].update(sig="!")),
    "a signature that is a number": edit(lambda plain: plain["signatures"][0].update(sig=3)),
    "signatures that are an object": edit(lambda plain: plain.update(signatures={})),
    "signatures that are null": edit(lambda plain: plain.update(signatures=None)),
    "a payload that is a number": edit(lambda plain: plain.update(payload=3)),
    "a payload that is no base64": edit(lambda plain: plain.update(payload="!")),
    "no payload": edit(lambda plain: plain.pop("payload")),
    "an empty file": write(b""),
    "garbage": write(b"\x00\xff garbage"),
    "a JSON list": write(b"[]"),
    "JSON null": write(b"null"),
    "deep nesting": write(b"[" * 100_000),
    "a huge file": write(b" " * (3 << 20)),
    "a link": lambda bundle, keys: (
        (bundle / SIGNATURE).rename(bundle.parent / "s") and (bundle / SIGNATURE).symlink_to(bundle.parent / "s")
    ),
    "a fifo": lambda bundle, keys: (bundle / SIGNATURE).unlink() or os.mkfifo(bundle / SIGNATURE),
}


def by_argument(bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Predictor.load(bundle, options=LoadOptions(trust=TrustKey.load(keys / "ours.pub")))


def by_variable(bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, str(keys / "ours.pub"))
    Predictor.load(bundle)


def by_file(bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path("~/.config/doorstep/trust.pub").expanduser()
    place.parent.mkdir(parents=True)
    place.write_bytes((keys / "ours.pub").read_bytes())
    Predictor.load(bundle)


WAYS = [by_argument, by_variable, by_file]


@pytest.mark.parametrize("load", WAYS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_with_a_trust_key_a_bundle_not_signed_by_it_is_refused(
    bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, load: Any
) -> None:
    damage(bundle, keys)
    with pytest.raises((SignatureError, IntegrityError)):
        load(bundle, keys, monkeypatch)


@pytest.mark.parametrize("load", WAYS)
def test_with_a_trust_key_a_bundle_signed_by_it_is_taken(
    bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, load: Any
) -> None:
    load(bundle, keys, monkeypatch)


def test_without_a_trust_key_an_unsigned_bundle_is_taken(bundle: Path) -> None:
    (bundle / SIGNATURE).unlink()
    Predictor.load(bundle).close()


def test_the_signer_is_the_trusted_key_whatever_the_envelope_calls_it(bundle: Path, trust: TrustKey) -> None:
    edit(lambda plain: plain["signatures"][0].update(keyid="the chief"))(bundle, bundle)
    assert Bundle.open(bundle, trust=trust).signer == trust.public


def test_one_good_signature_among_others_is_enough(bundle: Path, keys: Path, trust: TrustKey) -> None:
    ours = json.loads((bundle / SIGNATURE).read_bytes())
    signed_by_theirs(bundle, keys)
    edit(lambda plain: plain["signatures"].extend(ours["signatures"]))(bundle, keys)
    assert Bundle.open(bundle, trust=trust).signer == trust.public


def test_the_signature_is_checked_before_the_manifest_is_read(bundle: Path, trust: TrustKey) -> None:
    (bundle / MANIFEST).write_bytes(b"no JSON")
    with pytest.raises(SignatureError):
        Bundle.open(bundle, trust=trust)


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a folder": Path.mkdir,
    "an empty file": Path.touch,
    "no JSON": lambda path: path.write_bytes(b"\xff\x00"),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
    "another kind of key": lambda path: path.write_text('{"keytype": "rsa", "keyval": {"public": "00"}}'),
    "a short key": lambda path: path.write_text('{"keytype": "ed25519", "keyval": {"public": "00"}}'),
    "no hexadecimal": lambda path: path.write_text('{"keytype": "ed25519", "keyval": {"public": "zz"}}'),
    "a number as key": lambda path: path.write_text('{"keytype": "ed25519", "keyval": {"public": 3}}'),
    "deep nesting": lambda path: path.write_bytes(b"[" * 60_000),
}


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_a_trust_file_that_cannot_be_read_never_means_no_trust(bundle: Path, make: Callable[[Path], Any]) -> None:
    place = Path("~/.config/doorstep/trust.pub").expanduser()
    place.parent.mkdir(parents=True)
    make(place)
    with pytest.raises(SignatureError, match="doorstep keygen"):
        Predictor.load(bundle)


def test_a_trust_file_behind_a_folder_that_cannot_be_entered_never_means_no_trust(bundle: Path) -> None:
    loop = Path("~/.config/doorstep").expanduser()
    loop.parent.mkdir(parents=True)
    loop.symlink_to(loop)
    with pytest.raises(SignatureError, match="doorstep keygen"):
        Predictor.load(bundle)


@pytest.mark.parametrize("make", UNREADABLE.values(), ids=UNREADABLE)
def test_a_variable_that_names_no_key_never_means_no_trust(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any]
) -> None:
    make(tmp_path / "trust.pub")
    monkeypatch.setenv(TRUST_VARIABLE, str(tmp_path / "trust.pub"))
    with pytest.raises(SignatureError, match="doorstep keygen"):
        Predictor.load(bundle)


def test_a_variable_that_names_nothing_never_means_no_trust(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "/nowhere/trust.pub")
    with pytest.raises(SignatureError, match="doorstep keygen"):
        Predictor.load(bundle)


def test_the_argument_is_taken_before_the_variable_before_the_file(
    bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "TRUST_FILES", (str(keys / "ours"),))
    monkeypatch.setenv(TRUST_VARIABLE, str(keys / "theirs.pub"))
    assert TrustKey.configured() == TrustKey.load(keys / "theirs.pub")
    Predictor.load(bundle, options=LoadOptions(trust=TrustKey.load(keys / "ours.pub"))).close()


def test_a_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    keygen(tmp_path / "deep/key")
    assert (tmp_path / "deep/key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("standing", ["key", "key.pub"])
def test_keys_are_never_overwritten(tmp_path: Path, standing: str) -> None:
    (tmp_path / standing).write_text("precious")
    with pytest.raises(UsageError, match="never overwritten"):
        keygen(tmp_path / "key")
    assert (tmp_path / standing).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["nowhere", "ours.pub", "."])
def test_what_is_no_private_key_is_refused(keys: Path, name: str) -> None:
    with pytest.raises(SignatureError, match="PEM private key"):
        sign_manifest(b"{}", keys / name)


WITHOUT_CRYPTOGRAPHY = """
import sys
sys.modules["cryptography"] = None
from doorstep.bundle import Bundle
from doorstep.errors import MissingExtraError, SignatureError
from doorstep.signing import TrustKey, keygen
bundle, ours, theirs, new = sys.argv[1:]
print(Bundle.open(bundle, trust=TrustKey.load(ours)).signer)
for call in (lambda: Bundle.open(bundle, trust=TrustKey.load(theirs)), lambda: keygen(__import__("pathlib").Path(new))):
    try:
        call()
    except (SignatureError, MissingExtraError) as error:
        print(type(error).__name__, error)
"""


def test_a_device_verifies_without_the_cryptography_package(bundle: Path, keys: Path, trust: TrustKey) -> None:
    names = [str(bundle), str(keys / "ours.pub"), str(keys / "theirs.pub"), str(keys / "new")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY, *names], capture_output=True, text=True, check=True
    )
    signer, refusal, missing = done.stdout.splitlines()
    assert signer == trust.public
    assert refusal.startswith("SignatureError none of 1 signatures is by the trusted key")
    assert missing.endswith("cryptography, which makes signatures, is not installed; run: pip install 'doorstep[sign]'")
