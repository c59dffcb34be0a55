"""GGUF files: read back by transformers and by the package's own reader, or refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from support.exports import CPU, save_base
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from effchal.config import ConfigError, ModelConfig
from effchal.config.choices import Dtype, GgufType
from effchal.exporting import gguf_file, gguf_tokenizer
from effchal.exporting.read_back import read_gguf
from effchal.model.load import load_base_model
from effchal.model.tokenizer import load_tokenizer

IDS = torch.arange(1, 41)[None]
TEXTS = [
    "Hello,  world!\n\n\tTab 12345",
    "it's Grüße 你好 🙂",
    " <|end|> x",
    "def f(a):\n    return a",
]
FAMILIES = {
    "llama": ("Llama", {}),
    "llama, tied, other heads": ("Llama", {"tie_word_embeddings": True, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "qwen2": ("Qwen2", {"vocab_size": 264}),
    "qwen3": ("Qwen3", {"vocab_size": 264, "head_dim": 128}),
}
SOURCE = SimpleNamespace(base=SimpleNamespace(dtype=Dtype.float32))


def write(folder, kind=GgufType.f32, tokenizer=None):
    """The model in a folder as GGUF; the model, its tokenizer and the file."""
    cfg = ModelConfig(name=str(folder), dtype=Dtype.float32, max_seq_len=128)
    model, file = load_base_model(cfg, CPU), folder / "alone" / "model.gguf"
    file.parent.mkdir()
    tokenizer = tokenizer or load_tokenizer(cfg)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    end = tokenizer.eos_token_id
    gguf_file.write_gguf(file, model, tokenizer, end, kind, "a name")
    return model, tokenizer, file


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_read_back_as_it_was(tmp_path, family):
    kind, more = FAMILIES[family]
    model, tokenizer, file = write(save_base(tmp_path / "base", kind, **more))
    gguf_file.check_convertible(model.config)
    found, its_tokenizer = read_gguf(file, SOURCE, CPU)
    assert (logits(found) - logits(model)).abs().max() < 1e-5
    assert found.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert its_tokenizer.chat_template == tokenizer.chat_template
    assert its_tokenizer.eos_token_id == tokenizer.eos_token_id
    assert [its_tokenizer(t).input_ids for t in TEXTS] == [tokenizer(t).input_ids for t in TEXTS]


@pytest.mark.parametrize(
    ("kind", "stored", "most"),
    [
        (GgufType.f16, GGMLQuantizationType.F16, 1e-4),
        (GgufType.q8_0, GGMLQuantizationType.Q8_0, 1e-3),
    ],
)
def test_the_packages_reader_finds_weights_of_the_type(tmp_path, kind, stored, most):
    model, _, file = write(save_base(tmp_path / "base"), kind)
    reader = GGUFReader(file)
    tensors = {each.name: each for each in reader.tensors}
    assert tensors["blk.0.attn_norm.weight"].tensor_type == GGMLQuantizationType.F32
    up = tensors["blk.1.ffn_up.weight"]
    assert up.tensor_type == stored
    exact = model.model.layers[1].mlp.up_proj.weight.numpy()
    assert np.abs(dequantize(up.data, up.tensor_type) - exact).max() < most
    assert reader.fields["llama.context_length"].contents() == 512
    assert reader.fields["general.name"].contents() == "a name"
    assert reader.fields["tokenizer.ggml.eot_token_id"].contents() == 256


def test_rows_that_no_block_fills_are_float16(tmp_path):
    _, _, file = write(save_base(tmp_path / "base", intermediate_size=100), GgufType.q8_0)
    types = {each.name: each.tensor_type for each in GGUFReader(file).tensors}
    assert types["blk.0.ffn_down.weight"] == GGMLQuantizationType.F16
    assert types["blk.0.ffn_up.weight"] == GGMLQuantizationType.Q8_0


def test_weights_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"k_proj\.weight has weights beyond float16; give"):
        gguf_file._as_type(np.full((2, 32), 7e4, np.float32), GgufType.f16, "k_proj.weight")
    gguf_file._as_type(np.full((2, 32), 7e4, np.float32), GgufType.f32, "k_proj.weight")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (transformers.GemmaConfig(), "and this model is a gemma"),
        (transformers.LlamaConfig(attention_bias=True), "has another attention_bias than"),
        (transformers.LlamaConfig(mlp_bias=True), "has another mlp_bias than"),
        (transformers.Qwen3Config(head_dim=64), "has another head_dim than"),
        (transformers.LlamaConfig(hidden_act="gelu"), "has another hidden_act than"),
        (
            transformers.LlamaConfig(
                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
            ),
            "has another rope_type than",
        ),
        (
            transformers.Qwen2Config(use_sliding_window=True, max_window_layers=4),
            "has another layer_types than",
        ),
    ],
)
def test_what_is_not_proven_is_refused(config, why):
    with pytest.raises(ConfigError, match=f"to=gguf.*{why}.*convert_hf_to_gguf.py"):
        gguf_file.check_convertible(config)


def test_the_context_is_no_longer_than_the_window():
    assert gguf_file.context_length(transformers.MistralConfig(sliding_window=4096)) == 4096
    assert gguf_file.context_length(transformers.MistralConfig(sliding_window=None)) == 131072
    assert gguf_file.context_length(transformers.Qwen2Config()) == 32768


def byte_level(*before):
    backend = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=before[-1:] != ("split",))
    parts = [part for part in before if part != "split"]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, last]) if parts else last
    backend.decoder = decoders.ByteLevel()
    return backend, pre_tokenizers.ByteLevel.alphabet()


def split(name):
    """llama.cpp's `name` as tokenizer.json has it."""
    pattern = next(each for each, other in gguf_tokenizer.SPLITS.items() if other == name)
    return byte_level(pre_tokenizers.Split(Regex(pattern), "isolated"), "split")


