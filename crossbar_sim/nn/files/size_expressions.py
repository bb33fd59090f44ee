"""Size expressions of exported graphs, which torch evaluates as code: those that are plain arithmetic pass.

torch writes a dynamic size as text (`Symbol('s77', positive=True, integer=True)`, or `2*s0 + 1` in older files) and
reads it back with `sympy.sympify`, which is `eval`. What passes here consists of symbols, bounded numbers,
arithmetic, comparisons and the named functions below, and of nothing else.
"""

import ast
import re

from crossbar_sim.errors import InputError
from crossbar_sim.text import words

_LONGEST = 1000
_LARGEST = 2**63

# sympy takes seconds to minutes for few of these inside each other; exports nest them once or twice.
_MOST_PARTS, _MOST_HARD, _DEEPEST, _MOST_SYMBOLS = 150, 6, 60, 8
_HARD = frozenset(["Max", "Min", "ModularIndexing", "Pow", "Where", "Piecewise"])
_MOST_DISTINCT, _MOST_IN_ALL = 2000, 60_000
"""Different expressions of an archive, and their parts together. A real one has a few dozen."""

# No backslash, no `#`, no `[`, no `{`, no non-ASCII: nothing for a tokenizer to read in two ways.
_CHARACTERS = re.compile(r"[A-Za-z0-9_ +\-*/%().,<>=!']*")
# s0 backed and u0 unbacked sizes; zf0, zuf0 floats. Five digits: torch counts up to the number.
SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,5}")

_FUNCTIONS = words(
    """
    Integer Float Rational Add Mul Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv
    ModularIndexing IntTrueDiv FloatTrueDiv ToFloat CeilToInt FloorToInt TruncToInt RoundToInt
    TruncToFloat Where Identity Eq Ne Lt Le Gt Ge And Or Not Equality Unequality LessThan
    GreaterThan StrictLessThan StrictGreaterThan floor ceiling
    """
)
_ASSUMPTIONS = words(
    """
    positive integer nonnegative nonzero negative real finite zero even odd
    """
)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def check_expression(text: object) -> str:
    """Return `text` if it is a size expression; raises InputError quoting it otherwise."""
    allowed: ast.expr | None = None
    if isinstance(text, str) and len(text) <= _LONGEST and _CHARACTERS.fullmatch(text):
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            if _allowed(tree):
                allowed = tree
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    if allowed is not None and isinstance(text, str):
        _check_effort(allowed, text)
        return text
    raise InputError(
        f"the archive holds the size expression {str(text)[:80]!r}, which is not plain arithmetic "
        "on sizes; torch would run it as code, so it is refused"
    )


def check_expressions(program: object) -> None:
    """Refuse a program whose size expressions are, in total, more than torch's symbolic algebra can handle.

    Raises:
        InputError: with the number and the limit.
    """
    found: set[str] = set()
    waiting = [program]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(text := value.get("expr_str"), str):
                found.add(text)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    if len(found) > _MOST_DISTINCT:
        raise InputError(
            f"the archive has {len(found)} different size expressions, and at most {_MOST_DISTINCT} are read: export "
            "the model with fewer dynamic sizes"
        )
    for text in found:
        check_expression(text)
    parts = sum(_effort(ast.parse(text.strip(), mode="eval").body)[0] for text in found)
    if parts > _MOST_IN_ALL:
        raise InputError(
            f"the archive's size expressions have {parts} parts in all, and at most {_MOST_IN_ALL} are read: export "
            "the model with fewer dynamic sizes"
        )


def _check_effort(tree: ast.expr, text: str) -> None:
    """Refuse an expression that is plain arithmetic but too large."""
    parts, hard, depth, symbols = _effort(tree)
    if parts > _MOST_PARTS or hard > _MOST_HARD or depth > _DEEPEST or symbols > _MOST_SYMBOLS:
        raise InputError(
            f"the archive holds the size expression {text[:80]!r} of {parts} parts, {hard} maxima, powers and the "
            f"like, {depth} levels and {symbols} symbols (at most {_MOST_PARTS}, {_MOST_HARD}, {_DEEPEST} and "
            f"{_MOST_SYMBOLS}): torch could take for ever to read it, so it is refused; export the model with fewer "
            "dynamic sizes"
        )


def _effort(tree: ast.expr) -> tuple[int, int, int, int]:
    """The numbers of parts, of parts that are slow in sympy, of levels, and of different symbols."""
    parts, hard, deepest, symbols = 0, 0, 0, set()
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, ast.expr):
            parts, deepest = parts + 1, max(deepest, depth)
        match node:
            case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
                symbols.add(name)
                continue
            case ast.Call(func=ast.Name(id=name), args=args):
                hard += name in _HARD
                waiting += [(arg, depth + 1) for arg in args]
                continue
            case ast.Name(id=name):
                symbols.add(name)
            case ast.BinOp(op=ast.Pow()):
                hard += 1
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return parts, hard, deepest, len(symbols)


def _allowed(node: ast.expr, inside_power: bool = False) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int() | float() as number):
            return abs(number) <= _LARGEST
        case ast.Name(id=name):
            return SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _allowed(operand, inside_power)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            return _power(base, exponent, inside_power)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _ARITHMETIC) and all(_allowed(side, inside_power) for side in (left, right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return all(isinstance(op, _COMPARISONS) for op in ops) and all(
                _allowed(side, inside_power) for side in (left, *others)
            )
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
            return SYMBOL.fullmatch(name) is not None and all(
                keyword.arg in _ASSUMPTIONS
                and isinstance(keyword.value, ast.Constant)
                and isinstance(keyword.value.value, bool)
                for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _power(base, exponent, inside_power)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str() as digits)]):
            # sympy prints Float('0.5', precision=53).
            return re.fullmatch(r"-?\d{1,20}(\.\d{1,30})?", digits) is not None and all(
                keyword.arg == "precision"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value == 53
                for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return name in _FUNCTIONS and all(_allowed(arg, inside_power) for arg in args)
    return False


def _power(base: ast.expr, exponent: ast.expr, inside_power: bool) -> bool:
    """A small constant power, never a power of a power: 9**9**9**9 would never end."""
    match exponent:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            exponent = inner
    match exponent:
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            exponent = inner
    small = isinstance(exponent, ast.Constant) and type(exponent.value) is int and 0 <= exponent.value <= 8
    return small and not inside_power and _allowed(base, inside_power=True)
