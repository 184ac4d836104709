"""How a GraphQL request is carried out: limits, parsing, validation, execution, errors.

Parsed and validated queries are remembered, since clients send the same few texts again and again. The price of a
query is the number of fields it asks for, times the length of the lists they are in; it is known before anything is
read.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    build_schema,
    execute,
    parse,
    validate,
)

from stepwell.api.inngest import graphql_events, graphql_functions, graphql_mutations, graphql_runs, graphql_scalars
from stepwell.api.inngest.graphql_context import adapted
from stepwell.model.errors import InvalidInput, StepwellError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell.api.inngest.graphql_context import Context

log = logging.getLogger("stepwell.api")

MAX_LETTERS = 50_000
MAX_TOKENS = 10_000
MAX_DEPTH = 24
MAX_FIELDS = 5_000
"""Fields written in a query, with each fragment written out wherever it is used."""
MAX_COST = 100_000
"""Fields, times the lengths of the lists they are in."""
MAX_ERRORS = 20

_LISTS = {"runs": 40, "eventsV2": 50, "stream": 40, "events": graphql_events.EVENTS_SHOWN}
"""Queries for lists, and how long these are when nothing is said."""
_STARTED = frozenset({"runs", "functionRuns"})
"""Fields with the runs that an event started: a few."""
_RESOLVERS = (
    graphql_runs.RESOLVERS,
    graphql_events.RESOLVERS,
    graphql_functions.RESOLVERS,
    graphql_mutations.RESOLVERS,
)


async def run(context: Context, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request. What the client did wrong is in `errors`, and `data` is null then."""
    try:
        query, variables, operation = _read(body)
        document, problems = _prepared(query)
        if problems:
            return _refused([problem.formatted for problem in problems])
        _check_cost(document, operation, variables)
    except GraphQLError as err:
        return _refused([err.formatted])
    except InvalidInput as err:
        return _refused([{"message": str(err)}])
    result = execute(schema(), document, context_value=context, variable_values=variables, operation_name=operation)
    if not isinstance(result, ExecutionResult):
        result = await result
    answer: dict[str, Any] = {"data": result.data}
    if result.errors:
        answer["errors"] = [_shown(error, context) for error in result.errors[:MAX_ERRORS]]
    return answer


@lru_cache(maxsize=1)
def schema() -> GraphQLSchema:
    """The schema with its resolvers, built once."""
    text = (resources.files("stepwell.api.inngest") / "graphql_schema.graphql").read_text(encoding="utf-8")
    built = build_schema(text)
    graphql_scalars.attach(built)
    for table in _RESOLVERS:
        for type_name, fields in table.items():
            kind = built.type_map[type_name]
            assert isinstance(kind, GraphQLObjectType), f"{type_name} has no fields"
            for name, resolver in fields.items():
                kind.fields[name].resolve = adapted(resolver)
    union = built.type_map["StepInfo"]
    assert isinstance(union, GraphQLUnionType)
    union.resolve_type = graphql_runs.step_info_type
    return built


# before anything is read


def _read(body: Mapping[str, Any]) -> tuple[str, dict[str, Any], str | None]:
    query, variables, operation = body.get("query"), body.get("variables"), body.get("operationName")
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput('the body needs a `query`, such as {"query": "{ functions { name } }"}')
    if len(query) > MAX_LETTERS:
        raise InvalidInput(f"the query has {len(query)} characters and may have {MAX_LETTERS}")
    if variables is not None and not isinstance(variables, dict):
        raise InvalidInput("`variables` must be a JSON object")
    if operation is not None and not isinstance(operation, str):
        raise InvalidInput("`operationName` must be text")
    return query, variables or {}, operation or None


@lru_cache(maxsize=256)
def _prepared(query: str) -> tuple[DocumentNode, Sequence[GraphQLError]]:
    """The query as a tree, and what is wrong with it."""
    try:
        document = parse(query, max_tokens=MAX_TOKENS)
    except RecursionError:
        raise InvalidInput(f"the query nests deeper than {MAX_DEPTH} levels") from None
    _Price(document, None).check_form()
    return document, validate(schema(), document, max_errors=MAX_ERRORS)


