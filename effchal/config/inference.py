"""The schema of what a trained model is used for: serve, scenario, evaluate and helm."""

import re
from collections import Counter
from dataclasses import dataclass, field
from os.path import expanduser

from effchal.config.choices import Match
from effchal.config.errors import (
    ABOVE_0,
    AT_LEAST_1,
    FINITE,
    FINITE_ABOVE_0,
    Bound,
    ConfigError,
    require,
    require_keys,
)


@dataclass
class ServeConfig:
    """The HTTP server and its limits."""

    # Address to listen on. 0.0.0.0 = all of this machine's.
    host: str = "127.0.0.1"
    # Port to listen on.
    port: int = 8080
    # Most prompts in the queue, running ones included. Above it the server answers 503.
    max_waiting: int = 64
    # Most completions that decode together.
    max_rows: int = 16
    # [tokens] How much of new prompts, of all together, is read beside each decode step. More:
    # fewer passes over a prompt, longer pauses for the answers that run.
    prefill_tokens: int = 256
    # [GiB] Keys and values of all running completions.
    cache_gib: float = 4.0
    # [GiB] Keys and values of prompt beginnings, kept for later prompts. 0 = keep none.
    prefix_gib: float = 1.0
    # [GiB] GPU memory that the server may take. null = the whole card.
    memory_gib: float | None = None
    # [tokens] Longest prompt that is accepted.
    max_prompt_tokens: int = 4096
    # [tokens] Longest answer that a request may ask for.
    max_new_tokens: int = 2048
    # [s] Time limit of a request, its wait in the queue included. HELM's client waits as long.
    deadline_s: float = 3000.0
    # [s] After SIGTERM: time to finish the requests that run.
    drain_s: int = 600
    # Web pages that a browser may let ask this server, e.g. [https://example.org]. ["*"] = all.
    cors_origins: list[str] = field(default_factory=list)
    # Let a request carry `decoding`, with keys of decoding.*.
    allow_decoding_override: bool = False
    # Bundles or runs that share one base model, each by the name that a request's `model` gives,
    # e.g. {a: outputs/train/one, b: outputs/train/two}.
    adapters: dict[str, str] = field(default_factory=dict)
    # Add the bundle's adapter to the weights when the server starts: less work for each token.
    # Answers may differ by rounding; the log and GET /v1/models say how far they are apart.
    merge_adapter: bool = False
    # Let requests load and unload adapters: POST /v1/load_lora_adapter, /v1/unload_lora_adapter.
    allow_adapter_updates: bool = False
    # Write prompts and answers into the access log.
    log_prompts: bool = False

    def __post_init__(self) -> None:
        require_keys(self, "serve", Bound("in 1..65535", lambda port: 0 < port < 65536), "port")
        limits = ("max_waiting", "max_rows", "prefill_tokens", "max_prompt_tokens")
        require_keys(self, "serve", AT_LEAST_1, *limits, "max_new_tokens")
        require_keys(self, "serve", FINITE_ABOVE_0, "cache_gib")
        require_keys(self, "serve", ABOVE_0, "memory_gib")
        require_keys(self, "serve", FINITE, "prefix_gib", "drain_s")
        require_keys(self, "serve", ABOVE_0, "deadline_s")
        self.adapters = {name: expanduser(path) for name, path in self.adapters.items()}
        for origin in self.cors_origins:
            ok = re.fullmatch(r"\*|https?://[^/\s]+", origin) is not None
            require(ok, "serve.cors_origins", origin, "* or origins such as https://example.org")


