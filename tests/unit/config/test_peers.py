"""What is said of a word of another program, of a misspelt key, and of a group's wrong name."""

import re

import pytest

from effchal.cli.compose import compose_config
from effchal.config import Config, ConfigError, DecodingConfig
from effchal.config.describe import describe
from effchal.config.nearest import hint, known_keys
from effchal.config.peers import HERE, NONE, PEERS

# By program: each word, and what the hint must name.
WORDS = {
    "transformers": """
        learning_rate=train.lr num_train_epochs=train.epochs
        per_device_train_batch_size=train.micro_batch_size
        gradient_accumulation_steps=train.examples_per_step bf16=model.dtype fp16=model.dtype
        weight_decay=train.weight_decay warmup_ratio=train.warmup_steps,in,steps
        lr_scheduler_type=train.schedule gradient_checkpointing=train.activation_checkpointing
        output_dir=hydra.run.dir save_steps=train.checkpoint_every eval_steps=train.validate_every
        logging_steps=none report_to=track.wandb seed=train.seed deepspeed=none,one,GPU fsdp=none
        neftune_noise_alpha=none optim=train.optimizer save_total_limit=train.keep_checkpoints
        adam_beta1=none run_name=name resume_from_checkpoint=resume_from push_to_hub=none
        label_smoothing_factor=none group_by_length=none load_best_model_at_end=train.bundle=best
        max_steps=train.max_steps max_grad_norm=train.max_grad_norm torch_compile=train.compile
        attn_implementation=none load_in_4bit=model.quantization=nf4
        model_name_or_path=model.name trust_remote_code=none dataloader_num_workers=none""",
    "trl": """
        max_length=model.max_seq_len,in,tokens max_seq_length=model.max_seq_len
        packing=train.packing
        dataset_name=data= dataset_text_field=data_mix.sources.<name>.columns
        completion_only_loss=train.loss_on assistant_only_loss=train.loss_on""",
    "peft": """
        lora_alpha=lora.alpha lora_dropout=lora.dropout target_modules=lora.target_modules
        modules_to_save=none init_lora_weights=none use_dora=lora.use_dora
        use_rslora=lora.use_rslora r=lora.r""",
    "axolotl": """
        sequence_len=model.max_seq_len sample_packing=train.packing
        micro_batch_size=train.micro_batch_size train_on_inputs=train.loss_on
        val_set_size=data_mix.validation_fraction lora_r=lora.r adapter=lora=all_linear
        chat_template=prompt= datasets=data= wandb_project=track.project special_tokens=known
        lora_target_linear=lora.target_modules optimizer=train.optimizer""",
    "llamafactory": """
        cutoff_len=model.max_seq_len lora_rank=lora.r lora_target=lora.target_modules
        template=prompt= dataset=data= quantization_bit=model.quantization
        finetuning_type=lora=all_linear val_size=data_mix.validation_fraction stage=none""",
    "litgpt": """
        global_batch_size=train.examples_per_step lr_warmup_steps=train.warmup_steps
        max_iters=train.max_steps min_lr=train.min_lr_fraction,a,share quantize=model.quantization
        precision=model.dtype save_interval=train.checkpoint_every mask_prompt=train.loss_on
        checkpoint_dir=model.name out_dir=hydra.run.dir devices=none""",
    "torchtune": """
        batch_size=train.examples_per_step epochs=train.epochs clip_grad_norm=train.max_grad_norm
        enable_activation_checkpointing=train.activation_checkpointing lr=train.lr
        num_warmup_steps=train.warmup_steps max_steps_per_epoch=train.max_steps packed=train.packing
        lora_attn_modules=lora.target_modules log_every_n_steps=none shuffle=none
        max_seq_len=model.max_seq_len""",
    "openai": "max_tokens=decoding.max_new_tokens stop=none temperature=decoding.temperature",
}
PAIRS = [pair for words in WORDS.values() for pair in words.split()]


@pytest.mark.parametrize("place", ["", "train.", "trainer.", "args.optimizer."])
def test_the_words_of_other_programs_lead_to_ours_wherever_they_stand(place):
    assert len(PAIRS) > 90
    for pair in PAIRS:
        word, _, named = pair.partition("=")
        if place == "train." and f"train.{word}" in known_keys(Config):
            continue
        found = hint(place + word, Config)
        assert all(part in found for part in named.split(",")), (place + word, found)
        assert "nearest" not in found or found.endswith(f".{word}")  # the same word, in its group


