"""What a bundle came with, what was added since, and what was taken out.

The bundle's part is memory-mapped and never written. Additions are a second part, made anew by each `add` (0.1 s for a
thousand products); `save` and `restore` keep them beside the bundle.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.files import write_atomic
from doorstep.given import plain_rows
from doorstep.search.products import Products, table
from doorstep.search.vectors import unit
from doorstep.tensors import Array

MAX_ADDED = 20_000
_SAVED = "catalogue.json"
_MAX_SAVED_BYTES = 256 << 20


class Growing:
    """Products that can be added and removed; a subclass finds them. Safe to use from several threads.

    Args:
        base: what the bundle came with.
    """

    def __init__(self, base: Products) -> None:
        self._products = base
        self._added: dict[str, tuple[dict[str, Any], Array]] = {}
        self._removed: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._products) - len(self._removed) + len(self._added)

    def add(self, rows: Sequence[Mapping[str, Any]], vectors: Array) -> None:
        """Add products, or replace those with the same ids.

        Args:
            vectors: [rows, dimensions] float32; they are scaled to length 1.

        Raises:
            InputError: a row is no dict that JSON holds, ids are missing or repeated, or more than `MAX_ADDED` would be
                added.
        """
        rows = plain_rows(rows)
        if len(rows) != len(vectors) or not np.isfinite(vectors).all():
            raise InputError(f"products: expected {len(rows)} vectors of finite numbers, got {len(vectors)}")
        table(rows)
        with self._lock:
            added = dict(self._added)
            for row, vector in zip(rows, unit(np.asarray(vectors, np.float32)), strict=True):
                added[str(row["id"])] = (row, vector)
            if len(added) > MAX_ADDED:
                raise InputError(
                    f"products: expected at most {MAX_ADDED} added ones, got {len(added)}; make a new bundle"
                )
            removed = self._removed | {n for id_ in added if (n := self._products.number_of(id_)) is not None}
            self._change(added, removed)

    def remove(self, ids: Sequence[str]) -> int:
        """Take products out; returns how many of the ids were there."""
        with self._lock:
            known = {id_: self._products.number_of(id_) for id_ in set(ids)}
            gone = {n for n in known.values() if n is not None} - self._removed
            added = {id_: entry for id_, entry in self._added.items() if id_ not in known}
            count = len({id_ for id_, n in known.items() if n in gone or id_ in self._added})
            self._change(added, self._removed | gone)
            return count

    def save(self, folder: Path) -> None:
        """Keep additions and removals in `folder`, each file replaced in one step."""
        with self._lock:
            rows = [row for row, _ in self._added.values()]
            state = {"added": rows, "removed": sorted(self._removed), "products": len(self._products)}
            vectors = np.array([vector for _, vector in self._added.values()], np.float32)
        folder.mkdir(parents=True, exist_ok=True)
        state["vectors"] = vectors.tolist()
        write_atomic(folder / _SAVED, json.dumps(state).encode())

    def restore(self, folder: Path) -> None:
        """Take over what `save` kept; a folder without it changes nothing.

        Raises:
            FormatError: it is damaged, or was saved for another bundle.
        """
        path = folder / _SAVED
        if not path.is_file():
            return
        try:
            if path.stat().st_size > _MAX_SAVED_BYTES:
                raise ValueError(f"more than {_MAX_SAVED_BYTES} bytes")
            state = json.loads(path.read_bytes())
            rows, vectors = state["added"], np.array(state["vectors"], np.float32)
            removed = {int(number) for number in state["removed"]}
            if state["products"] != len(self._products) or any(n >= state["products"] for n in removed):
                raise ValueError("it belongs to another bundle")
            if len(vectors) != len(rows) or not np.isfinite(vectors).all():
                raise ValueError("a vector is missing or holds no numbers")
            table(rows)
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            raise FormatError(f"{path}: expected what `save` wrote ({error!s:.100}); remove it") from error
        with self._lock:
            self._change({row["id"]: (row, vector) for row, vector in zip(rows, vectors, strict=True)}, removed)

    def _change(self, added: dict[str, tuple[dict[str, Any], Array]], removed: set[int]) -> None:
        hidden = np.zeros(len(self._products), bool)
        hidden[list(removed)] = True
        rows = [row for row, _ in added.values()]
        vectors = np.array([vector for _, vector in added.values()], np.float32)
        self._show(rows, vectors, hidden if removed else None)
        self._added, self._removed = added, removed

    def _show(self, rows: list[dict[str, Any]], vectors: Array, hidden: Array | None) -> None:
        """Take over what was added and which numbers of the base are hidden; called with the lock held.

        Args:
            vectors: [rows, dimensions] float32, unit vectors.
            hidden: [products] bool, None where none is.
        """
        raise NotImplementedError


def shown(mask: Array | None, hidden: Array | None) -> Array | None:
    """Return which products may be found: those that pass the filters' `mask` and are not `hidden`; None for all."""
    if hidden is None:
        return mask
    return ~hidden if mask is None else mask & ~hidden