@dataclass
class ScenarioConfig:
    """The questions that `effchal evaluate` scores and `effchal helm` has HELM run."""

    # HELM run entries, without their model; some of our own as well.
    entries: list[str] = field(default_factory=list)
    # Questions of each entry, drawn as HELM draws them.
    max_instances: int = 10
    # Folder with data in HELM's own layout. null = download from the public sources.
    path: str | None = None
    # Your own questions (evaluate): files, folders of files, patterns ("q/*.jsonl") or data sets of
    # the Hugging Face hub. data=questions.jsonl says the same, and leaves the entries out unless
    # they are typed as well.
    data: list[str] = field(default_factory=list)
    # Which part of them, where a folder or a data set has several.
    split: str = "test"
    # Of a data set of the hub: which table, where it has several.
    subset: str | None = None
    # Of a data set of the hub: its commit. null = the newest; the results name it.
    revision: str | None = None
    # Questions of each of these, drawn as HELM draws them. null = all.
    max_rows: int | None = None
    # How an answer is compared where its row does not say. null = number where the right answer is
    # a number of JSON, else exact.
    match: Match | None = None
    # The entries are the 2023 contest's: behind the results stands the place among its finalists.
    contest: bool = False
    # Go on without the entries whose data are not there; the results name them.
    skip_missing: bool = False

    def __post_init__(self) -> None:
        self.path = self.path and expanduser(self.path)
        self.data = [expanduser(path) for path in self.data]
        require_keys(self, "scenario", AT_LEAST_1, "max_instances", "max_rows")
        twice = [entry for entry, count in Counter(self.entries).items() if count > 1]
        if twice:
            raise ConfigError(f"scenario.entries has {twice[0]} more than once")


@dataclass
class EvaluateConfig:
    """How an evaluation runs, and its statistics."""

    # Prompts that decode together; each may have several decodings.
    rows_at_once: int = 8
    # Ask several models on one base model together: one engine, rows of all of them in a batch.
    together: bool = True
    # Resamples of the bootstrap.
    resamples: int = 10_000
    # Confidence level of every interval.
    confidence: float = 0.95
    # [GiB] GPU memory that the evaluation may take. null = the whole card.
    memory_gib: float | None = None
    # Take the answers of a finished evaluation below outputs/ that asked the same model the same.
    # true where several models are typed.
    reuse: bool = False
    # Grades the answers to your own questions: <file.py>:<function>, called with prompt, answer and
    # row; it returns a number, a bool, or a dict of them. A row with `match` keeps to that.
    grader: str | None = None
    # With decoding=sample, an answer for each of these seeds; the table adds their mean, with the
    # standard deviation over them. [] = one answer, by a seed of its own for each question.
    seeds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grader = self.grader and expanduser(self.grader)
        is_distinct = len(set(self.seeds)) == len(self.seeds)
        require(is_distinct, "evaluate.seeds", self.seeds, "seeds that differ")
        require_keys(self, "evaluate", AT_LEAST_1, "rows_at_once")
        require_keys(self, "evaluate", ABOVE_0, "memory_gib")
        resamples = Bound("in 100..1000000", lambda count: 100 <= count <= 1_000_000)
        require_keys(self, "evaluate", resamples, "resamples")
        require_keys(self, "evaluate", Bound("in (0, 1)", lambda p: 0 < p < 1), "confidence")


@dataclass
class HelmConfig:
    """How HELM itself is run; scenario.* says on what."""

    # Virtual environment that has HELM installed; scripts/helm.sh makes it.
    environment: str = ".venv-helm"
    # The model's name in HELM's tables and pages. null = effchal/<name of the bundle or model>.
    name: str | None = None
    # [tokens] Prompt and answer together, as in the contest. Give less where the model takes less.
    max_sequence_length: int = 2048
    # Requests that HELM sends at once.
    threads: int = 4
    # [s] How long HELM waits for an answer.
    timeout_s: int = 3000
    # Address of a server that runs already. null = start one.
    url: str | None = None
    # Show HELM's page of the results afterwards, on this machine only, until Ctrl-C.
    page: bool = False

    def __post_init__(self) -> None:
        self.environment = expanduser(self.environment)
        allowed = "<organisation>/<model> of letters, digits, '.', '-' and '_'"
        is_name = self.name is None or re.fullmatch(r"[\w.-]+/[\w.-]+", self.name)
        require(bool(is_name), "helm.name", self.name, allowed)
        at_least_64 = Bound("at least 64", lambda n: n >= 64)
        require_keys(self, "helm", at_least_64, "max_sequence_length")
        require_keys(self, "helm", AT_LEAST_1, "threads", "timeout_s")
        is_url = self.url is None or self.url.startswith(("http://", "https://"))
        require(is_url, "helm.url", self.url, "an address like http://127.0.0.1:8080")
