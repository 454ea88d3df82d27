"""`transformers serve` that demands the engine's key, and whose answers have the model name that the client sent.

    python -m tasks.engines._transformers_serve serve NAME --port N …      (as the engine `transformers` is launched)

transformers 5.17 appends the default revision to the name and answers as `smollm2@main`; no option prevents it
(`process_model_name` in transformers/cli/serving/model_manager.py). Nor has it an option for a key; without one a page
in a browser could unload the model by a POST to `/reset`.
"""

from __future__ import annotations

from typing import Any

from transformers.cli.serving import server
from transformers.cli.serving.utils import BaseHandler

from tasks.engines._guard.weighbridge_guard import RequireKey


def answer_by_requested_name() -> None:
    """Make every handler, streaming or not, name the model in its answers as the request did."""
    resolve = BaseHandler._resolve_model

    def resolve_by_requested_name(self: BaseHandler, body: dict[str, Any]) -> tuple[str, Any, Any]:
        _, model, processor = resolve(self, body)
        return body["model"], model, processor

    BaseHandler._resolve_model = resolve_by_requested_name


def require_key() -> None:
    """Make the server refuse requests without the engine's key."""
    build = server.build_server

    def build_guarded(*arguments: Any, **named: Any) -> Any:
        app = build(*arguments, **named)
        app.add_middleware(RequireKey)
        return app

    server.build_server = build_guarded


def main() -> None:
    """Run transformers' own command line."""
    # Before the command line imports the function that this replaces.
    require_key()
    from transformers.cli.transformers import app

    answer_by_requested_name()
    app()


if __name__ == "__main__":
    main()
