"""The errors doorstep raises, one leaf for each thing a caller can do about it.

    DoorstepError
    ├── BundleError               the bundle cannot be used as it is
    │   ├── FormatError           the manifest is malformed, too large or of a newer format
    │   ├── IntegrityError        bytes on disk are not the bytes the manifest lists
    │   └── SignatureError        no valid signature by a trusted key
    ├── ConversionError           a checkpoint did not become a bundle
    │   ├── BudgetError           no candidate keeps to the budget; the nearest are in the message
    │   ├── CheckpointError       the checkpoint cannot be read or is of no supported kind
    │   ├── DataError             the labelled data cannot be used
    │   └── ParityError           no variant answers like the checkpoint
    ├── EngineError               an engine refused a model or failed while running it
    ├── FleetError                a bundle could not be published, or did not reach this device
    │   ├── DepotError            the depot's folder or its keys do not allow what was asked
    │   ├── StoreError            the device's store is busy, full, or holds nothing to serve
    │   ├── TransferError         bytes could not be fetched; a later try may succeed
    │   └── TrustError            signed metadata was refused: wrong key, replayed, expired, below the floor
    ├── IncompatibleError         no variant of the bundle fits this device
    ├── InputError                an item given to `predict` has the wrong type, size or content
    ├── MissingExtraError         a package is not installed; the message holds the command
    └── UsageError                an argument is misspelt or out of range

Messages name the subject, what was expected, what was found, and what to do.
"""


class DoorstepError(Exception):
    """Anything doorstep knows how to explain in one line."""


class BundleError(DoorstepError):
    """The bundle cannot be used as it is."""


class FormatError(BundleError):
    """The manifest is malformed, too large, or of a newer format version."""


class IntegrityError(BundleError):
    """Files are missing, added, linked, truncated or altered."""


class SignatureError(BundleError):
    """The signature is missing, damaged, or made by a key that is not trusted."""


class ConversionError(DoorstepError):
    """A checkpoint did not become a bundle."""


class BudgetError(ConversionError):
    """No candidate keeps to the budget."""


class CheckpointError(ConversionError):
    """The checkpoint cannot be read, or its kind is not supported."""


class DataError(ConversionError):
    """The data set cannot be used for this job."""


class ParityError(ConversionError):
    """No variant answers like the checkpoint."""


class EngineError(DoorstepError):
    """An engine refused a model, or failed while running it."""


class FleetError(DoorstepError):
    """A bundle could not be published, or did not reach this device."""


class DepotError(FleetError):
    """The depot's folder or its keys do not allow what was asked."""


class StoreError(FleetError):
    """The device's store is busy, full, or holds nothing that can be served."""


class TransferError(FleetError):
    """Bytes could not be fetched; a later try may succeed."""


class TrustError(FleetError):
    """Signed metadata was refused: a wrong key, a replay, expired, or below this device's floor."""


class IncompatibleError(DoorstepError):
    """No variant of the bundle fits this device."""


class InputError(DoorstepError):
    """An item given to `predict` has the wrong type, size or content."""


class MissingExtraError(DoorstepError):
    """A package is not installed."""

    @classmethod
    def of(cls, subject: str, extra: str) -> "MissingExtraError":
        """Name the command that installs `extra`, or doorstep itself where that is ""."""
        return cls(f"{subject} is not installed; run: {install_command(extra)}")


class UsageError(DoorstepError):
    """An argument is misspelt or out of range."""


def install_command(extra: str) -> str:
    """Return what installs an extra, or doorstep with what it always needs where `extra` is ""."""
    return f"pip install 'doorstep[{extra}]'" if extra else "pip install doorstep"
