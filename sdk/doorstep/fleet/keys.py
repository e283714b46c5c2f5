"""The publisher's keys: a folder that is never served, one PEM file a key, or an address of a key elsewhere.

A file `NAME.uri` beside `NAME.pub` holds an address in securesystemslib's form (`hsm:`, `awskms:`, `gcpkms:`,
`file2:` …), so that a key may live in a module or a cloud.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from doorstep.decoding import parse_json
from doorstep.errors import DepotError
from doorstep.files import write_atomic

_MAX_BYTES = 64 << 10


class KeyRing:
    """The keys in one folder. Made by `KeyRing.open`."""

    def __init__(self, folder: Path, signers: dict[str, Signer]) -> None:
        self.folder = folder
        self._signers = signers

    @classmethod
    def open(cls, folder: Path) -> "KeyRing":
        """Read every key in `folder`.

        Raises:
            DepotError: no such folder, or a file in it is no key.
        """
        if not folder.is_dir():
            raise DepotError(f"{folder}: expected the folder of the depot's keys; name it with --keys")
        signers = [_read_pem(path) for path in sorted(folder.glob("*.pem"))]
        signers += [_read_uri(path) for path in sorted(folder.glob("*.uri"))]
        return cls(folder, {signer.public_key.keyid: signer for signer in signers})

    def make(self, name: str) -> Key:
        """Make a new Ed25519 key and keep it as `name`.pem (mode 600) and `name`.pub.

        Raises:
            DepotError: a key of that name is there.
        """
        path = self.folder / f"{name}.pem"
        if path.exists():
            raise DepotError(f"{path}: exists already; keys are never overwritten")
        signer = CryptoSigner.generate_ed25519()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, signer.private_bytes, mode=0o600)
        write_atomic(path.with_suffix(".pub"), json.dumps(signer.public_key.to_dict(), indent=2).encode() + b"\n")
        self._signers[signer.public_key.keyid] = signer
        return signer.public_key

    def unused_name(self, role: str) -> str:
        """Return `role`-N with the lowest N that no key here has."""
        number = 1
        while any((self.folder / f"{role}-{number}{suffix}").exists() for suffix in (".pem", ".pub", ".uri")):
            number += 1
        return f"{role}-{number}"

    def signers(self, role: str, key_ids: list[str], threshold: int) -> list[Signer]:
        """Return the keys here that may sign for `role`.

        Raises:
            DepotError: fewer than `threshold`.
        """
        found = [self._signers[key_id] for key_id in key_ids if key_id in self._signers]
        if len(found) < threshold:
            raise DepotError(
                f"{self.folder}: role {role!r} needs {threshold} of {len(key_ids)} keys to sign, {len(found)} are "
                f"here; bring the folder that holds them (--keys)"
            )
        return found


def _read_pem(path: Path) -> Signer:
    try:
        with open(path, "rb") as file:
            return CryptoSigner(load_pem_private_key(file.read(_MAX_BYTES), None))
    except (OSError, ValueError, TypeError) as error:
        raise DepotError(f"{path}: expected a PEM private key without a password ({error!s:.120})") from error


def _read_uri(path: Path) -> Signer:
    try:
        plain = parse_json(path.with_suffix(".pub").read_bytes()[:_MAX_BYTES], path.with_suffix(".pub").name)
        key_id = plain.pop("keyid", None) or path.stem
        return Signer.from_priv_key_uri(path.read_text()[:4096].strip(), SSlibKey.from_dict(key_id, plain))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DepotError(f"{path}: expected the address of a key, and its {path.stem}.pub ({error!s:.120})") from error
