"""The contestants: how each trains the same network from the same weights, with the same averaging.

A contestant is a function that trains until it is told to stop. After each of its steps it shows how many
passes over the images it has made and the parameters it has; the contest decides when to look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hfcnn.benchmark.cases import channels_last
from hfcnn.estimator.parameters import PAPER_C, STOCHASTIC_C
from hfcnn.loss import get_loss
from hfcnn.newton import NewtonOptions, newton
from hfcnn.objective import Objective
from hfcnn.stochastic import StochasticOptions, stochastic

__all__ = ["CONTESTANTS", "AveragedParameters", "Contestant", "Show", "Start"]

#: Images of a batch of a first-order method.
FIRST_ORDER_BATCH = 128

#: eta of the average: its newest point has weight (eta + 1) / (k + eta) after k points, as in our own solver.
AVERAGING = 8.0

#: Newton iterations: more than any budget holds.
ENDLESS = 10**9


class Show(Protocol):
    """Is shown the work done so far; raises to end the training."""

    def __call__(
        self, passes: float, newest: Callable[[], Tensor], averaged: Callable[[], Tensor] | None = None
    ) -> None:
        """Take note of passes over the images, and how to read the parameters as theta."""


@dataclass(frozen=True)
class Start:
    """Where every contestant starts: the objective, the first parameters, and a seed for the rest.

    Attributes
    ----------
    objective : Objective
        Images, labels, network, loss and C.
    theta : Tensor of shape (n,)
        First parameters.
    rate : float
        Learning rate, for contestants that have one.
    seed : int
        Seed of the order of the images.
    """

    objective: Objective
    theta: Tensor
    rate: float
    seed: int


@dataclass(frozen=True)
class Contestant:
    """A method with what the contest must know of it.

    Attributes
    ----------
    title : str
        What tables and legends say.
    train : callable
        Trains from a `Start`, calling a `Show` after each step.
    rates : tuple of float
        Learning rates to try, the likeliest first; empty where there is none to choose.
    loss : str
        Loss that it minimizes.
    C : float
        C over the number of images in what it minimizes; 0 if it has a decay of its own.
    package : str
        What must be installed for it; empty where nothing is.
    """

    title: str
    train: Callable[[Start, Show], None]
    rates: tuple[float, ...] = ()
    loss: str = "cross_entropy"
    C: float = 0.0
    package: str = ""


class AveragedParameters:
    """A running average of a list of tensors, which gives late points more weight."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.values = [parameter.detach().clone() for parameter in parameters]
        self.count = 0

    @torch.no_grad()
    def add(self, parameters: Sequence[Tensor]) -> None:
        """Take in the newest point."""
        self.count += 1
        share = (AVERAGING + 1) / (self.count + AVERAGING)
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in parameters], share)


def _batches(n_images: int, seed: int) -> Iterator[Tensor]:
    """Indices of batches without end, reshuffled for each pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.split(torch.randperm(n_images, generator=generator), FIRST_ORDER_BATCH)


def _first_order(make: Callable[[nn.Module, Start], list[torch.optim.Optimizer]]) -> Any:
    """Build a contestant from what makes torch's optimizers for a module."""

    def train(start: Start, show: Show) -> None:
        objective = start.objective
        network, loss = objective.network, get_loss(objective.loss)
        # channels last is torch's fastest layout on a CPU
        module = channels_last(network, start.theta)
        parameters = list(module.parameters())
        average = AveragedParameters(parameters)
        optimizers = make(module, start)
        images, labels = objective.images, objective.labels

        def as_theta(values: Sequence[Tensor]) -> Tensor:
            names = [name for name, _ in module.named_parameters()]
            holder = network.to_torch(start.theta)
            holder.load_state_dict(dict(zip(names, values, strict=True)))
            return network.from_torch(holder, network.input_shape)[1]

        n_seen = 0
        for batch in _batches(len(images), start.seed):
            for optimizer in optimizers:
                optimizer.zero_grad()
            outputs = module(images[batch].permute(0, 3, 1, 2))
            loss.value(outputs, labels[batch]).mean().backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
            average.add(parameters)
            n_seen += len(batch)
            show(n_seen / len(images), lambda: as_theta(parameters), lambda: as_theta(average.values))

    return train


