"""Errors that a client gets as JSON."""

from __future__ import annotations

from typing import Any

__all__ = ["RequestError"]


class RequestError(Exception):
    """A request that is refused.

    Parameters
    ----------
    status : int
        HTTP status.
    code : str
        Kind of error, for programs.
    message : str
        Names the value and what was expected.
    limit : object, optional
        The limit that the value exceeds.
    headers : dict, optional
        More headers of the response.
    """

    def __init__(
        self, status: int, code: str, message: str, limit: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.limit, self.headers = status, code, limit, headers or {}

    def content(self) -> dict[str, Any]:
        """Return the body of the response."""
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.limit is not None:
            error["limit"] = self.limit
        return {"error": error}
