"""What a GraphQL document would cost, counted before it is validated or run.

A field costs 1; under `predict` and `explain` everything counts once an item, and an explanation as many as it may
have parts.
"""

from collections.abc import Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

from doorstep.serve.options import Limits


def check_cost(document: DocumentNode, operation: str | None, variables: Mapping[str, Any], limits: Limits) -> None:
    """Refuse a document that is nested too deep or costs too much.

    Raises:
        GraphQLError: too deep, too dear, or a fragment that contains itself.
    """
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        if operation and (node.name is None or node.name.value != operation):
            continue
        defaults = {
            definition.variable.name.value: len(definition.default_value.values)
            for definition in node.variable_definitions or ()
            if isinstance(definition.default_value, ListValueNode)
        }
        counts = {**defaults, **{name: len(value) for name, value in variables.items() if isinstance(value, list)}}
        cost = _Weigher(fragments, counts, limits).weigh(node.selection_set, 1)
        if cost > limits.graphql_cost:
            raise GraphQLError(f"query: expected a cost of at most {limits.graphql_cost}, got {cost}; ask for less")


class _Weigher:
    def __init__(
        self, fragments: Mapping[str, FragmentDefinitionNode], counts: Mapping[str, int], limits: Limits
    ) -> None:
        self._fragments = fragments
        self._counts = counts
        self._limits = limits
        self._known: dict[tuple[str, int], int] = {}
        self._open: set[str] = set()

    def weigh(self, selections: SelectionSetNode, depth: int) -> int:
        """Return the cost of a selection set whose fields stand `depth` levels deep."""
        if depth > self._limits.graphql_depth:
            raise GraphQLError(f"query: expected at most {self._limits.graphql_depth} levels, got more")
        return sum(self._selection(node, depth) for node in selections.selections)

    def _selection(self, node: Any, depth: int) -> int:
        if isinstance(node, FieldNode):
            return self._field(node, depth)
        if isinstance(node, FragmentSpreadNode):
            return self._spread(node.name.value, depth)
        return self.weigh(node.selection_set, depth)

    def _field(self, node: FieldNode, depth: int) -> int:
        if node.name.value in ("__schema", "__type"):  # its own validation rule bounds introspection
            return 1
        below = self.weigh(node.selection_set, depth + 1) if node.selection_set else 0
        if node.name.value == "predict":
            return 1 + self._items(node) * (1 + below)
        if node.name.value == "explain":
            return 1 + self._items(node) * (self._limits.parts + below)
        return 1 + below

    def _spread(self, name: str, depth: int) -> int:
        if name not in self._fragments:
            return 0  # validation says so
        if name in self._open:
            raise GraphQLError("query: a fragment contains itself")
        if (name, depth) not in self._known:
            self._open.add(name)
            self._known[name, depth] = self.weigh(self._fragments[name].selection_set, depth)
            self._open.remove(name)
        return self._known[name, depth]

    def _items(self, node: FieldNode) -> int:
        for argument in node.arguments or ():
            if argument.name.value == "items":
                value: Any = argument.value
                if isinstance(value, ListValueNode):
                    return len(value.values)
                if isinstance(value, VariableNode):
                    return self._counts.get(value.name.value, 1)
        return 1
