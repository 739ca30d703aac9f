import pytest
import torch
import torch.nn.functional as F

from hfcnn import ops


def patches_by_unfold(z, layer, gap=(1, 1), first=(0, 0)):
    """[patch, 1] at each position as rows, in theta's order, by torch's unfold."""
    phi = F.unfold(z.permute(0, 3, 1, 2), layer.kernel, padding=layer.padding, stride=layer.stride)
    phi = phi.view(len(z), layer.channels, *layer.kernel, layer.conv_height, layer.conv_width)
    rows = phi[..., first[0] :: gap[0], first[1] :: gap[1]].permute(0, 4, 5, 2, 3, 1).flatten(3).flatten(0, 2)
    return torch.cat((rows, torch.ones(len(rows), 1, dtype=z.dtype)), 1)


def test_patches(p, tiles, kernels, check):
    rows = patches_by_unfold(p.exact.z.cpu(), p.layer)
    check("kernel", kernels.conv_patch_gram(p.z, p.layer, precision="ieee"), rows.t() @ rows, p.dtype)
    check("twin", ops.conv_patch_gram(p.exact.z, p.layer), rows.t() @ rows, torch.float64)


def test_cotangents(p, tiles, kernels, check):
    # u is the gradient of the layer's output in its convolution's, g given
    code, layer = p.code.cpu(), p.layer
    s = torch.zeros(len(p.z), layer.conv_height, layer.conv_width, layer.filters, dtype=torch.float64)
    i_n, row, column, o = (code != ops.RELU_OFF).nonzero(as_tuple=True)
    taken = code[i_n, row, column, o].long()
    row, column = row * layer.pool[0] + taken // layer.pool[1], column * layer.pool[1] + taken % layer.pool[1]
    s[i_n, row, column, o] = p.exact.g.cpu()[code != ops.RELU_OFF]
    u = s.flatten(0, 2)
    actual = kernels.conv_cotangent_gram(p.g, p.code, layer, precision="ieee")
    check("kernel", actual, u.t() @ u, p.dtype)
    check("twin", ops.conv_cotangent_gram(p.exact.g, code, layer), u.t() @ u, torch.float64)


@pytest.mark.parametrize(("gap", "first"), [((2, 2), (0, 0)), ((2, 3), (1, 2)), ((4, 1), (3, 0))])
@pytest.mark.parametrize("name", ["three-channels", "rectangular", "channels-48", "stride-2"])
def test_a_grid_of_patches(name, gap, first, odd, kernels, check):
    p = odd(name)
    sides = (p.layer.conv_height, p.layer.conv_width)
    first = tuple(min(f, side - 1) for f, side in zip(first, sides, strict=True))
    rows = patches_by_unfold(p.exact.z.cpu(), p.layer, gap, first)
    actual = kernels.conv_patch_gram(p.z, p.layer, gap=gap, first=first, precision="ieee")
    check("kernel", actual, rows.t() @ rows, p.dtype)
    twin = ops.conv_patch_gram(p.exact.z, p.layer, gap=gap, first=first)
    check("twin", twin, rows.t() @ rows, torch.float64)


def test_grams_are_symmetric_and_their_bits_repeat(odd, kernels):
    p = odd("many-small-images")
    for gram in (
        lambda: kernels.conv_patch_gram(p.z, p.layer),
        lambda: kernels.conv_cotangent_gram(p.g, p.code, p.layer),
    ):
        once = gram()
        assert torch.equal(once, gram()) and torch.equal(once, once.t())


def test_no_position_left(odd, kernels):
    p = odd("one-pixel")
    with pytest.raises(ValueError, match="leave no position"):
        kernels.conv_patch_gram(p.z, p.layer, first=(1, 0))