def _check_cost(document: DocumentNode, operation: str | None, variables: Mapping[str, Any]) -> None:
    price = _Price(document, variables)
    wanted = [
        node
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode)
        and (operation is None or (node.name is not None and node.name.value == operation))
    ]
    cost = max((price.of(node.selection_set)[0] for node in wanted), default=0)
    if cost > MAX_COST:
        raise InvalidInput(
            f"the query asks for about {cost} fields and may ask for {MAX_COST}; ask for shorter lists, or for less of "
            "each item"
        )


class _Price:
    """Cost and depth of selections. Each fragment is measured once, however often it is used.

    Without variables every list counts as one item, so that the cost is the number of fields.
    """

    def __init__(self, document: DocumentNode, variables: Mapping[str, Any] | None) -> None:
        self._document = document
        self._variables = variables
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._known: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()

    def check_form(self) -> None:
        """Refuse what is too deep or too wide to be looked at more closely. Raises `InvalidInput`."""
        for node in self._document.definitions:
            if isinstance(node, (OperationDefinitionNode, FragmentDefinitionNode)):
                fields, depth = self.of(node.selection_set)
                if depth > MAX_DEPTH:
                    raise InvalidInput(f"the query nests {depth} levels deep and may nest {MAX_DEPTH}")
                if fields > MAX_FIELDS:
                    raise InvalidInput(f"the query has {fields} fields with its fragments and may have {MAX_FIELDS}")

    def of(self, selections: SelectionSetNode | None) -> tuple[int, int]:
        """Fields and levels of a selection set."""
        cost = depth = 0
        for node in selections.selections if selections is not None else ():
            if isinstance(node, FieldNode):
                below, levels = self.of(node.selection_set)
                more, levels = 1 + below * self._length(node), levels + 1
            elif isinstance(node, InlineFragmentNode):
                more, levels = self.of(node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                more, levels = self._fragment(node.name.value)
            else:
                more, levels = 0, 0
            cost, depth = cost + more, max(depth, levels)
        return cost, depth

    def _fragment(self, name: str) -> tuple[int, int]:
        if name in self._open or name not in self._fragments:
            return 0, 0  # validation has the words for that
        if name not in self._known:
            self._open.add(name)
            self._known[name] = self.of(self._fragments[name].selection_set)
            self._open.discard(name)
        return self._known[name]

    def _length(self, field: FieldNode) -> int:
        variables = self._variables
        if variables is None:
            return 1
        if field.name.value in _STARTED and not field.arguments:
            return 2
        usual = _LISTS.get(field.name.value, 1)
        for argument in field.arguments or ():
            if argument.name.value == "first":
                return _number(argument.value, usual, variables)
            if argument.name.value == "query" and hasattr(argument.value, "fields"):
                for member in argument.value.fields:
                    if member.name.value == "limit":
                        return _number(member.value, usual, variables)
            elif argument.name.value == "query" and isinstance(argument.value, VariableNode):
                given = variables.get(argument.value.name.value)
                limit = given.get("limit") if isinstance(given, dict) else None
                if isinstance(limit, int):
                    return max(1, min(limit, graphql_runs.MOST))
        return usual


def _number(value: object, usual: int, variables: Mapping[str, Any]) -> int:
    """How many items a list will have; a variable without a value may have a default."""
    found: object = None
    if isinstance(value, IntValueNode):
        found = int(value.value)
    elif isinstance(value, VariableNode):
        found = variables.get(value.name.value, graphql_runs.MOST)
    return max(1, min(found, graphql_runs.MOST)) if isinstance(found, int) else usual


# errors


def _refused(errors: list[Any]) -> dict[str, Any]:
    return {"errors": errors, "data": None}


def _shown(error: GraphQLError, context: Context) -> dict[str, Any]:
    """An error as the client may see it; a bug of ours is in the log instead."""
    cause = error.original_error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    shown: dict[str, Any] = dict(error.formatted)
    if isinstance(cause, StepwellError):
        shown["message"] = str(cause)
        shown["extensions"] = {"code": cause.code}
    elif cause is not None:
        reference = context.node.new_key()
        log.error("%s: GraphQL field %s", reference, error.path, exc_info=cause)
        shown["message"] = f"this server made a mistake; its log has the reason under {reference}"
    return shown
