"""The closed choices of the config. Enums, not strings: YAML `None` is the string "None".

A comment behind a choice is its line in the documentation; `effchal.config.describe` reads it.
"""

from enum import Enum


class Quantization(Enum):
    nf4 = "nf4"


class Dtype(Enum):
    auto = "auto"  # bfloat16 where the device computes with it, else float32
    bfloat16 = "bfloat16"
    float32 = "float32"


class Template(Enum):
    own = "own"  # the texts of prompt.*
    tokenizer = "tokenizer"  # the chat template of the model's tokenizer
    auto = "auto"  # the tokenizer's where it has one, else own


class DataFormat(Enum):
    auto = "auto"  # by the fields of the first rows
    lima = "lima"  # conversations: [question, answer, question, answer, ...], source
    platypus = "platypus"  # instruction, input, output: also Alpaca's
    messages = "messages"  # messages: [{role, content}, ...], as OpenAI has them
    sharegpt = "sharegpt"  # conversations: [{from, value}, ...]
    prompt_completion = "prompt_completion"  # prompt, completion: texts, or lists of messages
    text = "text"  # text: learned as it stands, without a template


class Match(Enum):
    exact = "exact"  # the answer is the right one, white space at both ends aside
    quasi_exact = "quasi_exact"  # HELM's: upper case, punctuation and articles aside, too
    starts_with = "starts_with"  # the answer begins with the right one
    contains = "contains"  # the right one stands in the answer, in upper or lower case
    regex = "regex"  # Python's re finds the right one, a pattern, somewhere in the answer
    number = "number"  # the last numbers of both are equal
    rouge_1 = "rouge_1"  # F1 of words
    rouge_2 = "rouge_2"  # F1 of pairs of words
    rouge_l = "rouge_l"  # F1 of the longest common subsequence


class Parallel(Enum):
    auto = "auto"  # data, or fsdp where only that fits the GPU
    data = "data"  # each GPU holds the whole base model
    fsdp = "fsdp"  # each GPU holds a share of the layers' weights, and gathers them at each use


class DataEngine(Enum):
    local = "local"  # a process for each core of this machine
    ray = "ray"  # Ray Data, over the machines of a Ray cluster; needs the extra `ray`


class OnFault(Enum):
    keep = "keep"  # not looked for
    report = "report"  # counted and shown, and the rows stay
    drop = "drop"  # counted and shown, and the rows are left out
    refuse = "refuse"  # an error that names the first row


class TooLong(Enum):
    cut = "cut"  # the end is left out
    cut_prompt = "cut_prompt"  # the beginning of the prompt is left out
    split = "split"  # after as many turns as fit, into several examples
    drop = "drop"  # the row is left out


class WeighBy(Enum):
    copies = "copies"  # 2 = two copies of each example in an epoch
    rows = "rows"  # shares of the examples of an epoch
    tokens = "tokens"  # shares of the tokens of an epoch


class LossOn(Enum):
    answers = "answers"
    all = "all"  # the prompts, too
    last = "last"  # the last answer of a conversation


class Optimizer(Enum):
    adamw = "adamw"
    adamw8bit = "adamw8bit"
    paged_adamw = "paged_adamw"
    paged_adamw8bit = "paged_adamw8bit"
    lion8bit = "lion8bit"


class ActivationCheckpointing(Enum):
    none = "none"  # keep all activations: fastest
    selective = "selective"  # recompute inside the MLP, the larger half of all activations
    full = "full"  # keep each layer's input only


class PlanDevice(Enum):
    auto = "auto"  # this machine's GPU; without one, the card of budget.gpu
    cpu = "cpu"  # this machine's
    cuda = "cuda"  # as auto, but refused where neither is known
    a100_40gb = "a100_40gb"
    a100_80gb = "a100_80gb"
    h100 = "h100"
    h200 = "h200"
    l4 = "l4"
    l40s = "l40s"
    rtx_4090 = "rtx_4090"
    rtx_5090 = "rtx_5090"
    rtx_6000_ada = "rtx_6000_ada"
    rtx_pro_6000 = "rtx_pro_6000"
    t4 = "t4"


class BundleOf(Enum):
    last = "last"
    best = "best"  # the weights of the lowest validation loss


class Schedule(Enum):
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class DecodingMethod(Enum):
    greedy = "greedy"
    sample = "sample"
    dola = "dola"  # arXiv:2309.03883
    sled = "sled"  # arXiv:2411.02433

    @property
    def contrasts_layers(self) -> bool:
        """Whether the last layer is contrasted with premature ones."""
        return self not in (DecodingMethod.greedy, DecodingMethod.sample)


class Selector(Enum):
    jsd = "jsd"  # the layer with the largest Jensen-Shannon divergence, as in the DoLa paper
    official = "official"  # what the code published with the paper computes
    static = "static"  # one layer, no choice


class ExportTo(Enum):
    merged = "merged"  # a model of its own: the adapter is in the weights
    adapter = "adapter"  # the adapter, as peft loads it
    gguf = "gguf"  # one file for llama.cpp and what is built on it
    vllm = "vllm"  # what vLLM needs, with the command that serves it


class WeightType(Enum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class GgufType(Enum):
    f32 = "f32"
    f16 = "f16"
    q8_0 = "q8_0"  # 8 bits, a scale for each 32 weights


class Origin(Enum):
    """Who wrote the examples of a source, questions and answers alike."""

    people = "people"
    llm = "llm"  # at least some of them
    unknown = "unknown"


class WandbMode(Enum):
    off = "off"
    offline = "offline"
    online = "online"
