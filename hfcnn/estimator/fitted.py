"""What a fitted classifier can do: predict, be saved, leave for torch and ONNX."""

from __future__ import annotations

import warnings
from typing import Any, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from hfcnn.backend import Backend, get_backend
from hfcnn.estimator.images import ImageShape, assert_images_finite, view_images
from hfcnn.estimator.labels import Array
from hfcnn.estimator.scaling import ScaleImages, holds_pixels, scaled_images
from hfcnn.estimator.threads import with_threads
from hfcnn.files import check_output_path, write_atomically
from hfcnn.loss import Loss, get_loss
from hfcnn.network import Network
from hfcnn.objective import outputs
from hfcnn.onnx_export import onnx_model
from hfcnn.persistence import load_model, save_model
from hfcnn.preprocessing import ImageScaler

__all__ = ["FittedCNN", "Probabilities"]

#: Outputs beyond this are shifted before probabilities are made of them, so that nothing overflows.
LARGE_OUTPUT = 1e6

#: Images that are looked at to see whether they are raw pixels.
N_LOOKED_AT = 64


class Probabilities(nn.Module):
    """Probabilities of the classes by the outputs, as a loss means them."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor) -> Tensor:
        """Outputs (N, K) to probabilities (N, K)."""
        return self.loss.probabilities(outputs)


class FittedCNN(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network with its parameters, as scikit-learn sees it.

    Fitted attributes are arrays of numpy and plain Python values only, so that any machine can load what
    another trained; tensors live no longer than a call.
    """

    loss: str
    scale: bool | str
    image_shape: Any
    backend: str
    device: str
    precision: str
    batch_size: int | None
    n_jobs: int | None

    classes_: Array
    C_: float
    scaler_: ImageScaler | None
    image_shape_: ImageShape
    network_: Network
    theta_: Array
    history_: dict[str, Array]
    n_iter_: int

    def decision_function(self, X: Any) -> Array:
        """Outputs of the network.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l, K), or (l,) for two classes
            The outputs z^{L+1}; for two classes the second less the first.
        """
        z = self._outputs(X)
        result: Array = z[:, 1] - z[:, 0] if z.shape[1] == 2 else z
        return result

    def predict(self, X: Any) -> Array:
        """Class of the largest output.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l,)
            Labels, of the type of `classes_`.
        """
        indices = self._outputs(X).argmax(1)
        labels: Array = self.classes_[indices]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes; the largest is that of the predicted class.

        For the loss "cross_entropy" these are the softmax of the outputs. For "squared" they are the
        probabilities nearest to the outputs, which estimate them directly: a constant is added to all and
        what is then negative becomes zero, so that they sum to one.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l, K)
            In the order of `classes_`.
        """
        z = torch.from_numpy(self._outputs(X))
        if float(z.abs().max()) > LARGE_OUTPUT:  # a constant added to all outputs changes no probability
            z = (z - z.max(1, keepdim=True).values).clamp_(min=-LARGE_OUTPUT)
        probabilities: Array = self._loss_function().probabilities(z).numpy()
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities of the classes; minus infinity where one is zero.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l, K)
            In the order of `classes_`.
        """
        with np.errstate(divide="ignore"):
            logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def history_frame(self) -> Any:
        """Return `history_` as a pandas DataFrame, one row per iteration.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        check_is_fitted(self)
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                'history_frame needs pandas; install it with: pip install "hfcnn[plots]"'
            ) from error
        return pd.DataFrame(self.history_).set_index("iteration")

    def save(self, path: Any) -> None:
        """Write the fitted estimator to one safetensors file, which holds no code.

        Parameters
        ----------
        path : str or path
            The file. Callbacks are not saved, and of `random_state` only a seed.

        Raises
        ------
        TypeError
            If a label or parameter is of a type that the file cannot hold.
        """
        check_is_fitted(self)
        save_model(self, path)

    @classmethod
    def load(cls, path: Any, **parameters: Any) -> Self:
        """Read a fitted estimator that `save` wrote, or the model of a checkpoint.

        Parameters
        ----------
        path : str or path
            The file.
        **parameters
            Parameters to change, for instance ``device="cpu"``.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, is no model file, or holds another class.
        """
        return cast("Self", load_model(cls, path, parameters))

    def to_torch(self, *, probabilities: bool = False) -> nn.Sequential:
        """Build the fitted network as a ``torch.nn.Sequential``: NCHW images in, outputs out.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether a last module makes probabilities of the outputs, those of `predict_proba`: a
            ``torch.nn.Softmax`` where the loss is "cross_entropy".

        Returns
        -------
        torch.nn.Sequential
            Its first module scales the images, if the classifier does (`scaler_`).
        """
        check_is_fitted(self)
        modules = list(self.network_.to_torch(self._theta(torch.device("cpu"))))
        if self.scaler_ is not None:
            mean = np.asarray(self.scaler_.mean_, self.theta_.dtype).reshape(self.image_shape_)
            modules.insert(0, ScaleImages(torch.from_numpy(mean).permute(2, 0, 1).contiguous()))
        if probabilities:
            loss = self._loss_function()
            modules.append(nn.Softmax(1) if loss.name == "cross_entropy" else Probabilities(loss))
        return nn.Sequential(*modules)

    def export_onnx(self, path: Any, scaler: ImageScaler | None = None) -> None:
        """Write the fitted classifier as one ONNX graph: any number of images in, labels out.

        Parameters
        ----------
        path : str or path
            The file. Its input is "images", of shape (batch, H, W, C). Its outputs are "outputs", those of
            the network, "probabilities", both of shape (batch, K), and "label", of shape (batch,). The
            labels are also in its metadata under "classes", one per line.
        scaler : ImageScaler or None, default=None
            Fitted scaler of the images where the classifier has none of its own (`scaler_`), to be part of
            the graph. With either the input is raw pixels, uint8; without, float32, scaled as the training
            images were.

        Raises
        ------
        ImportError
            If onnx is not installed.
        ValueError
            If the scaler was fitted on images of another size.
        """
        check_output_path(path, "path")
        module, labels = self.network_.to_torch(self._theta(torch.device("cpu"))), self.classes_.tolist()
        scaler = self.scaler_ if scaler is None else scaler
        model = onnx_model(module, self.image_shape_, labels, self._loss_function().name, scaler)
        write_atomically(path, model.SerializeToString())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True  # and four, for which there is no tag
        return tags

    def _loss_function(self) -> Loss:
        """Return the loss that is, or was, minimised."""
        return get_loss(self.loss)

    @with_threads
    def _outputs(self, X: Any) -> Array:
        """Outputs for checked images: shape (l, K)."""
        check_is_fitted(self)
        images = self._view_images(X, reset=False)
        assert_images_finite(images, "X", self)
        self._warn_of_pixels(images, "X")
        backend = self._get_backend()
        theta = self._theta(backend.device)
        return outputs(self.network_, theta, self._scaled(images), backend, self.batch_size)

    def _warn_of_pixels(self, images: Any, name: str) -> None:
        """Warn of raw pixels where the fit was to other numbers; by the first images, to read no more."""
        is_left_as_it_is = getattr(self, "scale", None) == "auto" and getattr(self, "scaler_", None) is None
        if is_left_as_it_is and (first := images[:N_LOOKED_AT]).max() > 1 and holds_pixels(first):
            warnings.warn(
                f"{name} holds raw pixels, whole numbers up to {first.max():g}, but the images of the fit "
                "were not, and were taken as they were: give both in the same units",
                UserWarning,
                stacklevel=5,
            )

    def _scaled(self, images: Any) -> Any:
        """Checked images as the network takes them: scaled batch by batch, if the fit's were."""
        scaler: ImageScaler | None = getattr(self, "scaler_", None)  # pickles may be older than it
        return images if scaler is None else scaled_images(images, scaler)

    def _view_images(self, X: Any, *, reset: bool, name: str = "X") -> Array:
        return view_images(self, X, self.image_shape, reset=reset, name=name)

    def _get_backend(self) -> Backend:
        return get_backend(self.backend, self.device, self.precision)

    def _theta(self, device: torch.device) -> Tensor:
        """Fitted parameters on a device; a copy, since `theta_` may be read-only."""
        return torch.from_numpy(self.theta_.copy()).to(device)
