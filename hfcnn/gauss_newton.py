"""The Gauss-Newton matrix as a linear operator: v -> (G^S + lambda I) v (39)."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import TORCH, Backend
from hfcnn.cost import choose_form, linearization_bytes, stored_jacobian_bytes
from hfcnn.images import Contribution, Images, Span
from hfcnn.linearization import Linearization
from hfcnn.loss import Loss, get_loss
from hfcnn.memory import is_allocation_failure, memory_budget
from hfcnn.network import Network
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
    images : Tensor or array of shape (l, H, W, C), or Images
        The images; those of S, or all of which `indices` chooses S. An `Images`, as an objective has it in
        `data`, brings its own weights and batch size.
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
        Images per batch; None chooses for the device.
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
        if not isinstance(images, Images):
            images = Images(network, images, None, sample_weight, backend=backend, batch_size=batch_size)
        self.network = network
        self.loss = get_loss(loss)
        self.C = C
        self.damping = damping
        self.backend = backend
        self.dtype = theta.dtype
        self.shape = (network.n_parameters, network.n_parameters)
        data: Images = images if indices is None else images.subset(indices)
        self._data = data.with_weight_as(theta.dtype)
        self._theta = theta.to(backend.product_dtype(theta.dtype))
        self._spans = self._data.spans(self._theta.dtype)
        budget = memory_budget(memory, backend.device)
        if form == "auto":
            form = choose_form(
                network,
                len(self._data),
                n_products=n_products,
                memory=budget,
                itemsize=self._theta.dtype.itemsize,
                device=backend.device,
                backend=backend.name,
            )
        self.form = form
        self._kept: dict[Span, Linear] = {}
        self._linearize(budget)

    def _linearize(self, budget: int) -> None:
        """Linearise the first batches, as many as the budget and the memory allow.

        Where memory runs out in setting the stored Jacobian up, the R-operator takes its place; where it runs
        out for that too, the batches left are linearised anew in every product.
        """
        try:
            with self.backend.products():
                self._keep(budget)
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
        else:
            return
        if self.form == "jacobian":
            self.form = "rop"
            self._kept.clear()
            self._linearize(budget)

    def _keep(self, budget: int) -> None:
        is_stored = self.form == "jacobian"
        kind = StoredJacobian if is_stored else Linearization
        count = stored_jacobian_bytes if is_stored else linearization_bytes
        bytes_per_image = count(self.network, self._theta.dtype.itemsize, self.backend.name)
        for span in self._spans:
            budget -= bytes_per_image * span.size
            if budget < 0:
                break
            self._kept[span] = kind(self.network, self._theta, self._read(span), self.backend.product_ops)

    def _read(self, span: Span) -> Tensor:
        return self._data.read(span, self._theta.dtype).images

    def _linear(self, span: Span) -> Linear:
        """The batch's linearisation: what is kept or, beyond the budget, a new one by the R-operator."""
        if span in self._kept:
            return self._kept[span]
        return Linearization(self.network, self._theta, self._read(span), self.backend.product_ops)

    @property
    def is_kept(self) -> bool:
        """Whether every batch's linearisation is kept, so that a product reads no images."""
        return len(self._kept) == len(self._spans)

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

        def part(span: Span, _: float) -> Contribution:
            """Sum of J^T B J v over a batch."""
            with self.backend.products():
                linear = self._linear(span)
                q = self.loss.hessian_product(linear.outputs.to(v.dtype), linear.jvp(v).to(v.dtype))
                if self._data.weight is not None:
                    q = q * self._data.weight[slice(*span)].unsqueeze(1)
                return Contribution(linear.vjp(q))

        result = v * (1 / self.C + self.damping)
        self._data.weighted_sum(self._spans, part, result, self._kept)
        return result

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
