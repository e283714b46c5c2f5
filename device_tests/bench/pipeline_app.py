"""What people write first: Flask's own threaded server around `transformers.pipeline`. `python … CHECKPOINT PORT`."""

import sys


def main() -> None:
    """Serve until ended."""
    from flask import Flask, request
    from transformers import pipeline

    checkpoint, port = sys.argv[1:3]
    classify = pipeline("text-classification", model=checkpoint, device="cpu")
    app = Flask(__name__)

    @app.post("/predict")
    def predict() -> dict[str, object]:
        return {"results": classify(request.get_json()["items"])}

    app.run(port=int(port), threaded=True)


if __name__ == "__main__":
    main()
