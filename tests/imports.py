"""What happens when a module is imported first in a process, followed in the source: no process a module is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One top-level statement: the modules it imports, the names it takes of the first, and the names it binds."""

    imports: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    binds: frozenset[str] = frozenset()


class Modules(dict[str, list[Step]]):
    """The modules of a package by dotted name."""

    @classmethod
    def of(cls, package: Path) -> Modules:
        """Read every file below ``package``; links to folders are followed."""
        found = cls()
        for path in sorted(_files(package)):
            parts = path.relative_to(package.parent).with_suffix("").parts
            if parts[-1] != "__main__":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = list(_steps(tree.body))
        return found

    def importing(self, name: str) -> str | None:
        """Why ``import name`` fails in a fresh process; None where it does not."""
        try:
            self._load(name, {})
        except ImportError as error:
            return str(error)
        return None

    def _load(self, name: str, bound: dict[str, set[str]]) -> None:
        """Run a module's statements in order, its parents first; ``bound`` holds the names of modules so far."""
        if name in bound or name not in self:
            return
        parent, _, last = name.rpartition(".")
        self._load(parent, bound)
        if name in bound:
            return
        bound[name] = set()
        for step in self[name]:
            for module in step.imports:
                self._load(module, bound)
            for taken in step.takes:
                self._take(name, step.imports[0], taken, bound)
            bound[name] |= step.binds
        if parent in bound:
            bound[parent].add(last)

    def _take(self, name: str, module: str, taken: str, bound: dict[str, set[str]]) -> None:
        if module in self and taken not in bound[module]:
            self._load(f"{module}.{taken}", bound)
            if f"{module}.{taken}" not in bound:
                raise ImportError(f"{name}: {module} has no {taken}, or not yet")


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            yield from _files(path)
        elif path.suffix == ".py":
            yield path


def _steps(body: list[ast.stmt]) -> Iterator[Step]:
    """Statements that an import runs, those in `if` and `try` included, without those for type checkers only."""
    for one in body:
        if isinstance(one, ast.If):
            if "TYPE_CHECKING" not in ast.dump(one.test):
                yield from _steps(one.body)
            yield from _steps(one.orelse)
        elif isinstance(one, ast.Try):
            yield from _steps([*one.body, *(s for h in one.handlers for s in h.body), *one.orelse, *one.finalbody])
        elif isinstance(one, ast.Import):
            names = frozenset(alias.asname or alias.name.partition(".")[0] for alias in one.names)
            yield Step(tuple(alias.name for alias in one.names), (), names)
        elif isinstance(one, ast.ImportFrom):
            names = frozenset(alias.asname or alias.name for alias in one.names)
            yield Step((str(one.module),), tuple(alias.name for alias in one.names), names)
        elif isinstance(one, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            yield Step(binds=frozenset({one.name}))
        else:
            stored = (n for n in ast.walk(one) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            yield Step(binds=frozenset(n.id for n in stored))
