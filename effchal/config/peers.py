"""The words of other programs: what they are called here, or why there is no such key.

From transformers' TrainingArguments, TRL, PEFT's LoraConfig, bitsandbytes, axolotl, LLaMA-Factory,
litgpt, torchtune and Lightning, and the OpenAI API.
"""

# Their words, and our key with its unit and what differs.
HERE = {
    "learning_rate peak_learning_rate max_lr base_lr": "train.lr",
    "num_train_epochs num_epochs n_epochs max_epochs": "train.epochs",
    "num_steps num_training_steps total_steps max_iters max_train_steps max_steps_per_epoch": (
        "train.max_steps, in optimizer steps of the whole run"
    ),
    "gradient_accumulation_steps gradient_accumulation_iters accumulate_grad_batches"
    " grad_accum_steps batch_size train_batch_size global_batch_size": (
        "train.examples_per_step, the examples of one optimizer step (batch size times "
        "accumulation); train.micro_batch_size only changes memory and speed"
    ),
    "per_device_train_batch_size per_gpu_train_batch_size device_batch_size micro_batch": (
        "train.micro_batch_size, in rows of model.max_seq_len tokens: it only changes memory and "
        "speed; what a step learns from is train.examples_per_step, in examples"
    ),
    "optim optimizer_type optimizer_name": "train.optimizer",
    "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay_style": "train.schedule",
    "warmup num_warmup_steps lr_warmup_steps warmup_iters": "train.warmup_steps, in steps",
    "warmup_ratio warmup_fraction lr_warmup_fraction": (
        "train.warmup_steps, in steps: the ratio times the steps that effchal plan shows"
    ),
    "min_lr min_learning_rate min_lr_ratio min_lr_rate cosine_min_lr_ratio": (
        "train.min_lr_fraction, a share of train.lr"
    ),
    "grad_clip gradient_clip gradient_clipping gradient_clip_val clip_grad_norm max_norm": (
        "train.max_grad_norm"
    ),
    "gradient_checkpointing gradient_checkpointing_kwargs use_gradient_checkpointing"
    " enable_activation_checkpointing": "train.activation_checkpointing=selective or full",
    "torch_compile compile_model": "train.compile",
    "eval_steps eval_every eval_interval eval_freq evaluation_strategy eval_strategy"
    " val_check_interval": "train.validate_every, in steps",
    "save_steps save_every save_interval save_strategy checkpoint_interval": (
        "train.checkpoint_every, in steps"
    ),
    "save_total_limit": "train.keep_checkpoints",
    "load_best_model_at_end early_stopping_patience metric_for_best_model": (
        "train.bundle=best, the weights of the lowest validation loss"
    ),
    "random_seed seed": "train.seed for the adapter, data_mix.seed for the order of the data",
    "data_seed shuffle_seed": "data_mix.seed",
    "sample_packing packed pack_sequences": "train.packing",
    "train_on_inputs train_on_input train_on_prompt": "train.loss_on=all; the default is answers",
    "mask_prompt completion_only_loss assistant_only_loss response_only_loss": (
        "train.loss_on=answers, which is the default; last learns the last answer only"
    ),
    "bf16 fp16 half precision torch_dtype mixed_precision bnb_4bit_compute_dtype": (
        "model.dtype=auto, bfloat16 or float32; there is no float16"
    ),
    "load_in_4bit load_in_8bit quantize quantization_bit quantization_config quant_type"
    " bnb_4bit_quant_type qlora": "model.quantization=nf4 for 4 bits; 8 bits are not supported",
    "bnb_4bit_use_double_quant use_double_quant double_quantization": "model.double_quant",
    "max_length max_seq_length max_sequence_length cutoff_len sequence_len sequence_length seq_len"
    " seq_length context_length context_window block_size model_max_length": (
        "model.max_seq_len, in tokens"
    ),
    "model_name model_name_or_path model_id model_path pretrained checkpoint_dir"
    " pretrained_model_name_or_path": "model.name=<hub id or folder>",
    "model_revision": "model.revision",
    "dataset datasets dataset_name dataset_id dataset_path dataset_dir train_dataset train_data"
    " train_file train_path training_file data_path data_files data_dir data.path": (
        "data=<file or data set id>, or a list of them: data=[a.jsonl:2,b.jsonl]"
    ),
    "dataset_text_field text_field text_column prompt_column response_column column_mapping"
    " columns_mapping field_instruction field_output": (
        "data_mix.sources.<name>.columns={<field of the format>: <your column>}"
    ),
    "dataset_type dataset_format data_format": "data_mix.sources.<name>.format",
    "dataset_split train_split": "data_mix.sources.<name>.split",
    "val_fraction val_size val_set_size val_split validation_split test_size eval_size"
    " eval_dataset eval_file validation_file val_data": (
        "data_mix.validation_fraction, the share of each source that is kept for validation"
    ),
    "chat_template template prompt_template prompt_style prompt_format conversation_template": (
        "prompt=<a file of conf/prompt>, or prompt.user='...{content}...'"
    ),
    "lora_r lora_rank lora_dim rank": "lora.r",
    "lora_alpha lora_scale": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules lora_target lora_targets lora_target_modules lora_target_linear"
    " lora_attn_modules lora_modules": "lora.target_modules, all-linear or a list of names",
    "rslora": "lora.use_rslora",
    "dora": "lora.use_dora",
    "adapter finetuning_type use_peft use_lora peft_type peft_config": (
        "lora=all_linear, lora=attention or lora=none; to serve an adapter, bundle=<folder>"
    ),
    "output_dir out_dir save_dir output_path default_root_dir logging_dir": (
        "hydra.run.dir=<folder>"
    ),
    "run_name experiment_name exp_name": "name",
    "report_to use_wandb wandb logger": "track.wandb=online, offline or off",
    "wandb_project project_name": "track.project",
    "resume resume_from_checkpoint ckpt_path": "resume_from=<run folder>",
    "checkpoint checkpoint_path adapter_path adapter_name_or_path lora_path": "bundle=<folder>",
    "max_time max_train_hours max_hours time_limit": "budget.hours, in hours",
    "gpu_memory gpu_memory_utilization max_memory": "budget.memory_gib, in GiB",
    "max_tokens max_completion_tokens max_gen_len max_gen_toks": (
        "decoding.max_new_tokens, in tokens"
    ),
    "serve.max_tokens": "serve.max_new_tokens, in tokens",
    "do_sample": "decoding=sample",
    "max_model_len": "serve.max_prompt_tokens, in tokens",
}

