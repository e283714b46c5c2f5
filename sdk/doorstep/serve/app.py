"""The Flask app, and the blueprint for an app that exists already."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException

from doorstep.predictor import Predictor
from doorstep.serve.health import add_health
from doorstep.serve.hooks import Hooks, add_hooks, arrived, refuse_http
from doorstep.serve.inference_v2 import add_inference_v2
from doorstep.serve.openapi import add_openapi
from doorstep.serve.options import ServeOptions
from doorstep.serve.page import add_page
from doorstep.serve.query import add_graphql
from doorstep.serve.rest import add_rest
from doorstep.serve.service import Service


class _App(Flask):
    """Flask without its search for coroutines, four times a request: every function here is an ordinary one."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(predictors: Mapping[str, Predictor] | Service, options: ServeOptions | None = None) -> Flask:
    """Return an app that serves `predictors`, each under its name.

    Args:
        predictors: name to predictor; they stay the caller's to close. Or a `Service` made before.
        options: bounds and access; for a `Service`, its own are taken.
    """
    service = _service(predictors, options)
    app = _App("doorstep.serve", static_folder=None)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["doorstep"] = service
    app.register_blueprint(create_blueprint(service))
    hooks = Hooks(service)

    @app.after_request
    def after(response: Response) -> Response:
        return response if request.blueprint else hooks.after(response)

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        arrived(service.options)
        return refuse_http(error)

    return app


def create_blueprint(
    predictors: Mapping[str, Predictor] | Service, options: ServeOptions | None = None, name: str = "doorstep"
) -> Blueprint:
    """Return the routes as a blueprint: `app.register_blueprint(create_blueprint({…}), url_prefix="/models")`."""
    service = _service(predictors, options)
    blueprint = Blueprint(name, "doorstep.serve")
    add_hooks(blueprint, service)
    add_health(blueprint, service)
    add_rest(blueprint, service)
    add_inference_v2(blueprint, service)
    add_graphql(blueprint, service)
    add_openapi(blueprint, service)
    if service.options.has_page:
        add_page(blueprint)
    return blueprint


def _service(predictors: Mapping[str, Predictor] | Service, options: ServeOptions | None) -> Service:
    return predictors if isinstance(predictors, Service) else Service(predictors, options)
