"""Launchers: one module for each kernel of ``kernels/``, of the same name; and what they share.

A module defines `Args`, the kernel's parameters in order, and `launch`, which knows the kernel's macros, grid, block
size and shared memory. ``encode``, ``score`` and ``select`` have two signatures each, chosen by a macro; each signature
has its own dataclass. The tests compare every dataclass with the signature in the kernel's source.
"""
