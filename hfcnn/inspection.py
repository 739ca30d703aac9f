"""What a fitted network looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from hfcnn.estimator.images import chunks
from hfcnn.estimator.labels import check_labels, class_indices
from hfcnn.estimator.scaling import ScaleImages

__all__ = ["saliency"]

#: Values of images that are differentiated at a time.
VALUES_AT_A_TIME = 2**18


def saliency(classifier: Any, X: Any, y: Any = None) -> NDArray[Any]:
    """How much each pixel matters for the output of a class: the derivative's size.

    Of the class's output, the derivative in the pixels as the network takes them, that is after the
    classifier's own scaling (`scaler_`) if it has one; its absolute value, of the channels' the largest.

    Parameters
    ----------
    classifier : NewtonCNNClassifier or SGDCNNClassifier
        Fitted.
    X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
        Images.
    y : array-like of shape (l,) or None, default=None
        The class of each image whose output is differentiated; None is the predicted one.

    Returns
    -------
    ndarray of shape (l, H, W)
        Of the type of `theta_`.

    Raises
    ------
    ValueError
        If the images are not of the shape that the classifier takes, or a label is not one of its classes.

    References
    ----------
    K. Simonyan, A. Vedaldi, A. Zisserman (2014): Deep inside convolutional networks: visualising image
    classification models and saliency maps. ICLR Workshop. Section 3.
    """
    check_is_fitted(classifier)
    images = classifier._view_images(X, reset=False)
    indices = None
    if y is not None:
        indices = class_indices(check_labels(y, images, classifier), classifier.classes_, "y")
    modules = list(classifier.to_torch())
    scale = modules.pop(0) if isinstance(modules[0], ScaleImages) else torch.nn.Identity()
    network = torch.nn.Sequential(*modules)
    maps, start = [np.empty((0, *images.shape[1:3]), classifier.theta_.dtype)], 0
    for part in chunks(images, VALUES_AT_A_TIME):
        pixels = torch.from_numpy(np.asarray(part, classifier.theta_.dtype)).permute(0, 3, 1, 2)
        pixels = scale(pixels).detach().requires_grad_()
        outputs = network(pixels)
        chosen = outputs.argmax(1)
        if indices is not None:
            chosen = torch.from_numpy(indices[start : start + len(part)])
        (gradient,) = torch.autograd.grad(outputs.gather(1, chosen.unsqueeze(1)).sum(), pixels)
        maps.append(gradient.abs().amax(1).numpy())
        start += len(part)
    return np.concatenate(maps)
