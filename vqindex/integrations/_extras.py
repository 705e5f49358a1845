"""The error for a package that is not installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(package: str, extra: str, error: ImportError) -> ImportError:
    """Return the error to raise when `package` can't be imported: it names the command that installs it."""
    return ImportError(f"{package} can't be imported ({error}); install it with: pip install 'vqindex[{extra}]'")
