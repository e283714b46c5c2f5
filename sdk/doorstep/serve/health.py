"""Is it up, is it ready, what has it done: health of the Open Inference Protocol, and metrics."""

from typing import Any

from flask import Blueprint, Response

from doorstep.serve.metrics import CONTENT_TYPE
from doorstep.serve.refusals import BusyError
from doorstep.serve.service import Service


def add_health(blueprint: Blueprint, service: Service) -> None:
    """Add the routes."""

    @blueprint.get("/v2/health/live")
    def live() -> dict[str, Any]:
        """Tell that the process answers."""
        return {"live": True}

    @blueprint.get("/v2/health/ready")
    def ready() -> dict[str, Any]:
        """Tell whether new requests are welcome; 503 while the process drains."""
        if service.is_draining.is_set():
            raise BusyError("ready: the server is about to stop", 5)
        return {"ready": True}

    @blueprint.get("/metrics")
    def metrics() -> Response:
        """Return Prometheus metrics."""
        return Response(service.metrics.page(), content_type=CONTENT_TYPE)
