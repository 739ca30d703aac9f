"""Section 5: bytes and operations of each part, and the choices that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hfcnn.layers import Layer
from hfcnn.network import Network

__all__ = [
    "Cost",
    "choose_batch_size",
    "choose_form",
    "fit_bytes",
    "gradient_cost",
    "jacobian_cost",
    "linearization_bytes",
    "product_cost",
    "rows_at_once",
    "stored_jacobian_bytes",
    "trial_cost",
    "value_cost",
]

#: Largest temporary of a batch on a CPU. Measured: it and its neighbours then stay in a 32 MiB last-level
#: cache, and below the 32 MiB from which glibc maps and unmaps memory anew at every call.
CPU_TEMPORARY_BYTES = 12 * 2**20
#: Largest temporary of a batch on a GPU: enough work to fill one.
GPU_TEMPORARY_BYTES = 512 * 2**20
#: Operations that the convolutions do while memory delivers a byte, and while a byte of the stored Jacobian
#: is made ready. On a CPU, measured on two cores: 200 GFLOP/s and 20 GB/s; the system clears memory before it
#: is written, which was fitted to the paper's networks, where 6 to 15 products make up for the set-up. On
#: a GPU, from data sheets: some 300 TFLOP/s and 3 TB/s, and nothing is cleared. No GPU has measured it yet.
OPERATIONS_PER_BYTE = {"cpu": (10, 200), "gpu": (100, 100)}
#: Arrays of the largest layer's size that live at once, and vectors of theta's size in an iteration.
TEMPORARIES, VECTORS = 2.5, 12
#: Memory lost between what is kept, as a share of it. Measured with glibc: temporaries are freed between.
HOLES = 0.2
#: Most images a batch: enough for any layer to be larger than the cost of starting it.
MAX_BATCH_SIZE = 4096


@dataclass(frozen=True)
class Cost:
    """Operations (2 a multiply-add) and peak bytes, for one image: what is kept and the temporaries."""

    operations: int
    bytes: int


def _temporary_bytes(network: Network, itemsize: int, form: str = "rop") -> int:
    """Bytes that a product needs at once beside what is kept, for one image of its batch."""
    without = _blocks(network) if form == "jacobian" else []
    largest = max(layer.unpooled_size for layer in network.layers if layer not in without)
    return round(TEMPORARIES * largest * itemsize)


def _multiply_adds(layers: Iterable[Layer]) -> int:
    """Multiply-adds of a forward pass through some layers, for one image."""
    return sum(layer.multiply_adds for layer in layers)


def _largest(network: Network) -> int:
    """Elements of the largest layer's output before pooling, for one image."""
    return max(layer.unpooled_size for layer in network.layers)


def _blocks(network: Network) -> list[Layer]:
    """Layers of which the stored Jacobian keeps dz/dtheta^m."""
    return [layer for layer in network.layers[:-1] if layer.block_is_smaller]


def _rows(network: Network) -> int:
    """Elements that the stored Jacobian keeps of all layers but the last, for one image (87)."""
    return network.n_outputs * sum(
        min(layer.n_parameters, layer.output_size) for layer in network.layers[:-1]
    )


def _kept_bytes(layers: Iterable[Layer], itemsize: int, backend: str) -> int:
    """Bytes of the inputs and selections of some layers as a backend keeps them, for one image."""
    if backend == "triton":
        return sum(layer.bordered_size * itemsize + layer.code_bytes for layer in layers)
    return sum(layer.input_size * itemsize + layer.product_selection_bytes for layer in layers)


def linearization_bytes(network: Network, itemsize: int = 4, backend: str = "torch") -> int:
    """Bytes that `Linearization` keeps for one image: (86) and the selections.

    With the backend "triton" the activations have borders of zeros, and a selection is a byte an output.
    """
    return _kept_bytes(network.layers, itemsize, backend) + network.n_outputs * itemsize


def stored_jacobian_bytes(network: Network, itemsize: int = 4, backend: str = "torch") -> int:
    """Bytes that `StoredJacobian` keeps for one image: (87) after pooling, and what products need beside it.

    That is a linearisation's, but the inputs and selections of layers of which the parameters' block is kept.
    """
    blocks = _blocks(network)
    kept = [layer for layer in network.layers if layer not in blocks]
    return _kept_bytes(kept, itemsize, backend) + (_rows(network) + network.n_outputs) * itemsize


def value_cost(network: Network, itemsize: int = 4) -> Cost:
    """Evaluate f for one image."""
    peak = max(layer.input_size + layer.unpooled_size + layer.output_size for layer in network.layers)
    return Cost(2 * _multiply_adds(network.layers), peak * itemsize)


def trial_cost(network: Network, itemsize: int = 4) -> Cost:
    """Evaluate f for one image in a trial of the line search that is rejected.

    What the gradient needs is kept meanwhile, since an accepted trial goes on to it.
    """
    kept, peak = 0, 0
    for layer in network.layers:
        kept += layer.output_size * itemsize + layer.selection_bytes
        peak = max(peak, kept + layer.unpooled_size * itemsize)
    return Cost(value_cost(network, itemsize).operations, peak)


def gradient_cost(network: Network, itemsize: int = 4) -> Cost:
    """Evaluate f and its gradient for one image."""
    operations = 2 * (3 * _multiply_adds(network.layers) - network.layers[0].multiply_adds)
    return Cost(operations, linearization_bytes(network, itemsize) + 2 * _largest(network) * itemsize)


