"""What an option takes: ``--recipe``, ``--target`` and ``--set`` without a value print it and end the command."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from onnxptq.errors import printable

if TYPE_CHECKING:
    from onnxptq.recipe import Recipe


class Listing(Action):
    """An option whose value may be left out, which prints what it takes."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        rows: Callable[[Namespace], str],
        repeated: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(option_strings, dest, nargs="?", **more)
        self._rows, self._repeated = rows, repeated

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value; without one print the list and end."""
        if values is None:
            print(printable(self._rows(namespace)))
            parser.exit()
        held = [*getattr(namespace, self.dest), values] if self._repeated else values
        setattr(namespace, self.dest, held)


def recipes(args: Namespace) -> str:
    """Each recipe that ships, with what it does."""
    from onnxptq.recipe import Recipe

    rows = [(name, Recipe.load(name).description) for name in Recipe.names()]
    return _columns([*rows, ("FILE.toml", "a recipe of your own; `--set` changes single fields of any")])


def targets(args: Namespace) -> str:
    """Each target, with what it is."""
    from onnxptq.targets.target import Target

    return _columns([(name, Target.load(name).description) for name in Target.names()])


def settings(args: Namespace) -> str:
    """The settings of the recipe that was named before, each with its values and the one it has."""
    from onnxptq.cli.values import RECIPE
    from onnxptq.recipe import Recipe

    recipe = Recipe.load(getattr(args, "recipe", None) or RECIPE)
    blocks = [
        f"settings of recipe {recipe.name}; write --set NAME=VALUE, as often as you like",
        _columns([(name, " or ".join(values)) for name, values in recipe.switches.items()]),
        _columns(
            [
                ("passes", f"names, or off; now {','.join(recipe.passes) or 'off'}"),
                ("selection", f"recipes to compare with, or off; now {','.join(recipe.selection) or 'off'}"),
                *_guard(recipe),
                *_passes(recipe),
            ]
        ),
        _columns(_section("weights", recipe)),
        _columns(_section("activations", recipe)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _guard(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.guard is not None:
        for name, limit in vars(recipe.guard).items():
            yield f"guard.{name}", f"decibels; now {limit:g}"


def _passes(recipe: Recipe) -> Iterator[tuple[str, str]]:
    from onnxptq.passes import passes

    for name in recipe.passes:
        one = passes()[name]
        given = {**one.options, **recipe.pass_options.get(name, {})}
        for option, now in given.items():
            yield f"pass.{name}.{option}", _values(one, option, now)


def _section(section: str, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The fields of a section, and the options of the calibrators that the recipe gives to its sites."""
    from onnxptq.calibrators import calibrators, weight_calibrators
    from onnxptq.placement import GRANULARITIES
    from onnxptq.recipe_text import takers
    from onnxptq.structure import Role

    weights = section == "weights"
    others = [role.value for role in Role if role is not Role.WEIGHT]
    if not weights:
        yield "activations", f"or one role alone: {', '.join(others)}"
    roles = frozenset({Role.WEIGHT}) if weights else frozenset(Role) - {Role.WEIGHT}
    known = weight_calibrators() if weights else calibrators()
    yield f"{section}.calibrator", ", ".join(sorted(known))
    yield f"{section}.bits", "2 to 8, or 32 to leave the sites in float"
    yield f"{section}.granularity", ", ".join(GRANULARITIES)
    yield f"{section}.symmetric", "true or false"
    told = set()
    for one in takers(recipe, roles):
        for option, default in one.options.items():
            if option not in told:
                told.add(option)
                now = _given(recipe, roles, option, default)
                yield f"{section}.{option}", f"{_values(one, option, now)} ({one.name})"


def _given(recipe: Recipe, roles: frozenset[Any], option: str, default: Any) -> Any:
    """The value that the last general rule of the recipe gives."""
    found = [rule.changes["options"].get(option, default) for rule in recipe.rules if rule.roles == roles]
    return found[-1] if found else default


def _values(one: Any, option: str, now: Any) -> str:
    """The values that an option takes, and the one it has."""
    from onnxptq.options import KINDS

    kind = KINDS[type(one.options[option])]
    if option in one.choices:
        kind = ", ".join(map(str, one.choices[option]))
    elif option in one.limits:
        low, high = one.limits[option]
        kind = f"{kind} from {low} to {high}"
    shown = str(now).lower() if isinstance(now, bool) else ",".join(now) if isinstance(now, (list, tuple)) else now
    return f"{kind}; now {shown if shown != '' else 'none'}"


def _columns(rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> str:
    """Names and what they are, aligned."""
    held = list(rows)
    width = max((len(name) for name, _ in held), default=0)
    return "\n".join(f"{name.ljust(width)}  {about}" for name, about in held)