# Their words, and why we have none.
NONE = {
    "attn_implementation flash_attention flash_attn use_flash_attention_2 sdp_attention": (
        "torch's own kernels attend within packed rows"
    ),
    "deepspeed ddp fsdp fsdp_config accelerate strategy num_nodes num_gpus n_gpu devices"
    " num_devices num_processes nproc_per_node world_size tensor_parallel_size"
    " data_parallel_size local_rank": (
        "train.gpus is the number of GPUs, train.parallel what each holds; torchrun sets it as well"
    ),
    "per_device_eval_batch_size eval_batch_size val_batch_size": (
        "a validation takes train.micro_batch_size rows at a time"
    ),
    "logging_steps logging_strategy log_every log_every_n_steps log_interval": (
        "every step is logged, and stands in metrics.jsonl"
    ),
    "adam_beta1 adam_beta2 adam_epsilon beta1 beta2 betas": (
        "the optimizers keep the usual betas and epsilon"
    ),
    "neftune_noise_alpha neftune_alpha": "no noise is added to the embeddings",
    "label_smoothing label_smoothing_factor": "the loss is the plain cross-entropy",
    "modules_to_save lora_modules_to_save": (
        "only adapters are trained; name the head in lora.target_modules to adapt it"
    ),
    "init_lora_weights lora_init lora_bias layers_to_transform rank_pattern alpha_pattern"
    " task_type": "each target gets peft's usual adapter",
    "train_embeddings embedding_lr freeze full_finetune full_finetuning": (
        "only adapters are trained"
    ),
    "use_liger_kernel liger_kernel enable_liger_kernel": (
        "the logits of all positions never exist together"
    ),
    "group_by_length length_column_name padding padding_side padding_free pad_to_max_length"
    " pad_to_sequence_len": "rows are packed and hold no padding; see train.packing",
    "shuffle": "each epoch has an order of its own; see data_mix.seed",
    "num_workers dataloader_num_workers dataset_num_proc num_proc preprocessing_num_workers"
    " dataloader_pin_memory": "the data is prepared before the first step",
    "tokenizer tokenizer_name tokenizer_path": "the tokenizer is that of model.name",
    "trust_remote_code": "no code out of a model's folder is run",
    "push_to_hub hub_model_id hub_token": "the result is the folder bundle/ of the run",
    "do_train do_eval do_predict stage": "the command says it: effchal train, effchal evaluate",
    "overwrite_output_dir": "a new run never writes over another",
    "top_k num_beams": "sampling takes decoding.temperature and decoding.top_p",
    "stop stop_strings stop_sequences": "each request names its own stop sequences",
}

PEERS = {word: f"here it is {text}" for words, text in HERE.items() for word in words.split()}
PEERS |= {word: f"there is none: {why}" for words, why in NONE.items() for word in words.split()}
