"""What became of the made texts, and what they bring: for people, and as JSON."""

import json
from collections.abc import Mapping
from typing import Any


def ablation_table(counts: Mapping[str, Mapping[str, int]], ablation: Mapping[str, Any] | None) -> str:
    """Return what became of the made texts and, where it was measured, what they bring, for people."""
    lines = [f"{'transform':<20}{'kept':>8}{'repeated':>10}{'leaking':>9}{'unsure':>8}"]
    for name, fates in counts.items():
        figures = f"{fates['kept']:>8}{fates['repeated']:>10}{fates['leaking']:>9}{fates['unsure']:>8}"
        lines.append(f"{name:<20}{figures}")
    if ablation is None:
        return "\n".join(lines)
    nothing = ablation["rows"][0]
    lines += ["", f"{'learnt besides':<24}{'texts':>8}{'dev':>8}{'±':>6}{'gain':>7}{'under noise':>13}{'gain':>7}"]
    for row in ablation["rows"]:
        gain, noisy = row["accuracy"] - nothing["accuracy"], row["noisy"] - nothing["noisy"]
        lines.append(
            f"{row['learnt']:<24}{row['texts']:>8}{row['accuracy']:>8.2f}{row['deviation']:>6.2f}{gain:>+7.2f}"
            f"{row['noisy']:>13.2f}{noisy:>+7.2f}"
        )
    return "\n".join(lines)


def plain_ablation(found: Mapping[str, Any]) -> str:
    """Return the report as JSON."""
    return json.dumps(found, indent=1) + "\n"
