"""Between workers and driver. The trainer makes an actor of it; this file imports little, so that it starts fast."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.errors import MedfunctaError


class Mailbox:
    """An actor beside the driver: workers leave messages and fatal errors, the driver its wish to stop."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._failure: MedfunctaError | None = None
        self._stopping = False

    def post(self, kind: str, fields: dict[str, Any]) -> None:
        """From a worker."""
        self._messages.append((kind, fields))

    def fail(self, error: MedfunctaError) -> None:
        """From a worker: an error that no restart heals. The first one counts."""
        self._failure = self._failure or error

    def failure(self) -> MedfunctaError | None:
        """The fatal error, if any."""
        return self._failure

    def stop(self) -> None:
        """From the driver: save and return."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether workers should save and return."""
        return self._stopping

    def drain(self) -> list[tuple[str, dict[str, Any]]]:
        """Messages since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages
