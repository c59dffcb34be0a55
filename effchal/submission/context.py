"""The build context of a hand-in: the program itself with both Dockerfiles, and its checksums."""

import shutil
from pathlib import Path

from effchal.bundle import sha256
from effchal.cli.compose import PACKAGE
from effchal.config import ConfigError

CHECKSUMS = "SHA256SUMS"
FILES = (
    *("Dockerfile.serve", "Dockerfile.train", ".dockerignore", "constraints.txt"),
    *("pyproject.toml", "LICENSE-APACHE", "LICENSE-MIT"),
)
FOLDERS = ("effchal", "conf")
# What README.md has one put there, and what installing the folder leaves there.
LEFT = ("again", "base_model", "build", "effchal.egg-info")
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")


def project_root() -> Path:
    """The checkout that this program runs from.

    Raises:
        ConfigError: it runs from an installed wheel, which has no Dockerfile.
    """
    root = PACKAGE.parent
    missing = [name for name in (*FILES, *FOLDERS) if not (root / name).exists()]
    if missing:
        raise ConfigError(
            f"a hand-in holds the project's code and Dockerfiles, and {root} has no {missing[0]}; "
            "run effchal from a checkout: pip install -e <checkout>"
        )
    return root


def write_context(folder: Path) -> None:
    """Copy what both images are built from. `folder` can then be built, installed and run."""
    root = project_root()
    for name in FILES:
        shutil.copyfile(root / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(root / name, folder / name, ignore=NOT_CODE, copy_function=shutil.copyfile)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS, which `sha256sum -c` reads, of all other files."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in files_of(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> int:
    """Compare every file with SHA256SUMS; how many there are.

    Raises:
        ConfigError: not a hand-in, or a file is missing, changed or not listed.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise ConfigError(f"{folder} is no folder of effchal submit: it has no {CHECKSUMS}")
    listed: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, found, name = line.partition("  ")
        if not found or len(digest) != 64 or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{path}, line {number}: not a checksum and a file of the folder")
        listed[name] = digest
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is missing; copy the folder again")
        if sha256(folder / name) != digest:
            raise ConfigError(f"{folder / name} is not as it was handed in; copy the folder again")
    if others := sorted(set(files_of(folder)) - set(listed)):
        raise ConfigError(f"{folder / others[0]} is not in {CHECKSUMS}; remove it")
    return len(listed)


def files_of(folder: Path) -> list[str]:
    """Names of all files but SHA256SUMS, from the folder, without what using it leaves there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (p for p in found if "__pycache__" not in p.parts and p.parts[0] not in LEFT)
    return sorted(str(path) for path in kept if str(path) != CHECKSUMS)