def test_each_word_stands_once_and_names_keys_that_there_are():
    words = " ".join([*HERE, *NONE]).split()
    assert sorted(words) == sorted(set(words))
    assert set(words).isdisjoint(known_keys(Config))
    known = set(known_keys(Config))
    for text in PEERS.values():
        named = set(re.findall(r"\b[a-z_]+\.(?:<name>\.)?[a-z_.]*[a-z_]", text))
        files = {"hydra.run.dir", "data_mix.sources.<name>.columns", "metrics.jsonl"}
        assert named - files - {"a.jsonl", "b.jsonl"} <= known, text


def test_the_unit_of_a_key_is_told():
    units = {key.name: key.unit for key in describe() if key.unit}
    told = 0
    for text in HERE.values():
        unit = units.get(re.match(r"[a-z_.]+", text)[0])
        names = {"h": "hours", "examples": "the examples"}
        assert unit is None or names.get(unit, unit) in text, text
        told += unit is not None
    assert told > 8


@pytest.mark.parametrize("typed", ["learning_rate=1", "+learning_rate=1", "++learning_rate=1"])
@pytest.mark.parametrize("place", ["", "train.", "trainer."])
def test_the_whole_key_is_told_as_it_was_typed(typed, place):
    word = typed.lstrip("+")
    typed = typed.replace(word, place + word)
    with pytest.raises(ConfigError, match=rf"^unknown key {place}learning_rate; here it is train"):
        compose_config([typed])


def test_the_words_are_told_of_a_file_too(tmp_path):
    from effchal.config import load_config

    (tmp_path / "config.yaml").write_text("training:\n  learning_rate: 1\n")
    with pytest.raises(ConfigError, match=r"unknown key training\.learning_rate; here it is train"):
        load_config(tmp_path / "config.yaml")


TYPOS = [
    ("trian.lr", "train.lr"),
    ("train.lrs", "train.lr"),
    ("train.epoch", "train.epochs"),
    ("train.ephocs", "train.epochs"),
    ("train.max_step", "train.max_steps"),
    ("train.example_per_step", "train.examples_per_step"),
    ("train.microbatch_size", "train.micro_batch_size"),
    ("train.weigth_decay", "train.weight_decay"),
    ("train.optimiser", "train.optimizer"),
    ("train.warmup_step", "train.warmup_steps"),
    ("train.checkpoints_every", "train.checkpoint_every"),
    ("model.quantisation", "model.quantization"),
    ("train.quantisation", "model.quantization"),
    ("model.max_seqlen", "model.max_seq_len"),
    ("model.names", "model.name"),
    ("lora.alphas", "lora.alpha"),
    ("lora.target_module", "lora.target_modules"),
    ("lore.r", "lora.r"),
    ("budget.hour", "budget.hours"),
    ("bugdet.hours", "budget.hours"),
    ("data_mix.validation_fractoin", "data_mix.validation_fraction"),
    ("data_mix.sources.mine.licence", "data_mix.sources.<name>.license"),
    ("resum_from", "resume_from"),
    ("serve.prot", "serve.port"),
    ("decoding.max_newtokens", "decoding.max_new_tokens"),
    ("learing_rate", "train.lr"),
    ("gradient_acumulation_steps", "train.examples_per_step"),
]


@pytest.mark.parametrize(("typo", "meant"), TYPOS)
def test_a_misspelt_key_leads_to_the_one_that_was_meant(typo, meant):
    assert re.fullmatch(
        rf"(the nearest known key is|here it is) {meant}(, .*)?", hint(typo, Config)
    )


@pytest.mark.parametrize(
    "words",
    [
        "zebra data_sum train.zebra foo.bar lora.beta train.rate use_cache special_tokens",
        "ema_decay curriculum reward_model train.loss lora.gamma rope_scaling wait_s dropout_rate",
    ],
)
def test_no_key_is_suggested_where_none_is_close(words):
    for word in words.split():
        assert hint(word, Config).startswith("known keys here: "), hint(word, Config)


def test_a_request_is_told_keys_of_decoding_alone():
    assert hint("learning_rate", DecodingConfig).startswith("known keys here: method, temp")
    assert hint("temprature", DecodingConfig) == "the nearest known key is temperature"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("model=mistral", r"mistral_7b, .*tiny; did you mean model=mistral_7b\?"),
        ("model=org/some-7B", r"mistral_7b, .*; another model is model\.name=<hub id or folder>"),
        ("lora=all-linear", r"all_linear, attention, none; did you mean lora=all_linear\?"),
        ("data_mix=alpaca", r".*lima, .*quickstart.*; other data is data=<file or data set id>"),
        ("experiment=foo", "layer_sets, .*smollm2_lima_platypus$"),
    ],
)
def test_a_group_tells_its_names(typed, told):
    with pytest.raises(ConfigError, match=rf"^no {typed}; its names are {told}"):
        compose_config([typed])
