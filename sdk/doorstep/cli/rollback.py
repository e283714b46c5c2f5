"""`doorstep rollback`: go back to the release before, now and without the network."""

import argparse
from pathlib import Path

from doorstep.errors import StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--product", help="default: the store's only product")
    parser.add_argument("--store", type=Path, help="default: /var/lib/doorstep")
    parser.add_argument("--reason", default="asked for on this device")


def run(arguments: argparse.Namespace) -> int:
    from doorstep.bundle import Bundle
    from doorstep.fleet.settings import DEFAULT_STORE, kept_settings, only_product
    from doorstep.fleet.state import gone_back
    from doorstep.fleet.store import Store

    root = arguments.store or DEFAULT_STORE
    product = arguments.product or only_product(root)
    kept = kept_settings(root, product)
    store = Store.open(root, product, Path(kept.factory) if kept.factory else None)
    before = store.state()
    after = store.change(lambda state: gone_back(state, arguments.reason))
    if after == before:
        raise StoreError(f"{store.folder}: there is no release to go back to; {before.note or 'nothing was activated'}")
    served = store.boot(Bundle.open, is_counted=False).held
    print(f"{product}: serves {served.id} again; {after.note}")
    return 0
