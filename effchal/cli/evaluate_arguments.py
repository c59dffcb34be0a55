"""What `effchal evaluate` takes beside keys of the config, as the keys that it stands for.

`effchal lm_eval` takes the models and decodings too.

data=questions.jsonl    a file of one's own questions, or a list of them: scenario.data
grader=mine.py:grade    evaluate.grader
bundle=[a,b]            several models, as if their folders were typed
baseline=true           the base model first, as if the word `base` were typed
decoding=greedy,sled    several decodings, as Hydra's -m asks for them
"""

from typing import Any

from effchal.cli.overrides import as_read, key_of, parse_override, quote, typed_paths
from effchal.cli.several_models import BASE
from effchal.config import ConfigError

WITHOUT_QUESTIONS = ("helm", "serve")  # commands without questions of one's own
REUSE = "evaluate.reuse=true"  # several models: none is evaluated twice; what is typed wins
COMPARED = ("decoding", "prompt")  # groups of which several values make a comparison


def question_words(words: list[str]) -> list[str]:
    """The words with `data` and `grader` as what they stand for.

    Questions of one's own replace the entries, unless these are typed as well.

    Raises:
        ConfigError: an entry that Hydra cannot read, and that `data` says better.
    """
    result, paths = [], []
    for word in words:
        if "jsonl:path=" in word and not as_read(word)[0]:
            raise ConfigError(f"cannot read {word}; for questions of your own type data=<file>")
        match key_of(word):
            case "data":
                paths += typed_paths(word)
            case "grader":
                result.append(f"evaluate.grader={quote(typed_paths(word)[0])}")
            case _:
                result.append(word)
    if not paths:
        return result
    keys = {key_of(word): word.partition("=")[2] for word in words}
    result.append(f"scenario.data=[{','.join(map(quote, paths))}]")
    if keys.keys().isdisjoint(("scenario", "scenario.entries", "resume_from")):
        result.append("scenario.entries=[]")
    if "scenario.max_instances" in keys and "scenario.max_rows" not in keys:
        result.append(f"scenario.max_rows={keys['scenario.max_instances']}")
    return result


def models_as_words(words: list[str]) -> list[str]:
    """The words with `bundle=[a,b]` as folders, and `baseline=true` as the word `base` before them.

    Raises:
        ConfigError: `baseline` is neither true nor false.
    """
    wants_base = False
    result = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "baseline":
            if value.lower() not in ("true", "false"):
                raise ConfigError(f"baseline must be true or false, got {value!r}")
            wants_base = value.lower() == "true"
        else:
            result.append(word)
    is_list = any(word.startswith("bundle=[") for word in result)
    if is_list or wants_base:
        result = [
            part
            for word in result
            for part in (typed_paths(word) if key_of(word) == "bundle" else [word])
        ]
    return [BASE, *result] if wants_base and BASE not in result else result


def sweep_over(models: list[str], words: list[str]) -> list[str]:
    """The words of an evaluation of several models.

    Raises:
        ConfigError: a key that is of one model alone.
    """
    for key in ("bundle", "resume_from"):
        if any(key_of(word) == key for word in words):
            raise ConfigError(
                f"{key} does not go with several models; a sweep goes on with the same command "
                "and hydra.sweep.dir=<its folder>"
            )
    return [f"bundle={','.join(map(quote, models))}", REUSE, *words]


def has_several_decodings(words: list[str]) -> bool:
    """Whether a word is `decoding=greedy,sled`, or the like of one of decoding's own keys."""
    typed = [word for word in words if key_of(word).partition(".")[0] in COMPARED]
    return any(as_read(word)[0] and parse_override(word).is_sweep_override() for word in typed)


def refuse_questions(command: str, words: list[str]) -> None:
    """Raise ConfigError for `data=` where the command has no use for it."""
    typed = next((w for w in words if key_of(w) in ("data", "scenario.data")), None)
    if command in WITHOUT_QUESTIONS and typed is not None:
        asks = "HELM asks its own entries" if command == "helm" else "a server asks nothing"
        raise ConfigError(
            f"effchal {command} takes no {key_of(typed)}: {asks}. Questions of your own: "
            f"effchal evaluate <run> {typed}; training data: effchal train {typed}"
        )


def swept_models(words: list[str]) -> list[str]:
    """The values of `bundle` in a sweep over nothing else; none in any other sweep."""
    swept = [each for each in map(parse_override, words) if each.is_sweep_override()]
    if len(swept) != 1 or swept[0].key_or_group != "bundle":
        return []
    choices: Any = swept[0].value()
    return [getattr(each, "text", each) for each in choices.list]
