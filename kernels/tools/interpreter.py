"""Triton's interpreter, mended where a newer NumPy refuses what an older Triton does."""

from __future__ import annotations

from typing import Any

import triton

__all__ = ["repair"]


def repair() -> None:
    """Let the interpreter of Triton before 3.9 index by arrays of one element, which NumPy 2.4 refuses."""
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9):
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_index_too(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    interpreter._patch_lang_tensor = patch_index_too
