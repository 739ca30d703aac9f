import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The networks are too small to gain from more, and waiting threads cost on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20)
