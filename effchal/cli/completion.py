"""Completion of `effchal ...` in bash, zsh and fish: commands, groups, their files, keys, choices.

A shell asks `effchal --complete "<line up to the cursor>"` and gets whole words,
one a line; a word that is complete ends with a space.
"""

from dataclasses import replace

from effchal.cli.arguments import FLAGS
from effchal.cli.command_help import COMMANDS, choices_of_groups
from effchal.config.describe import describe
from effchal.config.errors import ConfigError
from effchal.config.words import GROUPS

SCRIPTS = {
    # bash splits words at "=" and then replaces only what follows it.
    "bash": """\
_effchal() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=($(effchal --complete "$line" 2>/dev/null))
    if [[ "${line##* }" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}
complete -o nospace -o default -F _effchal effchal""",
    "zsh": """\
_effchal() {
    local -a found
    found=("${(@f)$(effchal --complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    [[ -n "$found" ]] && compadd -Q -S '' -- $found || _files
}
compdef _effchal effchal""",
    "fish": """\
complete -c effchal -a \
    '(effchal --complete (commandline -cp) 2>/dev/null | string trim --right)'""",
}


def script(shell: str = "bash") -> str:
    """The shell code that switches completion on.

    Raises:
        ConfigError: a shell that we know no code for.
    """
    if shell not in SCRIPTS:
        raise ConfigError(f"no completion for {shell!r}, only for {', '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def complete(line: str = "") -> list[str]:
    """The words that the last word of a line may become; none where a path is meant."""
    _, *words = line.split(" ")
    current = words[-1] if words else ""
    if len(words) <= 1:
        options = [f"{name} " for name in (*COMMANDS, "--help", "--version", "--completion")]
    elif words[0] not in COMMANDS:
        options = []
    elif current.startswith("-"):
        reads_config = bool(COMMANDS[words[0]].reads)
        options = [f"{flag} " for flag in sorted(FLAGS) if flag.startswith("--")]
        options = options if reads_config else ["--help "]
    else:
        options = _overrides(words[0], current) if COMMANDS[words[0]].reads else []
        if len(words) == 2:
            options += [f"{word} " for word in COMMANDS[words[0]].words]
    return [option for option in options if option.startswith(current)]


def _overrides(command: str, current: str) -> list[str]:
    """`group=file `, `key=`, `key=choice ` and `group.` of what the command reads."""
    reads = COMMANDS[command].reads.split()
    keys = [key for key in describe() if key.group in reads or key.name in reads]
    if command in GROUPS:  # its keys may be typed without their group
        own = [key for key in keys if key.group == command]
        keys += [replace(key, name=key.name.removeprefix(f"{command}.")) for key in own]
    files = {n: f for n, f in choices_of_groups().items() if n in reads or n == "experiment"}
    name, equals, _ = current.partition("=")
    if not equals:
        inside = name.rpartition(".")[0]
        if inside:
            return [f"{key.name}=" for key in keys]
        options = [f"{group}=" for group in files] + [
            f"{key.name}=" for key in keys if not key.group
        ]
        return [*options, *sorted({f"{key.group}." for key in keys if key.group})]
    if name in files:
        return [f"{name}={file} " for file in files[name]]
    values = {key.name: (*key.choices, *_constants(key.type)) for key in keys}
    return [f"{name}={value} " for value in values.get(name, ())]


def _constants(kind: str) -> tuple[str, ...]:
    return {"bool": ("true", "false"), "choice or null": ("null",)}.get(kind, ())