def sentence_pieces():
    """As the tokenizer.json of Llama 2 and Mistral 7B."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend, []


KINDS = {
    "gpt-2": byte_level,
    "smollm": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "llama-bpe": lambda: split("llama-bpe"),
    "qwen2": lambda: split("qwen2"),
    "default": sentence_pieces,
}


def trained(name):
    """A tokenizer of this kind, its merges learned from this file."""
    backend, alphabet = KINDS[name]()
    is_pieces = name == "default"
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))] if is_pieces else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    if is_pieces:  # bytes are tokens like others there, not special ones
        tree = json.loads(backend.to_str())
        tree["added_tokens"] = tree["added_tokens"][:3]
        backend = Tokenizer.from_str(json.dumps(tree))
    backend.add_special_tokens(["<|end|>"])
    backend.add_tokens([AddedToken("<call>", normalized=False)])
    ends = {"unk_token": "<unk>", "bos_token": "<s>"} if is_pieces else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>", **ends
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_tokenizer_is_read_back_with_the_same_ids(tmp_path, name):
    tokenizer = trained(name)
    rows = len(tokenizer) + 6  # more embeddings than tokens, as many models have
    _, _, file = write(save_base(tmp_path / "base", vocab_size=rows), tokenizer=tokenizer)
    _, found = read_gguf(file, SOURCE, CPU)
    for text in [*TEXTS, " ".join(TEXTS), "a <call> b<|end|>"]:
        if name == "default" and "> " in text:
            continue  # transformers reads such a file with one space less there
        assert found(text).input_ids == tokenizer(text).input_ids, text
    fields = GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == name
    types = fields["tokenizer.ggml.token_type"].contents()
    ids = tokenizer.convert_tokens_to_ids(["<|end|>", "<call>"])
    assert [types[number] for number in ids] == [3, 4]  # control, user-defined
    assert types[-6:] == [5] * 6  # unused
    if name == "default":
        assert types[: 3 + 256] == [2, 3, 3, *[6] * 256]  # unknown, control, bytes


def test_a_tokenizer_that_llama_cpp_may_not_know_is_refused():
    backend, _ = byte_level(pre_tokenizers.Whitespace())
    tree = json.loads(backend.to_str())
    with pytest.raises(ConfigError, match="cuts texts in a way not known here"):
        gguf_tokenizer.pre_tokenizer(tree, has_merges=True)
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), eos_token="a"
    )
    with pytest.raises(ConfigError, match="is a WordLevel, no BPE"):
        gguf_tokenizer.add_tokenizer(None, other, 0, 1)


def test_more_tokens_than_embeddings_are_refused():
    with pytest.raises(ConfigError, match="beyond the model's 10 embeddings"):
        gguf_tokenizer.vocabulary(trained("gpt-2"), 10)
