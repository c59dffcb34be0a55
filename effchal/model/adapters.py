"""Several LoRA adapters in one base model, loaded and dropped while it answers."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.config import ConfigError
from effchal.model.adapter_names import BASE, AdapterGone
from effchal.model.structure import causal_lm, forward_pre_hooks

PEFTS_BASE = "__base__"  # peft's word for a row without an adapter
# Keys of adapter_config.json of what is more than scale * B A x beside a linear layer.
MORE = (
    *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices"),
    *("layer_replication", "target_parameters", "alora_invocation_tokens", "arrow_config"),
)
ENDS = {"lm_head", "embed_tokens", "wte", "embed_out"}


class LibraryAdapters:
    """peft's adapters of a base model, one or none for each row of a batch.

    Rows of one adapter take peft's plain way, rows of several its mixed batches, which copy rows.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = causal_lm(model)
        self._peft: Any = None  # once there is an adapter
        self._loaded: list[str] = []
        self._count = 0
        self._names: tuple[str, ...] = ()  # of the rows of a mixed batch
        self._active: str | None = None  # of all rows; None: each layer takes what it is told

    def use(self, names: tuple[str, ...]) -> None:
        """Say whose adapters the rows of the next forward pass go through; none: all BASE."""
        if self._peft is None:
            return
        alike = len(set(names)) < 2
        self._names = () if alike else names
        self._activate((names[0] if names else BASE) if alike else None)

    def _activate(self, name: str | None) -> None:
        if name == self._active:
            return
        for layer in self._layers():
            layer.enable_adapters(name is None or name in layer.lora_A)
            if name in layer.lora_A:
                layer.set_adapter([name])
        self._active = name

    def load(self, folder: Path) -> str:
        """Put an adapter into the model; its name there, which no other one gets.

        Args:
            folder: what peft's `save_pretrained` wrote.

        Raises:
            ConfigError: it is no adapter for this model, or more than a plain one.
        """
        import peft

        check_plain(folder)
        if self._peft is None and self._layers():
            raise ConfigError("this model has an adapter of its own; load its base model instead")
        self._activate(None)
        self._count += 1
        name = f"adapter_{self._count}"
        try:
            if self._peft is None:
                self._peft = peft.PeftModel.from_pretrained(
                    self._model, str(folder), adapter_name=name
                ).eval()
            else:
                self._peft.load_adapter(str(folder), adapter_name=name)
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            self._discard(name)
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"{folder} is no adapter for this base model: {first}") from error
        self._loaded.append(name)
        weights = self._weights(name)
        if not weights or not all(torch.isfinite(each).all() for each in weights):
            self.drop(name)
            what = "has values that are not finite" if weights else "fits no layer of this model"
            raise ConfigError(f"{folder} {what}")
        self._peft.requires_grad_(False)
        for module in self._layers():
            if self._choose not in forward_pre_hooks(module).values():
                module.register_forward_pre_hook(self._choose, with_kwargs=True)
        return name

    def check(self, name: str) -> None:
        """Raises AdapterGone: no such adapter is there any more."""
        if name not in (BASE, *self._loaded):
            raise AdapterGone("the adapter was unloaded before this request began")

    def drop(self, name: str) -> None:
        """Free an adapter's memory. No row may want it any more."""
        self._activate(None)
        self._loaded.remove(name)
        self._discard(name)

    def _discard(self, name: str) -> None:
        if self._peft is not None and name in self._peft.peft_config:
            if len(self._peft.peft_config) == 1:  # peft wants to keep one
                self._peft.base_model.unload()
                self._peft = None
            else:
                self._peft.delete_adapter(name)

    def _layers(self) -> list[Any]:
        return [each for each in self._model.modules() if hasattr(each, "lora_A")]

    def _weights(self, name: str) -> list[torch.Tensor]:
        layers = [each for each in self._layers() if name in each.lora_A]
        return [part[name].weight for each in layers for part in (each.lora_A, each.lora_B)]

    def _choose(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """torch's hook before a layer with adapters runs."""
        if not self._names:
            return None
        names = [name if name != BASE else PEFTS_BASE for name in self._names]
        return args, kwargs | {"adapter_names": names}


def check_plain(folder: Path) -> None:
    """Check what adapter_config.json tells before any weight is read.

    Raises:
        ConfigError: no LoRA adapter, or one that also changes something else.
    """
    path = folder / "adapter_config.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from error
    if found.get("peft_type") != "LORA":
        raise ConfigError(f"{path}: peft_type is {found.get('peft_type')}; it must be LORA")
    more = [f"{key}={found[key]}" for key in MORE if found.get(key)]
    if more:
        raise ConfigError(
            f"{path} has {', '.join(more)}; only plain LoRA adapters share a base model, so serve "
            "this one alone: bundle=<folder>"
        )
    targets = found.get("target_modules") or []
    names = {each.rpartition(".")[2] for each in targets} if isinstance(targets, list) else set()
    if at_ends := sorted(ENDS & names):
        raise ConfigError(
            f"{path} adapts {', '.join(at_ends)}; adapters of head and embeddings share no base "
            "model, so serve this one alone: bundle=<folder>"
        )