def jacobian_cost(network: Network, itemsize: int = 4) -> Cost:
    """Set the stored Jacobian up for one image: a forward pass, K backward ones (68), and the blocks."""
    backward = _multiply_adds(network.layers[1:-1]) + _multiply_adds(_blocks(network))
    peak = stored_jacobian_bytes(network, itemsize) + _set_up_bytes(network, itemsize)
    return Cost(2 * (_multiply_adds(network.layers) + network.n_outputs * backward), peak)


def rows_at_once(network: Network, n_images: int, itemsize: int, device: torch.device) -> int:
    """How many of the K rows of an image the set-up of the stored Jacobian carries back at once.

    One on a CPU, where the temporaries then stay in its cache. On a GPU as many as make one large temporary
    of a batch of `n_images`: it must be kept busy, and K times a full batch would not fit.
    """
    if device.type == "cpu":
        return 1
    one = max(1, n_images * _largest(network) * itemsize)
    return max(1, min(network.n_outputs, GPU_TEMPORARY_BYTES // one))


def _set_up_bytes(network: Network, itemsize: int, n_rows: int = 1) -> int:
    """Bytes that the set-up of the stored Jacobian needs beside what is kept, for one image of its batch."""
    blocks = _blocks(network)
    elements = sum(layer.patches_size + layer.input_size for layer in blocks) + 2 * n_rows * _largest(network)
    return elements * itemsize + sum(layer.selection_bytes for layer in blocks)


def product_cost(network: Network, form: str, itemsize: int = 4) -> Cost:
    """One Gauss-Newton product for one image, in the form "rop" or "jacobian"."""
    temporary = _temporary_bytes(network, itemsize, form)
    multiply_adds = _multiply_adds(network.layers)
    if form == "rop":
        operations = 2 * (4 * multiply_adds - 2 * network.layers[0].multiply_adds)
        return Cost(operations, linearization_bytes(network, itemsize) + temporary)
    convolutions = multiply_adds - _multiply_adds(_blocks(network))
    operations = 2 * (2 * convolutions + 2 * _rows(network))
    return Cost(operations, stored_jacobian_bytes(network, itemsize) + temporary)


def choose_batch_size(network: Network, itemsize: int, device: torch.device) -> int:
    """Images a batch, so that the largest temporary suits the device."""
    limit = CPU_TEMPORARY_BYTES if device.type == "cpu" else GPU_TEMPORARY_BYTES
    largest = _largest(network) * itemsize
    return max(1, min(MAX_BATCH_SIZE, limit // largest))


def fit_bytes(
    network: Network, n_subset: int, *, form: str, memory: int, itemsize: int = 4, device: str = "cpu"
) -> int:
    """Peak bytes of a fit beyond the images themselves (Sec. 5.1).

    Parameters
    ----------
    n_subset : int
        |S|.
    form : {"rop", "jacobian"}
        Form of the Gauss-Newton product.
    memory : int
        Bytes for linearisations kept between products.

    Notes
    -----
    The kept linearisations; of one batch, the gradient's linearisation, what is linearised anew in each
    product, and the temporaries of the largest layer (the output before pooling, twice in a jvp, and the
    library's reordered copies of one); theta, the gradient and CG's vectors. They do not all live at once,
    but little of the memory of one serves another.
    """
    batch = choose_batch_size(network, itemsize, torch.device(device))
    linear, temporary = linearization_bytes(network, itemsize), _temporary_bytes(network, itemsize)
    bytes_an_image = linear if form == "rop" else stored_jacobian_bytes(network, itemsize)
    fits = bytes_an_image * n_subset <= memory
    n_kept = n_subset if fits else memory // (bytes_an_image * batch) * batch
    kept = round(n_kept * bytes_an_image * (1 + HOLES))
    n_anew = min(batch, n_subset - n_kept)
    parts = [kept + (linear + temporary) * batch + linear * n_anew]
    if form == "jacobian":
        size = min(batch, max(1, n_kept))
        n_rows = rows_at_once(network, size, itemsize, torch.device(device))
        parts.append(kept + _set_up_bytes(network, itemsize, n_rows) * (batch if n_rows == 1 else size))
    return max(parts) + VECTORS * network.n_parameters * itemsize


def choose_form(
    network: Network,
    n_images: int,
    *,
    n_products: int,
    memory: int,
    itemsize: int = 4,
    device: torch.device | None = None,
    backend: str = "torch",
) -> str:
    """Cheaper form of the Gauss-Newton product: "rop" or "jacobian".

    Parameters
    ----------
    n_images : int
        Images in S.
    n_products : int
        CG iterations to expect.
    memory : int
        Bytes to keep; the stored Jacobian of all of S must fit.
    device : torch.device or None
        Where; None is a CPU.
    backend : {"torch", "triton"}, default="torch"
        Whose operations.
    """
    on_gpu = device is not None and device.type == "cuda"
    per_byte, per_kept_byte = OPERATIONS_PER_BYTE["gpu" if on_gpu else "cpu"]
    kept = stored_jacobian_bytes(network, itemsize, backend)
    if kept * n_images > memory:
        return "rop"
    rop = value_cost(network, itemsize).operations + n_products * product_cost(network, "rop").operations
    stored = jacobian_cost(network, itemsize).operations
    stored += n_products * product_cost(network, "jacobian").operations
    stored += kept * per_kept_byte
    # a product reads the rows twice, and they fit no cache
    stored += 2 * n_products * _rows(network) * itemsize * per_byte
    return "jacobian" if stored < rop else "rop"
