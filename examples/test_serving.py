"""The examples around the server."""

import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

HERE = Path(__file__).parent
MANIFESTS = sorted((HERE / "kubernetes").glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_the_published_schema(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    document = yaml.safe_load((HERE / "kubernetes/deployment.yaml").read_text(encoding="utf-8"))
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.slow
def test_a_model_answers_inside_another_app(bundle: Path) -> None:
    sys.path.insert(0, str(HERE / "serve"))
    try:
        import own_app
    finally:
        sys.path.pop(0)
    client = own_app.create_app(str(bundle)).test_client()
    assert "check_stock" in client.get("/shop").text
    reply = client.post("/ai/v1/models/shop:predict", json={"items": ["is the oat milk back in stock"]})
    assert reply.json["results"][0]["label"] == "check_stock"
