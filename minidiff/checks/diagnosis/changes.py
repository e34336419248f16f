"""The small changes that one expression of a written answer may suffer: see ``slips``."""

import ast
import copy
from collections.abc import Iterator

SIGNS = {ast.Add: "plus", ast.Sub: "minus", ast.Mult: "times", ast.Div: "divided by"}
OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
# Functions that are left out, or taken one for the other.
UNARY = ("sqrt", "exp", "log", "abs", "square", "softmax", "normalize", "log_softmax", "logsumexp")
TWINS = {
    **{"mean": "sum", "sum": "mean", "max": "min", "min": "max", "any": "all", "all": "any"},
    **{"argmax": "argmin", "argmin": "argmax", "maximum": "minimum", "minimum": "maximum"},
    **{"exp": "log", "var": "std", "std": "var", "zeros": "ones", "ones": "zeros", "tril": "triu"},
    **{"repeat": "tile", "sqrt": "square", "cumprod": "cumsum", "prod": "sum", "arange": "zeros"},
}
COMPARED = {
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE), ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip
Change = tuple[ast.AST, str]


def _called(node: ast.AST) -> str:
    """The last name of what is called, "" if that has none."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def changes(node: ast.expr, names: list[str]) -> Iterator[Change]:
    """What may stand in the place of an expression, and what is said of it."""
    by_kind = {
        ast.BinOp: _of_operation, ast.Call: _of_call, ast.Compare: _of_comparison,
        ast.Constant: _of_constant, ast.Subscript: _of_index, ast.UnaryOp: _of_sign,
        ast.Attribute: _of_attribute,
    }  # fmt: skip
    made = by_kind.get(type(node), lambda node: ())(node)
    yield from made
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from _of_name(node, names)


def text_of(node: ast.AST) -> str:
    """An expression as it is written."""
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))


def _of_operation(node: ast.BinOp) -> Iterator[Change]:
    left, right, kind = node.left, node.right, type(node.op)
    if kind in OTHER:
        other = ast.BinOp(left, OTHER[kind](), right)
        yield other, f"{SIGNS[OTHER[kind]]} stands where {SIGNS[kind]} belongs"
    if kind in (ast.Sub, ast.Div):
        yield ast.BinOp(right, node.op, left), f"the two sides of {SIGNS[kind]} are exchanged"
    if kind in (ast.Add, ast.Sub):
        yield left, f"`{text_of(right)}` is missing"
        yield right, f"`{text_of(left)} {'+' if kind is ast.Add else '-'}` is missing"
    elif kind in (ast.Mult, ast.MatMult):
        yield left, f"the factor `{text_of(right)}` is missing"
        yield right, f"the factor `{text_of(left)}` is missing"
    elif kind is ast.Div:
        yield left, f"the division by `{text_of(right)}` is missing"
        yield ast.BinOp(left, ast.Div(), _root(right)), "a square root too many"
        yield ast.BinOp(left, ast.Div(), _square(right)), "a square too many"
    elif kind is ast.Pow:
        yield left, f"the power of `{text_of(left)}` is missing"
    elif kind in (ast.BitAnd, ast.BitOr):
        other = ast.BitOr if kind is ast.BitAnd else ast.BitAnd
        yield ast.BinOp(left, other(), right), "and (&) and or (|) are exchanged"
        yield left, f"`{text_of(right)}` is not asked"
        yield right, f"`{text_of(left)}` is not asked"
    yield from _without_parentheses(node)


def _without_parentheses(node: ast.BinOp) -> Iterator[Change]:
    """As Python reads it where the parentheses round one side are forgotten."""
    what, left, right = "parentheses are missing", node.left, node.right
    weak = (ast.Add, ast.Sub)
    strong = isinstance(node.op, ast.Mult | ast.Div | ast.Pow | ast.MatMult)
    if strong and isinstance(left, ast.BinOp) and isinstance(left.op, weak):
        yield ast.BinOp(left.left, left.op, ast.BinOp(left.right, node.op, right)), what
    if strong and isinstance(right, ast.BinOp) and isinstance(right.op, weak):
        yield ast.BinOp(ast.BinOp(left, node.op, right.left), right.op, right.right), what
    same = (ast.Mult, ast.Div) if isinstance(node.op, ast.Div) else weak
    turned = isinstance(node.op, ast.Div | ast.Sub) and isinstance(right, ast.BinOp)
    if turned and isinstance(right.op, same):
        yield ast.BinOp(ast.BinOp(left, node.op, right.left), right.op, right.right), what


def _root(node: ast.AST) -> ast.AST:
    return ast.BinOp(node, ast.Pow(), ast.Constant(0.5))


def _square(node: ast.AST) -> ast.AST:
    return ast.BinOp(node, ast.Pow(), ast.Constant(2))


def _of_call(node: ast.Call) -> Iterator[Change]:
    name = _called(node)
    method = isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name)
    subject = node.args[0] if node.args else getattr(node.func, "value", None)
    if name in (*UNARY, "clip", "where", "maximum", "minimum") and node.args:
        if name == "where":
            for kept, gone in ((node.args[1], node.args[2]), (node.args[2], node.args[1])):
                yield kept, f"there is no choice in it, `{text_of(gone)}` never comes"
            exchanged = [node.args[0], node.args[2], node.args[1]]
            yield ast.Call(node.func, exchanged, []), "the two sides of where are exchanged"
            for one in ("any", "all"):
                whole = ast.Call(ast.Attribute(node.args[0], one, ast.Load()), [], [])
                yield (
                    ast.Call(node.func, [whole, *node.args[1:]], []),
                    "one answer for the whole batch, where each row needs its own",
                )
        else:
            yield subject, f"`{name}` round `{text_of(subject)}` is missing"
    if name == "clip" and len(node.args) == 3:
        low, high = node.args[1:]
        for side, bound, kept in (("upper", high, "maximum"), ("lower", low, "minimum")):
            other = low if bound is high else high
            one = ast.Call(ast.Attribute(node.func.value, kept, ast.Load()), [subject, other], [])
            yield one, f"the {side} bound is missing"
    if name == "sqrt":
        yield _square(node.args[0]), "a square stands where a root belongs"
    if name in ("at", "sqrt", "reshape") or method:
        yield from _inside_out(node)
    if name in TWINS:
        twin = TWINS[name]
        func = (
            ast.Attribute(node.func.value, twin, ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(twin, ast.Load())
        )
        yield ast.Call(func, node.args, node.keywords), f"`{twin}` stands where `{name}` belongs"
    if name == "at" and len(node.args) == 3:
        yield from _of_step(node, 1)
    if any(word.arg == "axis" for word in node.keywords):
        rest = [word for word in node.keywords if word.arg not in ("axis", "keepdims")]
        keep = [word for word in node.keywords if word.arg == "keepdims"]
        for axis in (0, 1, -1, None):
            changed = [*rest, ast.keyword("axis", ast.Constant(axis)), *keep]
            told = "all axes at once" if axis is None else f"axis {axis}"
            yield ast.Call(node.func, node.args, changed), f"this runs over {told}"


def _inside_out(node: ast.Call) -> Iterator[Change]:
    """sqrt(1 - a) as 1 - sqrt(a), and the like."""
    if node.args and isinstance(node.args[0], ast.BinOp):
        inner = node.args[0]
        for sides in (
            (ast.Call(node.func, [inner.left], []), inner.right),
            (inner.left, ast.Call(node.func, [inner.right], [])),
        ):
            yield ast.BinOp(sides[0], inner.op, sides[1]), f"`{_called(node)}` ends too early"


def _of_step(node: ast.Call, place: int) -> Iterator[Change]:
    for sign, told in ((ast.Sub(), "early"), (ast.Add(), "late")):
        step = ast.BinOp(node.args[place], sign, ast.Constant(1))
        args = [*node.args[:place], step, *node.args[place + 1 :]]
        yield ast.Call(node.func, args, []), f"the index is one too {told}"


def _of_index(node: ast.Subscript) -> Iterator[Change]:
    if not isinstance(node.ctx, ast.Load):
        return
    places = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for i, place in enumerate(places):
        if isinstance(place, ast.Name):
            for sign, told in ((ast.Sub(), "early"), (ast.Add(), "late")):
                step = ast.BinOp(place, sign, ast.Constant(1))
                moved = [*places[:i], step, *places[i + 1 :]]
                index = ast.Tuple(moved, ast.Load()) if len(moved) > 1 else step
                yield (
                    ast.Subscript(node.value, index, ast.Load()),
                    f"the index is one too {told}",
                )


def _of_comparison(node: ast.Compare) -> Iterator[Change]:
    for other in COMPARED.get(type(node.ops[0]), ()):
        new = ast.Compare(node.left, [other()], node.comparators)
        yield new, f"the comparison is not `{text_of(node)}`"


def _of_constant(node: ast.Constant) -> Iterator[Change]:
    if type(node.value) in (int, float):
        for value in (node.value + 1, node.value - 1, 2 * node.value, node.value / 2):
            if value != node.value:
                yield ast.Constant(value), f"{value:g} stands where {node.value:g} belongs"


def _of_sign(node: ast.UnaryOp) -> Iterator[Change]:
    if isinstance(node.op, ast.USub | ast.Invert | ast.Not):
        told = "the minus" if isinstance(node.op, ast.USub) else "the not"
        yield node.operand, f"{told} is missing"


def _of_attribute(node: ast.Attribute) -> Iterator[Change]:
    if node.attr == "T":
        yield node.value, "the transposition is missing"
    for one, other in (("alpha_bar", "beta"), ("beta", "alpha_bar")):
        if node.attr == one and isinstance(node.ctx, ast.Load):
            new = ast.Attribute(node.value, other, ast.Load())
            yield new, f"{other} stands where {one} belongs"
            yield (
                ast.BinOp(ast.Constant(1), ast.Sub(), new),
                f"1 - {other} stands where {one} belongs",
            )


def _of_name(node: ast.Name, names: list[str]) -> Iterator[Change]:
    """A variable changed, or another one in its place."""
    if node.id not in names:
        return
    one = ast.Constant(1)
    moved = [ast.BinOp(node, sign, one) for sign in (ast.Sub(), ast.Add())]
    for new in (ast.BinOp(one, ast.Sub(), node), _root(node), _square(node), *moved):
        yield new, f"`{text_of(new)}` stands where `{node.id}` belongs"
    for other in names:
        if other != node.id:
            yield ast.Name(other, ast.Load()), f"`{other}` stands where `{node.id}` belongs"
