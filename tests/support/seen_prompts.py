"""A service that keeps the ids its engine reads."""

from typing import Any

from effchal.serving.service import Service


class SeenPrompts(Service):
    def submit(self, prompts: Any, *rest: Any, **more: Any) -> Any:
        self.prompts = prompts
        return super().submit(prompts, *rest, **more)
