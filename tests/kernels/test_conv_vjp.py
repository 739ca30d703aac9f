import torch

from hfcnn import ops


def test_vjp_input(p, tiles, kernels, check):
    expected = ops.conv_vjp_input(p.exact.g, p.exact.w, p.code.cpu(), p.layer)
    check("g_input", kernels.conv_vjp_input(p.g, p.w, p.code, p.layer, precision="ieee"), expected, p.dtype)


def test_vjp_input_of_rows(odd, kernels, check):
    for name in ("rectangular", "many-small-images", "one-image", "stride-2"):
        p = odd(name)
        expected = ops.conv_vjp_input(p.exact.rows, p.exact.w, p.code.cpu(), p.layer)
        actual = kernels.conv_vjp_input(p.rows, p.w, p.code, p.layer, precision="ieee")
        check(name, actual, expected, p.dtype)


def test_vjp_weight(p, tiles, kernels, check):
    expected = ops.conv_vjp_weight(p.exact.g, p.exact.z, p.code.cpu(), p.layer)
    actual = kernels.conv_vjp_weight(p.g, p.z, p.code, p.layer, precision="ieee")
    for name, a, e in zip(("g_weight", "g_bias"), actual, expected, strict=True):
        check(name, a, e, p.dtype)


def test_vjp_is_both(odd, kernels):
    p = odd("three-channels")
    g_input, *parameters = kernels.conv_vjp(p.g, p.z, p.w, p.code, p.layer)
    none, *same = kernels.conv_vjp(p.g, p.z, p.w, p.code, p.layer, needs_input=False)
    assert none is None
    assert torch.equal(g_input, kernels.conv_vjp_input(p.g, p.w, p.code, p.layer))
    weight = kernels.conv_vjp_weight(p.g, p.z, p.code, p.layer)
    for a, b, c in zip(parameters, same, weight, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_adjoint_identity(odd, kernels):
    for name in ("three-channels", "stride-2", "rectangular", "pool-3-remainder"):
        p = odd(name, torch.float64)
        jvp = kernels.conv_jvp(p.z, p.z_dot, p.w, p.v, p.v_bias, p.code, p.layer)
        g_input, g_weight, g_bias = kernels.conv_vjp(p.g, p.z, p.w, p.code, p.layer)
        forward = (p.g * jvp).sum()
        backward = (g_input * p.z_dot).sum() + (g_weight * p.v).sum() + (g_bias * p.v_bias).sum()
        torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-12)


def test_same_bits_again(odd, kernels):
    p = odd("many-small-images")
    once = kernels.conv_vjp(p.g, p.z, p.w, p.code, p.layer)
    again = kernels.conv_vjp(p.g, p.z, p.w, p.code, p.layer)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_many_splits(odd, kernels, monkeypatch, check):
    """Positions split over more programs than the last one has tiles for."""
    target = kernels.TARGETS["sm_90"]
    monkeypatch.setattr(kernels.launch, "current_target", lambda tensor: target)
    p = odd("many-small-images")
    layer, n_images = p.layer, 400
    z, g, code = (x.repeat(6, 1, 1, 1)[:n_images] for x in (p.z, p.g, p.code))
    first, second = kernels.launches("conv_vjp_weight", layer, n_images, precision="ieee", target=target)
    assert first.grid[-1] == second.constexprs["N_ROWS"] > 2
    expected = ops.conv_vjp_weight(g.cpu().double(), z.cpu().double(), code.cpu(), layer)
    actual = kernels.conv_vjp_weight(g, z, code, layer, precision="ieee")
    for name, a, e in zip(("g_weight", "g_bias"), actual, expected, strict=True):
        check(name, a, e, p.dtype)


def test_no_images(odd, kernels):
    p = odd("three-channels")
    g_input, g_weight, g_bias = kernels.conv_vjp(p.g[:0], p.z[:0], p.w, p.code[:0], p.layer)
    assert g_input.shape == (0, *p.layer.input_shape)
    assert not g_weight.any() and not g_bias.any()


def test_gradients_are_written_where_they_are_wanted(odd, kernels):
    """At any place of a vector, with what is around it left alone."""
    for name in ("three-channels", "stride-2"):
        p = odd(name)
        n_images, n = len(p.z), p.layer.n_parameters
        D, q = p.g.unsqueeze(1).contiguous(), torch.ones(n_images, 1, dtype=p.g.dtype, device=p.g.device)
        for module in (kernels, ops):
            whole = p.g.new_full((n + 4,), 7.0)
            out = whole[3 : 3 + n]
            _, weight, bias = module.conv_vjp(p.g, p.z, p.w, p.code, p.layer)
            expected = torch.cat((weight.flatten(), bias))
            results = (
                module.conv_vjp(p.g, p.z, p.w, p.code, p.layer, out=out)[1:],
                module.conv_vjp_weight(p.g, p.z, p.code, p.layer, out=out),
                module.jacobian_vjp(p.z, D, q, p.code, p.layer, out=out),
            )
            for g_weight, g_bias in results:
                assert g_weight.data_ptr() == out.data_ptr() and g_weight.shape == p.layer.weight_shape
                assert g_bias.data_ptr() == out[-p.layer.filters :].data_ptr()
            torch.testing.assert_close(out, expected)
            assert whole[:3].tolist() == [7.0] * 3 and whole[-1] == 7


def test_a_kept_weight_is_brought_into_each_form_once(odd, kernels, monkeypatch):
    p = odd("three-channels")
    whole = torch.zeros(p.w.numel() + 1, dtype=p.w.dtype, device=p.w.device)
    w = whole[1:].view_as(p.w).copy_(p.w)  # on no 16 bytes
    kept, runs, run = kernels.conv_weight(w, p.layer), [], kernels.Launch.run

    def counted(self, *arguments):
        runs.append(self.kernel.__name__)
        run(self, *arguments)

    monkeypatch.setattr(kernels.Launch, "run", counted)
    for weight, transposed in ((w, 2), (kept, 1)):
        runs.clear()
        for _ in range(2):
            g_input = kernels.conv_vjp_input(p.g, weight, p.code, p.layer)
            jvp = kernels.conv_jvp(p.z, p.z_dot, weight, p.v, p.v_bias, p.code, p.layer)
        assert torch.equal(g_input, kernels.conv_vjp_input(p.g, p.w, p.code, p.layer))
        assert torch.equal(jvp, kernels.conv_jvp(p.z, p.z_dot, p.w, p.v, p.v_bias, p.code, p.layer))
        assert runs.count("_transpose_kernel") == transposed + 1  # one for the comparison
