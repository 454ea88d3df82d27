"""GraphQL queries of MLflow's page, the only ones that are answered."""

from __future__ import annotations

from typing import Any

from registry.server.message import Refused

QUERIES = frozenset(
    {"mlflowGetExperiment", "mlflowGetRun", "mlflowSearchRuns", "mlflowGetMetricHistoryBulkInterval", "__typename"}
)
"""Fields of a query's root that the page asks for."""
LONGEST = 20_000
"""Longest query, in characters."""


def check_graphql(content: dict[str, Any]) -> None:
    """Refuse a GraphQL request unless the page sends its like: one query, of known fields.

    Args:
        content: The request's body.

    Raises:
        Refused: It changes something, inspects the schema, or cannot be read.
    """
    from graphql import GraphQLError, parse
    from graphql.language import FieldNode, OperationDefinitionNode, OperationType

    query = content.get("query")
    if not isinstance(query, str) or len(query) > LONGEST or set(content) - {"query", "variables", "operationName"}:
        raise Refused("its GraphQL has another form than that of MLflow's page")
    try:
        document = parse(query)
    except (GraphQLError, RecursionError):
        raise Refused("its GraphQL cannot be read") from None
    operations = [part for part in document.definitions if isinstance(part, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation != OperationType.QUERY:
        raise Refused("its GraphQL is not one query")
    for field in operations[0].selection_set.selections:
        if not isinstance(field, FieldNode) or field.name.value not in QUERIES:
            raise Refused("its GraphQL asks for what MLflow's page does not show")
