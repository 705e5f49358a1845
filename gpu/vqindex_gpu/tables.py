"""Tables: a codec's constants in device memory, uploaded when a kernel first needs them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from vqindex.codes.codec import Codec
from vqindex.codes.rotation import Hadamard

from .device import Device
from .launchers.rotation import Rotation

__all__ = ["Tables"]


class Tables:
    """Tables of one codec on one device.

    Parameters
    ----------
    device : Device
        Where the tables lie.
    codec : Codec
        Whose tables.
    """

    def __init__(self, device: Device, codec: Codec) -> None:
        self._device, self._codec = device, codec

    @cached_property
    def rotation(self) -> Rotation:
        """The Hadamard rotation."""
        rotation = self._codec.rotation
        assert isinstance(rotation, Hadamard)
        return Rotation.of(rotation, self._codec.spec.dim, self._device)

    @cached_property
    def thresholds(self) -> Any:
        """Thresholds of the codebook, float32."""
        return self._device.upload(self._codec.codebook.thresholds)

    @cached_property
    def levels(self) -> Any:
        """Levels of the codebook, int16."""
        return self._device.upload(self._codec.codebook.levels.astype(np.int16))

    @cached_property
    def level_bytes(self) -> Any:
        """Levels of the codebook as bytes, padded with zeros to sixteen, which the scan loads as four words."""
        levels = self._codec.codebook.levels.view(np.uint8)
        return self._device.upload(np.concatenate([levels, np.zeros(max(0, 16 - levels.size), np.uint8)]))
