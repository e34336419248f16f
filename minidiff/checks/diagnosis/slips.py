"""What a written answer becomes by one slip of the pen, and the sentence for it.

An exercise has its answer written out as a student may write it. Each small change of that text is a
function of its own: a plus for a minus, a root or a factor left out, parentheses forgotten, ``t - 1``
for ``t``, a sum for a mean. A student whose numbers are those of a changed text is told the change. So
the sentence is true by construction, and nobody has to think of every slip of every exercise.
"""

import ast
import copy
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator

from minidiff.checks.diagnosis.changes import changes, text_of


def slips(written: Callable) -> Iterator[tuple[str, Callable]]:
    """Every sentence with the function that a slip makes of a written answer; none of one with a loop."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(written)))
    if any(isinstance(node, ast.For | ast.While) for node in ast.walk(tree)):
        return  # one slip, and it may never end
    seen, names = {ast.unparse(tree)}, _names(tree)
    gone = []
    for what, changed, new in _edits(tree, names):
        if (text := ast.unparse(changed)) not in seen:
            seen.add(text)
            yield (
                f"{what}: these are the numbers of `{_around(changed, new)}`",
                _made(changed, written),
            )
            if what.endswith("missing"):
                gone.append((what, changed))
    for one, other in itertools.combinations(names, 2):
        changed = ast.fix_missing_locations(_Exchanged(one, other).visit(copy.deepcopy(tree)))
        if (text := ast.unparse(changed)) not in seen:
            seen.add(text)
            yield f"`{one}` and `{other}` are exchanged", _made(changed, written)
    for first, once in gone:  # two things left out
        for what, changed, _ in _edits(once, names):
            if what.endswith("missing") and (text := ast.unparse(changed)) not in seen:
                seen.add(text)
                yield f"{first}, and {what}", _made(changed, written)


def _edits(tree: ast.Module, names: list[str]) -> Iterator[tuple[str, ast.Module, ast.AST]]:
    """What is said, the changed text, and the node in it that is new."""
    for index, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.expr):
            for new, what in changes(node, names):
                new = copy.deepcopy(new)
                yield what, ast.fix_missing_locations(_replaced(tree, index, new)), new


class _Exchanged(ast.NodeTransformer):
    """Takes one name for another, and that for the first, wherever they are read."""

    def __init__(self, one: str, other: str):
        self.names = {one: other, other: one}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load):
            node.id = self.names.get(node.id, node.id)
        return node


def _made(tree: ast.Module, written: Callable) -> Callable:
    space = dict(inspect.unwrap(written).__globals__)
    exec(compile(ast.fix_missing_locations(tree), "<slip>", "exec"), space)
    return space[tree.body[0].name]


def _names(tree: ast.Module) -> list[str]:
    """Arguments and variables of the answer: one may be taken for another."""
    found = [argument.arg for argument in tree.body[0].args.args]
    stored = (n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return list(dict.fromkeys([*found, *(node.id for node in stored)]))


def _replaced(tree: ast.Module, index: int, new: ast.AST) -> ast.Module:
    """A copy with another node in the place of the one of that number."""
    fresh = copy.deepcopy(tree)
    old = list(ast.walk(fresh))[index]
    for parent in ast.walk(fresh):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(item is old for item in value):
                setattr(parent, field, [new if item is old else item for item in value])
    return fresh


def _around(tree: ast.Module, new: ast.AST) -> str:
    """The smallest part of the changed text that says something."""
    text = ""
    while isinstance(new, ast.expr):
        text = text_of(new)
        if len(text) >= 12 and isinstance(new, ast.BinOp | ast.Call | ast.Compare | ast.Subscript):
            break
        new = next(p for p in ast.walk(tree) if any(c is new for c in ast.iter_child_nodes(p)))
        if isinstance(new, ast.keyword):
            new = next(p for p in ast.walk(tree) if any(c is new for c in ast.iter_child_nodes(p)))
    return text
