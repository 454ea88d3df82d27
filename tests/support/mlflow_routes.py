"""Prints every route of the installed MLflow as `METHOD PATH`, one a line: Flask's, FastAPI's, and of applications
mounted in it.

Run it in a process of its own, `python -m tests.support.mlflow_routes`, because MLflow's applications are global.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from registry.server.routes import spelled

PATH, SEGMENT = re.compile(r"<path:\w+>|\{\w+:path\}"), re.compile(r"<(?:\w+:)?\w+>|\{(?!path\}|id\})\w+(?::\w+)?\}")


def written(path: str) -> str:
    """Return a path of Flask or FastAPI as `registry/server/routes.py` writes it."""
    return SEGMENT.sub("{id}", PATH.sub("{path}", spelled(path)))


def flask_routes(app: Any) -> Iterator[tuple[str, str]]:
    """Iterate over Flask's routes; it adds HEAD and OPTIONS itself."""
    for rule in app.url_map.iter_rules():
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            yield method, written(rule.rule)


def asgi_routes(routes: Iterable[Any], flask: Any) -> Iterator[tuple[str, str]]:
    """Iterate over the routes of FastAPI, and of what is mounted in it."""
    for route in routes:
        if hasattr(route, "effective_candidates"):  # a router that FastAPI includes
            yield from asgi_routes(route.effective_candidates(), flask)
        elif methods := getattr(route, "methods", None):
            for method in set(methods) - {"HEAD"}:
                yield method, written(route.path)
        elif "WSGI" in type(getattr(route, "app", None)).__name__:
            yield from flask_routes(flask)
        else:
            yield type(route).__name__.upper(), written(getattr(route, "path", "?"))


def main() -> None:
    """Make the server's application as `mlflow server` does, and print its routes."""
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"
    from registry.server.app import create_app

    application: Any = create_app().app
    from mlflow.server import app as flask

    for method, path in sorted(set(asgi_routes(application.routes, flask))):
        print(method, path)


if __name__ == "__main__":
    main()
