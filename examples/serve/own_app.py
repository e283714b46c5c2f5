"""Models inside a Flask app that exists already: `python examples/serve/own_app.py BUNDLE`, then /shop and /ai/."""

import sys

from flask import Flask

from doorstep import Predictor
from doorstep.serve import create_blueprint


def create_app(bundle: str) -> Flask:
    """Return the shop's app with the model under /ai."""
    app = Flask(__name__)
    predictor = Predictor.load(bundle)

    @app.get("/shop")
    def shop() -> str:
        return f"what people ask: {predictor.predict('is the oat milk back in stock').label}"

    app.register_blueprint(create_blueprint({"shop": predictor}), url_prefix="/ai")
    return app


if __name__ == "__main__":
    from waitress import serve

    serve(create_app(sys.argv[1]), listen="127.0.0.1:8080")
