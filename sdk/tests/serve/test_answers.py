"""Every way in gives the predictor's own answer."""

import io
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from doorstep.predictor import Predictor

TEXTS = ["arrived in two days, love it", "质量太差了，要求退款", "", "🙂"]


def png(color: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def multipart(*files: bytes) -> tuple[bytes, dict[str, str]]:
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="items"; filename="a.png"\r\n\r\n' + data + b"\r\n"
        for data in files
    ]
    return b"".join([*parts, b"--edge--\r\n"]), {"Content-Type": "multipart/form-data; boundary=edge"}


def test_rest_gives_the_predictors_answers(shop: Any, predictors: dict[str, Predictor]) -> None:
    reply = shop.post("/v1/models/reviews:predict", {"items": TEXTS})
    assert reply.status == 200
    for got, expected in zip(reply.json["results"], predictors["reviews"].predict_many(TEXTS), strict=True):
        assert got["label"] == expected.label
        assert got["score"] == pytest.approx(expected.score, abs=1e-5)


def test_ndjson_streams_a_line_for_a_line_and_survives_bad_ones(shop: Any) -> None:
    body = '"love it"\n{bad\n3\n\n"质量太差了"\n'.encode()
    reply = shop.post("/v1/models/reviews:predict", body, {"Content-Type": "application/x-ndjson"})
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert [line["place"] for line in lines] == [0, 1, 2, 3]
    assert ["result" in line for line in lines] == [True, False, False, True]


@pytest.mark.parametrize("way", ["multipart", "raw", "base64"])
def test_a_picture_is_answered_however_it_is_sent(shop: Any, way: str) -> None:
    import base64

    form, form_headers = multipart(png())
    body, headers = {
        "multipart": (form, form_headers),
        "raw": (png(), {"Content-Type": "image/png"}),
        "base64": ({"items": [{"b64": base64.b64encode(png()).decode()}]}, {}),
    }[way]
    reply = shop.post("/v1/models/pictures:predict", body, headers)
    assert reply.json["results"][0]["label"] == "red"


def test_scores_can_be_narrowed(shop: Any) -> None:
    wishes = {"items": ["love it"], "labels": ["positive", "negative"], "top_k": 1}
    result = shop.post("/v1/models/reviews:predict", wishes).json["results"][0]
    assert len(result["scores"]) == 1
    assert result["scores"][0]["label"] in ("positive", "negative")


def test_graphql_gives_the_same_answer_and_explains(shop: Any, predictors: dict[str, Predictor]) -> None:
    query = """query($items: [JSON!]!) { models { name task }
      predict(model: "reviews", items: $items) { variant results { label score } }
      explain(model: "reviews", items: $items) { results { label parts { text weight } } } }"""
    reply = shop.post("/graphql", {"query": query, "variables": {"items": TEXTS[:2]}})
    data = reply.json["data"]
    assert [model["name"] for model in data["models"]] == ["reviews", "pictures", "sums", "ranking"]
    labels = [result["label"] for result in data["predict"]["results"]]
    assert labels == [result.label for result in predictors["reviews"].predict_many(TEXTS[:2])]
    assert [part["text"] for part in data["explain"]["results"][1]["parts"]][:3] == ["质", "量", "太"]


def test_a_picture_is_explained_by_its_regions(shop: Any) -> None:
    result = shop.post("/v1/models/pictures:explain", png(), {"Content-Type": "image/png"}).json["results"][0]
    assert len(result["regions"]) == 16
    assert sum(region["width"] * region["height"] for region in result["regions"]) == pytest.approx(1)


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_public_client_of_the_open_inference_protocol_is_answered(
    shop: Any, predictors: dict[str, Predictor], is_binary: bool
) -> None:
    client = triton.InferenceServerClient(f"{shop.host}:{shop.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("reviews")
    assert client.get_model_metadata("reviews", "1")["inputs"][0]["datatype"] == "BYTES"
    texts = triton.InferInput("text", [2], "BYTES")
    texts.set_data_from_numpy(np.array(TEXTS[:2], object), binary_data=is_binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "score")]
    answer = client.infer("reviews", [texts], outputs=wanted)
    expected = predictors["reviews"].predict_many(TEXTS[:2])
    labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
    assert labels == [result.label for result in expected]
    assert answer.as_numpy("score") == pytest.approx([result.score for result in expected], abs=1e-5)
    values = triton.InferInput("values", [2, 3], "FP32")
    values.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), binary_data=is_binary)
    assert client.infer("sums", [values]).as_numpy("sums").tolist() == [3.0, 12.0]
    client.close()


def test_every_route_is_in_the_openapi_document(shop: Any) -> None:
    paths = shop.get("/openapi.json").json["paths"]
    routes = {rule.rule for rule in _rules(shop) if "page" not in rule.endpoint and not rule.endpoint.endswith("index")}
    filled = {route.replace("<name>", "reviews").replace("<version>", "1") for route in routes}
    assert filled <= paths.keys()
    assert "/v1/models/sums:predict" in paths


def _rules(shop: Any) -> list[Any]:
    from doorstep.serve import create_app

    return list(create_app(shop.service).url_map.iter_rules())


def test_a_blueprint_serves_inside_another_app(predictors: dict[str, Predictor]) -> None:
    import flask

    from doorstep.serve import create_blueprint

    app = flask.Flask("shop")
    app.register_blueprint(create_blueprint(predictors), url_prefix="/ai")
    reply = app.test_client().post("/ai/v1/models/reviews:predict", json={"items": ["love it"]})
    assert reply.status_code == 200
    assert app.test_client().get("/ai/openapi.json").json["paths"]["/ai/v1/models"]
    assert app.test_client().get("/elsewhere").mimetype == "text/html"
