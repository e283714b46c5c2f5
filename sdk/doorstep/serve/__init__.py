"""The Flask shim: bundles behind REST, the Open Inference Protocol and GraphQL, with a page, metrics and a queue.

from doorstep import Predictor
from doorstep.serve import create_app

app = create_app({"reviews": Predictor.load("dist/reviews.bundle")})
"""

from doorstep.errors import MissingExtraError

try:
    import flask  # noqa: F401 -- asked for before the modules below need it
except ImportError as error:
    raise MissingExtraError.of("Flask, which serves bundles,", "serve") from error

from doorstep.serve.app import create_app, create_blueprint
from doorstep.serve.options import Limits, ServeOptions
from doorstep.serve.service import Service

__all__ = ["Limits", "ServeOptions", "Service", "create_app", "create_blueprint"]
