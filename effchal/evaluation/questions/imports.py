"""Which files of its own folder a Python file imports: read from the source, nothing is run."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def imports_of(path: Path) -> tuple[Path, ...]:
    """Files of the folder of `path` that it imports, directly or through others; sorted.

    Also those that a function imports when it is called. What is imported by a name that the
    program makes itself (importlib) is not found, nor is a file that is read as data.
    """
    folder = path.parent
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        for each in direct_imports(waiting.pop(), folder):
            if each != path and each not in found:
                found.add(each)
                waiting.append(each)
    return tuple(sorted(found))


def direct_imports(path: Path, folder: Path) -> Iterator[Path]:
    """Files below `folder` that an import statement of a file loads."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # nothing that can be imported
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                dotted = [each.name for each in names]
            case ast.ImportFrom(module, names, level):
                start = "" if level == 0 else package_of(path, folder, level)
                base = ".".join(part for part in (start, module) if part)
                dotted = [base, *(f"{base}.{each.name}".lstrip(".") for each in names)]
            case _:
                continue
        for name in dotted:
            yield from files_of(name, folder)


def package_of(path: Path, folder: Path, level: int) -> str:
    """The package that a relative import of a file starts from."""
    parts = path.relative_to(folder).parts[:-1]
    return ".".join(parts[: len(parts) - level + 1])


def files_of(name: str, folder: Path) -> Iterator[Path]:
    """The files that `import <name>` loads from a folder: its packages, and the module itself."""
    parts = [part for part in name.split(".") if part]
    if not parts or not is_from(parts[0], folder):
        return
    for depth in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:depth])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file
                break


def is_from(top: str, folder: Path) -> bool:
    """Whether a module without dots would come from a folder, not from Python or its packages."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return any(place is not None and folder in Path(place).parents for place in places)
