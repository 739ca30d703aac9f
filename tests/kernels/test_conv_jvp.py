from hfcnn import ops


def test_jvp(p, tiles, kernels, check):
    x, layer = p.exact, p.layer
    expected = ops.conv_jvp(x.z, x.z_dot, x.w, x.v, x.v_bias, p.code.cpu(), layer)
    actual = kernels.conv_jvp(p.z, p.z_dot, p.w, p.v, p.v_bias, p.code, layer, precision="ieee")
    check("z_next_dot", actual, expected, p.dtype)


def test_jvp_of_the_first_layer(odd, kernels, check):
    for name in ("one-channel", "three-channels", "stride-2", "channels-48"):
        p = odd(name)
        x, layer = p.exact, p.layer
        expected = ops.conv_jvp(x.z, None, x.w, x.v, x.v_bias, p.code.cpu(), layer)
        actual = kernels.conv_jvp(p.z, None, p.w, p.v, p.v_bias, p.code, layer, precision="ieee")
        check(name, actual, expected, p.dtype)
