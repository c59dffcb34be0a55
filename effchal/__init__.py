"""effchal: one base model, one GPU, one day, from a Hydra config to a HELM-scored submission.

From Python: `load_config`, `train`, `load` and `evaluate`; effchal.api has an example.
Importing the package imports no torch; the first use of these functions does.
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["__version__", "evaluate", "load", "load_config", "train"]

# Before torch reads it: joined weights leave holes that only growing segments can fill again.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

if TYPE_CHECKING:
    from effchal.api import evaluate, load, load_config, train


class _Package(ModuleType):
    """The package, in which effchal.train is the function also after its module was imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'effchal' has no attribute {name!r}")
        from effchal import api

        return getattr(api, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
