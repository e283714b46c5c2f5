"""A kiosk that understands what a shopper says: `python examples/kiosk/kiosk.py [BUNDLE] [--locale zh]`.

One text a line on stdin; what the kiosk does about it on stdout. Where the model is not sure, it asks for staff.
"""

import argparse
import sys
from pathlib import Path

from doorstep import Classification, LoadOptions, Predictor

DOES = {
    "find_product": "shows the way to the shelf",
    "check_stock": "looks up the stock",
    "ask_price": "shows the price",
    "product_info": "opens the product page",
    "compare_products": "puts the two side by side",
    "order_status": "asks for the order number",
    "return_item": "prints a return slip",
    "opening_hours": "shows the opening hours",
    "apply_coupon": "opens the coupon scanner",
    "pay_help": "starts the checkout guide",
    "complain": "opens the complaints form",
    "call_staff": "rings for staff",
}


def reply(result: Classification, names: dict[str, str]) -> str:
    """Return what the kiosk does about one utterance."""
    if result.label is None:
        return f"not sure ({result.score:.2f}): rings for staff"
    return f"{names.get(result.label, result.label)} ({result.score:.2f}): {DOES[result.label]}"


def main() -> int:
    """Answer stdin until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("dist/shopper_intents.bundle"))
    parser.add_argument("--locale", default="en", help="language of the names on screen, as far as the bundle has them")
    parser.add_argument("--sure", type=float, default=0.5, help="below this probability staff is called")
    arguments = parser.parse_args()
    options = LoadOptions(task_options={"abstain_below": arguments.sure})
    with Predictor.load(arguments.bundle, options=options) as predictor:
        names = predictor.manifest.options.get("display_names", {}).get(arguments.locale, {})
        print(predictor.why, file=sys.stderr)
        for result in predictor.stream(line.strip() for line in sys.stdin):
            print(reply(result, names), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
