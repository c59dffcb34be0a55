"""The program: effchal <command> [folder] [overrides] [flags]. python -m effchal is the same."""

import difflib
import importlib
import os
import signal
import sys

from effchal import __version__


def main() -> None:
    """Run the command that the first argument names; exit code 2 where there is no such command."""
    try:
        run()
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`: nobody reads any more, also not what is left to print
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def run() -> None:
    command, *rest = sys.argv[1:] or ["--help"]
    if command == "--version":
        print(f"effchal {__version__}")
        return
    from effchal.cli import arguments, command_help, completion, failures

    if command == "--completion":
        with failures.one_line_errors():
            print(completion.script(*rest[:1]))
    elif command == "--complete":
        print("\n".join(completion.complete(*rest[:1])))
    elif command in ("--help", "-h"):
        print(f"effchal {__version__}\n\n{command_help.list_commands()}")
    elif command not in command_help.COMMANDS:
        near = difflib.get_close_matches(command, command_help.COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else "effchal --help lists the commands"
        sys.exit(failures.fail(f"no command {command!r}; {meant}"))
    else:
        sys.argv = [f"effchal {command}", *rest]
        reads_config = bool(command_help.COMMANDS[command].reads)
        if reads_config and arguments.wants_help(rest):  # before the import, which may bring torch
            return command_help.print_help(command, rest)
        importlib.import_module(f"effchal.{command}").main()


if __name__ == "__main__":
    main()
