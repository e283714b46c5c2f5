"""One table for who must choose: what each way to fine-tune costs and reaches on the user's own data."""

from collections.abc import Mapping
from typing import Any

LEAVES = {
    "full": "the same graph", "lora": "merged", "adalora": "merged", "adapter": "in the graph",
    "prefix": "in the graph", "prompt": "in the graph", "head": "the same graph",
}  # fmt: skip


def comparison(results: Mapping[str, Mapping[str, Any] | str]) -> list[dict[str, Any]]:
    """Return a row for each method; a method that failed gives its reason as text instead of figures."""
    rows = []
    for method, found in results.items():
        if isinstance(found, str):
            rows.append({"method": method, "failure": found})
            continue
        gpu = found.get("peak_gpu_mib")
        rows.append(
            {
                "method": method,
                "trainable": found["trainable"],
                "share": round(found["trainable"] / found["parameters"], 5),
                "peak_rss_mib": found["peak_rss_mib"],
                **({"peak_gpu_mib": gpu} if gpu is not None else {}),
                "seconds": found["seconds"],
                "steps": found["steps"],
                "dev_accuracy": round(found["dev_accuracy"], 5),
                "left": LEAVES[method],
            }
        )
    return rows


def comparison_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for people."""
    lines = [
        f"{'method':<10}{'trainable':>12}{'share':>9}{'RSS MiB':>9}{'seconds':>9}{'steps':>7}{'dev':>8}  afterwards",
        f"{'─' * 9:<10}{'─' * 11:>12}{'─' * 8:>9}{'─' * 8:>9}{'─' * 8:>9}{'─' * 6:>7}{'─' * 7:>8}  {'─' * 14}",
    ]
    for row in rows:
        if "failure" in row:
            lines.append(f"{row['method']:<10}  {row['failure']}")
            continue
        lines.append(
            f"{row['method']:<10}{row['trainable']:>12,}{row['share']:>9.2%}{row['peak_rss_mib']:>9.0f}"
            f"{row['seconds']:>9.1f}{row['steps']:>7}{row['dev_accuracy']:>8.4f}  {row['left']}"
        )
    return "\n".join(lines)
