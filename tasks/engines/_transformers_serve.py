"""`transformers serve` whose answers have the model name that the client sent.

    python -m tasks.engines._transformers_serve serve NAME --port N …      (as the engine `transformers` is launched)

transformers 5.17 appends the default revision to the name and answers as `smollm2@main`; no option prevents it
(`process_model_name` in transformers/cli/serving/model_manager.py).
"""

from __future__ import annotations

from typing import Any

from transformers.cli.serving.utils import BaseHandler


def answer_by_requested_name() -> None:
    """Make every handler, streaming or not, name the model in its answers as the request did."""
    resolve = BaseHandler._resolve_model

    def resolve_by_requested_name(self: BaseHandler, body: dict[str, Any]) -> tuple[str, Any, Any]:
        _, model, processor = resolve(self, body)
        return body["model"], model, processor

    BaseHandler._resolve_model = resolve_by_requested_name


def main() -> None:
    """Run transformers' own command line."""
    from transformers.cli.transformers import app

    answer_by_requested_name()
    app()


if __name__ == "__main__":
    main()
