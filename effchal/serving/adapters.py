"""Adapters of one server: those of serve.adapters, and those that requests load and unload."""

from effchal.config import ConfigError
from effchal.model_source import ModelSource
from effchal.serving import openai_types as types
from effchal.serving.openai import models
from effchal.serving.refusals import RequestError
from effchal.serving.routes import Route
from effchal.serving.service import Service
from effchal.serving.shared_base import check_adapter, check_name


def add_adapter(service: Service, base: ModelSource, name: str, path: str) -> None:
    """Check a bundle and let requests name its adapter.

    Raises:
        ConfigError: a name that is taken or cannot be, or a bundle that does not fit.
    """
    check_name(name, service.name)
    service.loaded().add(name, lambda: check_adapter(path, base, service.cfg, service.typed))


def load_adapter(service: Service, body: types.LoadAdapterRequest) -> types.Models:
    """Load an adapter beside the others, as vLLM does."""
    base = base_source(service)
    try:
        add_adapter(service, base, body.lora_name, body.lora_path)
    except ConfigError as error:
        raise RequestError(400, str(error), "lora_path") from error
    return models(service)


def unload_adapter(service: Service, body: types.UnloadAdapterRequest) -> types.Models:
    """Take no more requests for an adapter; what runs is answered."""
    base_source(service)
    loaded = service.loaded()
    try:
        loaded.remove(body.lora_name)
    except KeyError:
        names = ", ".join(loaded.adapters) or "none"
        message = f"no adapter {body.lora_name[:100]}; this server has {names}"
        raise RequestError(404, message, "lora_name") from None
    return models(service)


def base_source(service: Service) -> ModelSource:
    """The base model that adapters may come to.

    Raises:
        RequestError: 400, this server's adapters stay as they are.
    """
    if not service.cfg.serve.allow_adapter_updates:
        message = "requests may change adapters only if serve.allow_adapter_updates=true"
        raise RequestError(400, message)
    if service.base is None:
        message = "this server began with a bundle; give its adapters by serve.adapters"
        raise RequestError(400, message)
    return service.base


ADAPTER_ROUTES = [
    Route("/v1/load_lora_adapter", load_adapter),
    Route("/v1/unload_lora_adapter", unload_adapter),
]
