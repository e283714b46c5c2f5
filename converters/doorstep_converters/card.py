"""The model card inside a bundle."""

from doorstep.manifest import Manifest


def model_card(manifest: Manifest) -> str:
    """Return the card as Markdown, from nothing but the manifest."""
    labels = manifest.options.get("labels", [])
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"Task: {manifest.task}. Labels ({len(labels)}): {', '.join(labels[:100])}.",
        f"Made {manifest.created} for {manifest.target or 'any device'}. Licence of the weights: "
        f"{manifest.licence or 'not stated by the checkpoint'}.",
        "",
        "| variant | recipe | agreement | accuracy | macro F1 | largest error |",
        "|---|---|---|---|---|---|",
    ]
    for variant in manifest.variants:
        m = variant.measured
        cells = (m.agreement, m.accuracy, m.macro_f1, m.max_abs_error) if m else (None,) * 4
        shown = " | ".join("–" if cell is None else f"{cell:.4f}" for cell in cells)
        lines.append(f"| {variant.name} | {variant.recipe} | {shown} |")
    lines += [
        "",
        "Agreement and largest error compare with the checkpoint in PyTorch; accuracy is on held-out data.",
        "",
    ]
    lines += [f"{variant.name}: {variant.notes}.\n" for variant in manifest.variants if variant.notes]
    lines += [f"- {key}: {value}" for key, value in sorted(manifest.provenance.items())]
    return "\n".join(lines) + "\n"
