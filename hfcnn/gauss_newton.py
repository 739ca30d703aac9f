"""The Gauss-Newton matrix as a linear operator: v -> (G^S + lambda I) v (39)."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import TORCH, Backend, keep_heap
from hfcnn.cost import (
    choose_batch_size,
    choose_form,
    linearization_bytes,
    memory_budget,
    stored_jacobian_bytes,
)
from hfcnn.linearization import Linearization
from hfcnn.loss import Loss, get_loss
from hfcnn.network import Network
from hfcnn.objective import Indices, take
from hfcnn.stored_jacobian import StoredJacobian

__all__ = ["FORMS", "GaussNewton"]

#: Forms of the product; "auto" lets `hfcnn.cost` choose.
FORMS = ("auto", "rop", "jacobian")

#: CG iterations that "auto" counts on where nobody says; the paper's problems take 20 to 60.
EXPECTED_PRODUCTS = 25

Linear: TypeAlias = Linearization | StoredJacobian


class GaussNewton:
    """G^S + lambda I at theta, as products with it: v/C + mean of J^T B J v + lambda v (39).

    Parameters
    ----------
    network : Network
        The network.
    theta : Tensor of shape (n,)
        Parameters, on the backend's device.
    images : Tensor or array of shape (l, H, W, C)
        The images; those of S, or all of which `indices` chooses S.
    loss : {"squared", "cross_entropy"} or Loss, default="squared"
        Loss whose Hessian B in the outputs is used.
    C : float, default=inf
        The paper's C; inf is no regularisation.
    damping : float, default=0.0
        lambda of (36).
    form : {"auto", "rop", "jacobian"}, default="auto"
        R-operator or stored Jacobian; the same products to rounding.
    indices : int64 array of shape (|S|,) or None
        S; None is all images. Read batch by batch, never copied as a whole.
    sample_weight : Tensor of shape (l,) or None
        Weights of the images; the mean is weighted.
    backend : Backend, default=TORCH
        Implementation of the layer operations and device.
    batch_size : int or None
        Images a batch; None chooses for the device.
    memory : int or "auto", default="auto"
        Bytes that linearisations kept between products may take. Batches beyond it are linearised anew
        in every product, in R-operator form, so that memory does not grow with S.
    n_products : int, default=25
        Products to expect, for the choice of "auto".

    Attributes
    ----------
    form : str
        The form in use: "rop" or "jacobian".
    shape : (int, int)
        (n, n).
    dtype : torch.dtype
        theta's.

    Raises
    ------
    ValueError
        If the loss or form is unknown, or the shapes do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        theta: Tensor,
        images: Any,
        loss: str | Loss = "squared",
        C: float = math.inf,
        damping: float = 0.0,
        form: str = "auto",
        *,
        indices: NDArray[np.int64] | None = None,
        sample_weight: Tensor | None = None,
        backend: Backend = TORCH,
        batch_size: int | None = None,
        memory: int | str = "auto",
        n_products: int = EXPECTED_PRODUCTS,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}")
        if tuple(images.shape[1:]) != network.input_shape or len(images) == 0:
            raise ValueError(
                f"images must be of shape (|S|, {network.input_shape}), |S| > 0; got {tuple(images.shape)}"
            )
        backend.check(network.layers)
        keep_heap(backend.device)
        self.network = network
        self.loss = get_loss(loss)
        self.C = C
        self.damping = damping
        self.backend = backend
        self.dtype = theta.dtype
        self.shape = (network.n_parameters, network.n_parameters)
        self._images = images
        self._indices = indices
        self._theta = theta.to(backend.product_dtype(theta.dtype))
        itemsize = self._theta.dtype.itemsize
        self._batch_size = batch_size or choose_batch_size(network, itemsize, backend.device)
        self._n_images = n_images = len(images) if indices is None else len(indices)
        self._weight: Tensor | None = None
        self._total = float(n_images)
        if sample_weight is not None:
            weight = sample_weight if indices is None else sample_weight[indices]
            self._weight = weight.to(backend.device, theta.dtype)
            self._total = float(weight.sum(dtype=torch.float64))
        budget = memory_budget(memory, backend.device)
        if form == "auto":
            form = choose_form(network, n_images, n_products=n_products, memory=budget, itemsize=itemsize)
        self.form = form
        self._kept: dict[int, Linear] = {}
        kind = StoredJacobian if form == "jacobian" else Linearization
        bytes_an_image = (stored_jacobian_bytes if form == "jacobian" else linearization_bytes)(
            network, itemsize
        )
        for start in self._starts():
            budget -= bytes_an_image * min(self._batch_size, n_images - start)
            if budget < 0:
                break
            self._kept[start] = kind(network, self._theta, self._batch(start), backend.product_ops)

    def _starts(self) -> range:
        return range(0, self._n_images, self._batch_size)

    def _batch(self, start: int) -> Tensor:
        index: Indices = slice(start, min(start + self._batch_size, self._n_images))
        if self._indices is not None:
            index = self._indices[index]
        return take(self._images, index, self._theta.dtype, self.backend.device)

    def _linear(self, start: int) -> Linear:
        """The batch's linearisation: what is kept or, beyond the budget, a new one by the R-operator."""
        if start in self._kept:
            return self._kept[start]
        return Linearization(self.network, self._theta, self._batch(start), self.backend.product_ops)

    @property
    def is_kept(self) -> bool:
        """Whether every batch's linearisation is kept, so that a product reads no images."""
        return len(self._kept) == len(self._starts())

    def matvec(self, v: Tensor) -> Tensor:
        """(G^S + lambda I) v.

        Parameters
        ----------
        v : Tensor of shape (n,)
            Direction, of theta's dtype and device.

        Returns
        -------
        Tensor of shape (n,)
        """
        result = v * (1 / self.C + self.damping)
        for start in self._starts():
            result.add_(self._batch_product(start, v), alpha=1 / self._total)
        return result

    def _batch_product(self, start: int, v: Tensor) -> Tensor:
        """Sum of J^T B J v over a batch."""
        linear = self._linear(start)
        q = self.loss.hessian_product(linear.outputs.to(v.dtype), linear.jvp(v).to(v.dtype))
        if self._weight is not None:
            q = q * self._weight[start : start + len(q)].unsqueeze(1)
        return linear.vjp(q)

    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, v: NDArray[Any]) -> NDArray[Any]: ...
    def __matmul__(self, v: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
        """G @ v for a vector (n,) or the columns of a matrix (n, m); arrays give arrays."""
        if not isinstance(v, Tensor):
            # a copy: the array may be read-only
            tensor = torch.from_numpy(np.array(v, order="C")).to(self.backend.device, self.dtype)
            product: NDArray[Any] = (self @ tensor).cpu().numpy()
            return product
        if v.dim() == 2:
            return torch.stack([self.matvec(column) for column in v.t().contiguous()], 1)
        return self.matvec(v)

    def as_linear_operator(self) -> Any:
        """Wrap it as a symmetric ``scipy.sparse.linalg.LinearOperator`` on numpy arrays."""
        from scipy.sparse.linalg import LinearOperator

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(
            self.shape,
            matvec=self._matvec_flat,
            rmatvec=self._matvec_flat,
            matmat=self.__matmul__,
            dtype=dtype,
        )

    def _matvec_flat(self, v: NDArray[Any]) -> NDArray[Any]:
        return self @ v.reshape(-1)
