"""Write docs/configuration.md, the page of all config keys, from the schema's comments.

python scripts/write_config_page.py
"""

from pathlib import Path

from effchal.cli.command_help import COMMANDS, choices_of_groups
from effchal.cli.compose import compose_config
from effchal.config.describe import Key, describe, groups

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
LONGEST = 60  # characters of a default that a table shows
INTRODUCTION = """\
# Configuration

<!-- Written by scripts/write_config_page.py from the comments in effchal/config/. -->

Every command takes its settings from YAML files under `conf/` and from what you type:

- `group=file` takes another file of a group: `effchal train data_mix=lima_platypus`.
- `key=value` sets one key: `effchal train lora.r=64 'lora.target_modules=[q_proj, v_proj]'`.
- `experiment=name` takes a named set of changes from `conf/experiment/`.

A typed key wins over an experiment, an experiment over a group file, and a group file over the
schema. An experiment also wins over a group that is typed beside it. Unknown keys and wrong
types stop a command before it starts; a word of another program, such as `learning_rate`, leads
to the key here. `effchal train --help` lists the keys that this command reads, and
`effchal train --cfg job` prints the config that it would run with.

The defaults below are what holds when you type nothing.
"""


def page() -> str:
    """The whole page as Markdown."""
    keys, files, about = describe(compose_config([])), choices_of_groups(), groups()
    shown = {key.group for key in keys}
    keys += [key for key in describe() if key.group not in shown]  # of a group that is null
    experiments = ", ".join(f"`{name}`" for name in files["experiment"])
    parts = [INTRODUCTION, f"Experiments: {experiments}.\n", "## Keys of no group\n"]
    parts.append(table([key for key in keys if not key.group]))
    for group, meaning in about.items():
        parts.append(f"## {group}\n\n{meaning}\n")
        readers = [f"`{name}`" for name, each in COMMANDS.items() if group in each.reads.split()]
        parts.append(f"Read by {', '.join(readers)}.\n")
        if group in files:
            names = ", ".join(f"`{group}={name}`" for name in files[group])
            parts.append(f"Files of this group: {names}.\n")
        parts.append(table([key for key in keys if key.group == group]))
    return "\n".join(parts)


def table(keys: list[Key]) -> str:
    rows = [
        (f"`{key.name}`", key.type, default(key), key.unit, prose(key.meaning), choices(key))
        for key in keys
    ]
    head = ("Key", "Type", "Default", "Unit", "Meaning", "Choices")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    cells.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def default(key: Key) -> str:
    if key.default == "required":
        return key.default
    return f"`{key.default}`" if len(key.default) <= LONGEST else "as the group's file says"


def choices(key: Key) -> str:
    lines = [f"`{value}`: {prose(text)}".removesuffix(": ") for value, text in key.choices.items()]
    return "<br>".join(lines)


def prose(text: str) -> str:
    return text.replace("<", "&lt;")  # Markdown would take <file> for a tag


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
