"""Ed25519 signatures over a manifest's bytes, in a DSSE envelope.

https://github.com/secure-systems-lab/dsse — made and checked by securesystemslib. Verifying needs no compiled
package; signing and `keygen` need `cryptography` as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from doorstep.decoding import parse_json
from doorstep.errors import FormatError, MissingExtraError, SignatureError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from securesystemslib.signer import CryptoSigner

PAYLOAD_TYPE = "application/vnd.doorstep.manifest.v1+json"
TRUST_VARIABLE = "DOORSTEP_TRUST_KEY"
TRUST_FILES = ("~/.config/doorstep/trust.pub", "/etc/doorstep/trust.pub")
_MAX_KEY_BYTES = 64 << 10


class TrustKey(NamedTuple):
    """The public half of a signing key: 64 hexadecimal digits of Ed25519."""

    public: str

    @classmethod
    def load(cls, path: str | Path) -> TrustKey:
        """Read a `.pub` file written by `doorstep keygen`.

        Raises:
            SignatureError: missing or no public key. A trust key that cannot be read never means "no trust key".
        """
        try:
            with open(os.path.expanduser(path), "rb") as file:
                plain = parse_json(file.read(_MAX_KEY_BYTES), str(path))
            public = plain["keyval"]["public"]
            if plain["keytype"] != "ed25519" or len(bytes.fromhex(public)) != 32:
                raise ValueError(plain["keytype"])
        except (OSError, KeyError, TypeError, ValueError, FormatError) as error:
            raise SignatureError(f"{path}: expected an Ed25519 public key by doorstep keygen ({error})") from error
        return cls(public)

    @classmethod
    def configured(cls) -> TrustKey | None:
        """Return the key named by DOORSTEP_TRUST_KEY, else by a trust file, else None.

        Raises:
            SignatureError: a key is configured and cannot be read.
        """
        if path := os.environ.get(TRUST_VARIABLE):
            return cls.load(path)
        for name in TRUST_FILES:
            if _stands(os.path.expanduser(name)):
                return cls.load(name)
        return None


def keygen(private: Path) -> Path:
    """Write a new private key to `private` (PEM, mode 600) and the public one to `private`.pub; return the latter.

    Raises:
        UsageError: a key stands there already.
    """
    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path}: exists already; keys are never overwritten")
    import json

    from doorstep.files import write_atomic

    signer = _crypto_signer().generate_ed25519()
    private.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(private, signer.private_bytes, mode=0o600)
    write_atomic(public, json.dumps(signer.public_key.to_dict(), indent=2).encode() + b"\n")
    return public


def sign_manifest(data: bytes, private: Path) -> bytes:
    """Return the bytes of a DSSE envelope around `data`, signed with the PEM key at `private`.

    Raises:
        SignatureError: the key cannot be read.
    """
    crypto_signer = _crypto_signer()
    import json

    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope

    try:
        signer = crypto_signer(load_pem_private_key(private.read_bytes(), None))
    except (OSError, ValueError, TypeError) as error:
        raise SignatureError(f"{private}: expected a PEM private key by doorstep keygen ({error})") from error
    envelope = Envelope(data, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=2).encode() + b"\n"


def verify_envelope(envelope: bytes | None, data: bytes, trust: TrustKey) -> str:
    """Check that `envelope` holds exactly `data`, signed by `trust`; return that public key.

    Raises:
        SignatureError: unsigned, another payload, another key, or damaged.
    """
    if envelope is None:
        raise SignatureError("the bundle is not signed and a trust key is configured; sign it: doorstep sign")
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import SSlibKey
    except ImportError as error:
        raise MissingExtraError.of("securesystemslib, which verifies signatures,", "signed") from error

    try:
        plain: Any = parse_json(envelope, "manifest.sig.json")
        parsed = Envelope.from_dict(plain)
        if parsed.payload_type != PAYLOAD_TYPE or parsed.payload != data:
            raise SignatureError("the signature is for another manifest; sign it again: doorstep sign")
        # DSSE leaves the key id a hint, so it is set to the one key that can count.
        signatures = list(parsed.signatures.values())[:16]
        for signature in signatures:
            key = SSlibKey(signature.keyid, "ed25519", "ed25519", {"public": trust.public})
            try:
                key.verify_signature(signature, parsed.pae())
            except UnverifiedSignatureError:
                continue
            return trust.public
    except (FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SignatureError(f"the signature cannot be read ({type(error).__name__}: {error!s:.100})") from error
    raise SignatureError(f"none of {len(signatures)} signatures is by the trusted key {trust.public[:12]}…")


def _stands(path: str) -> bool:
    """Tell whether something stands at `path`; what cannot be looked at counts as standing there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _crypto_signer() -> type[CryptoSigner]:
    try:
        import cryptography  # noqa: F401 -- securesystemslib signs through it
        from securesystemslib.signer import CryptoSigner
    except ImportError as error:
        raise MissingExtraError.of("cryptography, which makes signatures,", "sign") from error
    signer: type[CryptoSigner] = CryptoSigner
    return signer
