"""The page to try a model: three files, nothing from anywhere else."""

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

_FOLDER = Path(__file__).parent / "page"


def add_page(blueprint: Blueprint) -> None:
    """Add the routes."""

    @blueprint.get("/")
    def index() -> Response:
        """Return the page."""
        return _file("index.html")

    @blueprint.get("/page/<file>")
    def page_file(file: str) -> Response:
        """Return a part of the page."""
        return _file(file)


def _file(name: str) -> Response:
    response = send_from_directory(_FOLDER, name, max_age=300)
    response.headers["Cache-Control"] = "public, max-age=300"
    return response