def _adamw(module: nn.Module, start: Start) -> list[torch.optim.Optimizer]:
    # torch's default weight decay, 0.01
    return [torch.optim.AdamW(module.parameters(), lr=start.rate, fused=True)]


def _sgd(module: nn.Module, start: Start) -> list[torch.optim.Optimizer]:
    # the regularization term of f, whose gradient is theta / C
    decay = 1 / start.objective.C
    return [torch.optim.SGD(module.parameters(), lr=start.rate, momentum=0.9, weight_decay=decay)]


class _Matrix(torch.optim.Optimizer):
    """An optimizer of matrices, given the weights of convolutions as matrices of one row for each filter."""

    def __init__(
        self, weights: Sequence[Tensor], make: Callable[[list[Tensor]], torch.optim.Optimizer]
    ) -> None:
        super().__init__(list(weights), {})
        self.weights = weights
        self.matrices = [nn.Parameter(self.as_matrix(weight.detach())) for weight in weights]
        self.inner = make(list(self.matrices))

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        """View a weight as a matrix; a convolution's is channels last in memory."""
        return weight.permute(0, 2, 3, 1).reshape(len(weight), -1) if weight.dim() == 4 else weight

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Hand the gradients over, and step: matrices and weights share their memory."""
        for matrix, weight in zip(self.matrices, self.weights, strict=True):
            assert weight.grad is not None
            matrix.grad = self.as_matrix(weight.grad)
        self.inner.step()


def _of_matrices(
    make: Callable[[list[Tensor], float], torch.optim.Optimizer],
) -> Callable[[nn.Module, Start], list[torch.optim.Optimizer]]:
    """Give weights to an optimizer of matrices, and biases to AdamW at its default rate."""

    def optimizers(module: nn.Module, start: Start) -> list[torch.optim.Optimizer]:
        weights = [parameter for parameter in module.parameters() if parameter.dim() > 1]
        biases = [parameter for parameter in module.parameters() if parameter.dim() == 1]
        matrix = _Matrix(weights, lambda matrices: make(matrices, start.rate))
        return [matrix, torch.optim.AdamW(biases, lr=1e-3)]

    return optimizers


def _muon(matrices: list[Tensor], rate: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(matrices, lr=rate, weight_decay=0.01)


def _soap(matrices: list[Tensor], rate: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP

    made: torch.optim.Optimizer = SOAP(matrices, lr=rate)
    return made


def _train_newton(start: Start, show: Show) -> None:
    options = NewtonOptions(max_iter=ENDLESS, seed=start.seed)
    for state in newton(start.objective, start.theta, options):
        theta = state.theta
        show(state.passes, lambda theta=theta: theta)  # type: ignore[misc]


def _train_stochastic(start: Start, show: Show) -> None:
    options = StochasticOptions(epochs=ENDLESS, seed=start.seed)

    def after_step(passes: float, newest: Tensor, average: Tensor) -> None:
        show(passes, lambda: newest, lambda: average)

    for _ in stochastic(start.objective, start.theta, options, after_step=after_step):
        pass


#: Every contestant by the name that the command line has for it.
CONTESTANTS = {
    "kfac": Contestant('solver="kfac"', _train_stochastic, C=STOCHASTIC_C),
    "newton-cg": Contestant("Newton-CG", _train_newton, loss="squared", C=PAPER_C),
    "adamw": Contestant("AdamW", _first_order(_adamw), (1e-3, 3e-3, 3e-4, 1e-2, 1e-4)),
    # minimizes what ours does
    "sgd": Contestant(
        "SG with momentum",
        _first_order(_sgd),
        (0.05, 0.1, 0.03, 0.01, 0.3, 0.003, 0.001),
        C=STOCHASTIC_C,
    ),
    "sgd-squared": Contestant(
        "SG with momentum, squared loss",
        _first_order(_sgd),
        (0.003, 0.01, 0.001, 0.03, 0.05, 0.1, 0.3),
        "squared",
        PAPER_C,
    ),
    "muon": Contestant("Muon", _first_order(_of_matrices(_muon)), (0.01, 0.003, 0.03)),
    "soap": Contestant("SOAP", _first_order(_of_matrices(_soap)), (3e-3, 1e-3), package="pytorch_optimizer"),
}
