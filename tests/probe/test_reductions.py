"""What is kept of an activation, against numpy written by hand."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probekit._probe.reductions import Mask, Projection, plan_reduction
from probekit.errors import DataError, SiteError

NAMES = ["mean", "max", "flatten", "cls", "last", "tokens"]
LAYOUTS = {1: (4,), 2: (4, 6), 3: (4, 5, 6), 4: (4, 3, 5, 2), 5: (4, 2, 3, 2, 6)}


def reduced(spec, tensor, mask=None, rows=None):
    return plan_reduction(spec, site="layer")(tensor, mask, rows=rows)


def kept(spec, tensor, mask=None, rows=None):
    return reduced(spec, tensor, mask, rows).tensor


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def padded(samples, sides, width):
    """The samples as one batch with NaN in its padding, and the mask; `sides` says who is padded on the left."""
    batch = np.full((len(samples), width, samples[0].shape[1]), np.nan, np.float32)
    mask = np.zeros((len(samples), width), np.int64)
    for row, (sample, left) in enumerate(zip(samples, sides, strict=True)):
        start = width - len(sample) if left else 0
        batch[row, start : start + len(sample)] = sample
        mask[row, start : start + len(sample)] = 1
    return torch.from_numpy(batch), torch.from_numpy(mask)


@pytest.fixture
def sentences():
    random = np.random.default_rng(0)
    return [random.standard_normal((length, 3)).astype(np.float32) for length in (4, 1, 6, 3)]


BY_HAND = {
    "mean": lambda x: x.astype(np.float64).mean(0),
    "max": lambda x: x.max(0),
    "cls": lambda x: x[0],
    "last": lambda x: x[-1],
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("left", [True, False])
def test_tokens_are_pooled_over_the_real_ones(name, left, sentences):
    batch, mask = padded(sentences, [left] * 4, width=7)
    expected = np.stack([BY_HAND[name](sample) for sample in sentences])
    np.testing.assert_allclose(kept(name, batch, mask).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("left", [True, False])
def test_tokens_come_sample_after_sample_with_their_position_in_it(left, sentences):
    batch, mask = padded(sentences, [left] * 4, width=7)
    rows = reduced("tokens", batch, mask)
    np.testing.assert_array_equal(rows.tensor.numpy(), np.concatenate(sentences))
    assert rows.sample.tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    assert rows.positions.tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert rows.sample.dtype == rows.positions.dtype == torch.int64
    assert rows.dims == ("node",)


def test_padding_may_stand_between_real_tokens():
    tokens, mask = torch.tensor([[[1.0], [9.0], [3.0], [9.0]]]), torch.tensor([[1, 0, 1, 0]])
    assert kept("mean", tokens, mask).tolist() == [[2.0]]
    assert kept("last", tokens, mask).tolist() == [[3.0]]
    assert reduced("tokens", tokens, mask).positions.tolist() == [0, 1]


def bits(tensor):
    return tensor.numpy().view(np.int32).tolist()


@st.composite
def batches(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    value = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
    row = st.lists(value, min_size=2, max_size=2)
    samples = [np.array(draw(st.lists(row, min_size=n, max_size=n)), np.float32) for n in lengths]
    sides = [draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))) for _ in range(2)]
    widths = [max(lengths) + draw(st.integers(0, 5)) for _ in range(2)]
    return samples, sides, widths


@pytest.mark.parametrize("spec", ["mean", "max", "cls", "last", "tokens", ["tokens", [1]], [[1, 0], "mean"]])
@given(drawn=batches())
def test_padding_leaves_no_bit_of_a_row_changed(spec, drawn):
    samples, sides, widths = drawn
    one, other = (reduced(spec, *padded(samples, side, width)) for side, width in zip(sides, widths, strict=True))
    assert bits(one.tensor) == bits(other.tensor)
    alone = [kept(spec, torch.from_numpy(sample)[None]) for sample in samples]  # a batch each, without a mask
    assert bits(one.tensor) == bits(torch.cat(alone))
    if one.positions is not None:
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.sample, other.sample)


def test_padding_leaves_no_bit_of_a_long_mean_changed():
    samples = [noise(length, 3, seed=length).numpy() for length in (700, 33, 256)]
    one = kept("mean", *padded(samples, [False] * 3, width=700))
    other = kept("mean", *padded(samples[::-1], [True] * 3, width=1300)).flip(0)
    assert bits(one) == bits(other)
    assert bits(one) == bits(torch.cat([kept("mean", torch.from_numpy(sample)[None]) for sample in samples]))


def test_nan_of_a_real_token_is_kept():
    tokens = torch.tensor([[[1.0], [torch.nan], [2.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert kept("mean", tokens, mask).isnan().all()
    assert kept("max", tokens, mask).isnan().all()


def test_a_mask_of_real_tokens_only_is_no_mask():
    tokens = noise(3, 5, 4)
    for name in NAMES:
        assert torch.equal(kept(name, tokens, torch.ones(3, 5)), kept(name, tokens)), name


@pytest.mark.parametrize("made", [torch.bool, torch.int64, torch.float32])
def test_a_mask_may_be_of_any_dtype_and_be_made_once(made, sentences):
    batch, mask = padded(sentences, [True, False, True, False], width=6)
    once = Mask.of(mask.to(made))
    assert torch.equal(kept("mean", batch, once), kept("mean", batch, mask))
    assert torch.equal(kept("last", batch, once), kept("last", batch, mask))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_maps_are_pooled_over_y_and_x(order):
    maps = noise(4, 3, 5, 2).contiguous(memory_format=order)
    np.testing.assert_allclose(kept("mean", maps).numpy(), maps.numpy().astype(np.float64).mean((2, 3)), atol=1e-7)
    np.testing.assert_array_equal(kept("max", maps).numpy(), maps.numpy().max((2, 3)))


def test_the_memory_layout_and_the_batch_leave_no_bit_of_a_mean_changed():
    maps = noise(6, 8, 7, 9)
    whole = kept("mean", maps)
    assert torch.equal(whole, kept("mean", maps.contiguous(memory_format=torch.channels_last)))
    assert torch.equal(whole, torch.cat([kept("mean", part) for part in maps.split([1, 2, 3])]))


def test_feature_maps_of_three_axes_have_their_nodes_on_axis_1():
    values = noise(*LAYOUTS[5])
    np.testing.assert_allclose(
        kept("mean", values).numpy(), values.numpy().astype(np.float64).mean((2, 3, 4)), atol=1e-7
    )
    np.testing.assert_array_equal(kept([1, 0], values).numpy(), values.numpy()[:, [1, 0]])


@pytest.mark.parametrize("name", ["mean", "max"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_what_has_no_positions_is_kept(name, ndim):
    values = noise(*LAYOUTS[ndim])
    assert torch.equal(kept(name, values), values)
    assert torch.equal(kept(name, values, torch.ones(4, 9)), values)


@pytest.mark.parametrize("ndim", LAYOUTS)
def test_flatten_gives_all_values_of_a_sample(ndim):
    values = noise(*LAYOUTS[ndim])
    np.testing.assert_array_equal(kept("flatten", values).numpy(), values.numpy().reshape(4, -1))


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        ([2, 0], [2, 0]),
        ([-1], [-1]),
        (range(2), [0, 1]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([1]), [1]),
        (slice(1, None), slice(1, None)),
        (slice(None, -1, 2), slice(None, -1, 2)),
    ],
)
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 5, 2)])
def test_nodes_are_picked_on_the_node_axis(spec, index, shape):
    values = noise(*shape)
    expected = values.numpy()[:, index] if len(shape) == 4 else values.numpy()[..., index]
    np.testing.assert_array_equal(kept(spec, values).numpy(), expected)


def gaussian(width, size, seed):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((width, size)) / size**0.5


@pytest.mark.parametrize(
    ("shape", "product"), [((4, 6), "bn,nk->bk"), ((4, 5, 6), "bpn,nk->bpk"), ((4, 6, 3, 2), "bnyx,nk->bkyx")]
)
def test_a_projection_is_the_same_matrix_wherever(shape, product):
    values = noise(*shape)
    expected = np.einsum(product, values.numpy().astype(np.float64), gaussian(6, 7, 3))
    np.testing.assert_allclose(kept(Projection(7, seed=3), values).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_projection_keeps_lengths_in_expectation():
    values = noise(200, 50)
    ratio = kept(Projection(400), values).norm(dim=1) ** 2 / values.norm(dim=1) ** 2
    assert abs(ratio.mean() - 1) < 0.02  # its standard deviation is sqrt(2/400) a row, and rows share a matrix
    assert not torch.equal(kept(Projection(400, seed=1), values), kept(Projection(400), values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32_and_cast_back(dtype):
    values = (noise(2, 3000, 2) + 30).to(dtype)  # 90,000 in all: beyond float16, and far beyond bfloat16's precision
    exact = values.double().mean(1)
    mean = kept("mean", values)
    assert mean.dtype == dtype
    assert torch.equal(mean, exact.to(dtype))
    projected = kept(Projection(4), values)
    assert projected.dtype == dtype
    expected = values.double().numpy() @ gaussian(2, 4, 0)
    np.testing.assert_allclose(projected.double().numpy(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    assert kept("max", values).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_the_mean_of_integers_is_float64_and_other_reductions_keep_them(dtype):
    values = (torch.arange(24).reshape(2, 4, 3) % 5).to(dtype)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    mean = kept("mean", values, mask)
    assert mean.dtype == torch.float64
    np.testing.assert_array_equal(mean[0].numpy(), values[0, :2].numpy().astype(float).mean(0))
    for name in ("max", "last", "tokens", "flatten"):
        assert kept(name, values, mask).dtype == dtype
    np.testing.assert_array_equal(kept("max", values, mask)[0].numpy(), values[0, :2].numpy().max(0))


def test_float64_stays_float64():
    values = noise(3, 5, 4).double() + 1e-12
    np.testing.assert_allclose(kept("mean", values).numpy(), values.numpy().mean(1), rtol=1e-15, atol=1e-16)
    np.testing.assert_allclose(kept(Projection(2), values).numpy(), values.numpy() @ gaussian(4, 2, 0), rtol=1e-13)


def test_complex_values_have_a_mean_and_no_maximum():
    values = torch.complex(noise(2, 3, 4), noise(2, 3, 4, seed=1))
    np.testing.assert_allclose(kept("mean", values).numpy(), values.numpy().mean(1), rtol=1e-5)
    with pytest.raises(SiteError, match="reduce='max' on layer, of shape"):
        kept("max", values)


def test_autocast_leaves_a_projection_in_float32():
    values = noise(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = kept(Projection(3), values)
    assert torch.equal(inside, kept(Projection(3), values))


def test_steps_are_applied_in_order():
    values = noise(2, 5, 6)
    mean = kept([slice(0, 4), "mean", lambda x: x * 2, Projection(3)], values)
    expected = values.numpy()[..., :4].astype(np.float64).mean(1) * 2 @ gaussian(4, 3, 0)
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-5, atol=1e-6)
    rows = reduced(["tokens", [1], torch.abs], values)
    np.testing.assert_array_equal(rows.tensor.numpy(), np.abs(values.numpy().reshape(10, 6)[:, [1]]))
    assert rows.positions.tolist() == [0, 1, 2, 3, 4] * 2


def test_a_callable_can_make_axis_0_the_batch():
    values = noise(7, 3, 2)  # (time, batch, node)
    swap = partial(torch.transpose, dim0=0, dim1=1)
    assert torch.equal(kept([swap, "last"], values, rows=3), values[-1])
    with pytest.raises(SiteError, match=r"reduce='last' on layer, of shape \(7, 3, 2\): axis 0 .* of length 3"):
        kept("last", values, rows=3)


@pytest.mark.parametrize("function", [torch.Tensor.relu_, lambda x: x.zero_(), lambda x: x.data.add_(1)])
@pytest.mark.parametrize("before", [[], [slice(0, 3)], ["cls"], ["flatten"]])
def test_a_callable_that_works_in_place_leaves_the_input_alone(function, before):
    values = noise(3, 4, 5)
    copy = values.clone()
    kept([*before, function], values)
    assert torch.equal(values, copy)


ALL = [*NAMES, [0, 2], slice(1, 3), Projection(2), torch.sigmoid, ["tokens", Projection(2)], ["flatten", [0, 5]]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("spec", ALL, ids=lambda spec: getattr(spec, "__name__", str(spec)))
def test_the_input_is_left_alone_and_any_grad_mode_gives_the_same(spec, mode, sentences):
    batch, mask = padded(sentences, [True, False, False, True], width=7)
    batch = torch.nan_to_num(batch, 8.0)
    plan = plan_reduction(spec, site="layer")
    expected, expected_batch = plan(batch, mask).tensor, batch.clone()
    with mode():
        inside = (batch * 1).requires_grad_(mode is torch.enable_grad)
        assert torch.equal(plan(inside, mask).tensor, expected)
    assert torch.equal(inside, expected_batch)
    assert torch.equal(batch, expected_batch)


def test_what_was_first_used_in_inference_mode_serves_gradients_later():
    plan = plan_reduction([[0, 1], Projection(2)], site="layer")
    with torch.inference_mode():
        plan(noise(2, 3))
    values = noise(2, 3).requires_grad_()
    plan(values).tensor.sum().backward()
    expected = np.concatenate([gaussian(2, 2, 0).sum(1), [0]])
    np.testing.assert_allclose(values.grad.numpy(), np.stack([expected] * 2), rtol=1e-5)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: getattr(spec, "__name__", str(spec)))
def test_a_batch_of_no_samples_gives_no_rows(spec):
    assert len(kept(spec, noise(0, 3, 4))) == 0
    assert len(kept(spec, noise(0, 3, 4), torch.ones(0, 3))) == 0


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("mean", ["mean"]),
        (["tokens", range(2)], ["tokens", {"nodes": [0, 1]}]),
        (np.array([1, 2]), [{"nodes": [1, 2]}]),
        (slice(1, None, 2), [{"slice": [1, None, 2]}]),
        (Projection(8, seed=1), [{"projection": {"size": 8, "seed": 1}}]),
        (padded, [{"callable": f"{__name__}.padded"}]),
        (nn.ReLU(), [{"callable": "torch.nn.modules.activation.ReLU"}]),
        (partial(padded), [{"callable": "functools.partial"}]),
    ],
)
def test_a_reduction_is_described_as_json(spec, text):
    assert json.loads(plan_reduction(spec, site="layer").describe()) == text


@pytest.mark.parametrize(
    ("shape", "nodes", "dims"),
    [
        ((2,), None, ()),
        ((2, 3), None, ("node",)),
        ((2, 3, 4), None, ("position", "node")),
        ((2, 3, 4), 1, ("channel", "position")),
        ((2, 3, 4, 5), None, ("channel", "y", "x")),
        ((2, 3, 4, 5), 3, ("y", "x", "channel")),
        ((2, 3, 4, 5), 2, ("axis_1", "channel", "axis_3")),
        ((2, 3, 4, 5, 6), None, ("channel", "z", "y", "x")),
        ((2, 3, 4, 5, 6), 4, ("z", "y", "x", "channel")),
        ((2, 3, 4, 5, 6, 7), None, ("axis_1", "axis_2", "axis_3", "axis_4", "channel")),
    ],
)
def test_dims_are_named_as_the_store_names_them(shape, nodes, dims):
    same = plan_reduction(lambda x: x, site="layer")
    assert same(noise(*shape), nodes=nodes).dims == dims


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_node_axis_can_be_any(nodes):
    x = noise(2, 3, 4, 5)
    others = tuple(axis for axis in (1, 2, 3) if axis != nodes)
    mean = plan_reduction("mean", site="layer")(x, nodes=nodes)
    torch.testing.assert_close(mean.tensor, x.mean(others))
    assert mean.dims == ("node",)
    chosen = plan_reduction([0, 2], site="layer")(x, nodes=nodes)
    assert torch.equal(chosen.tensor, x.index_select(nodes, torch.tensor([0, 2])))


def test_a_plan_tells_whether_rows_are_tokens():
    assert plan_reduction(["tokens", [0]], site="layer").by_token
    assert not plan_reduction(["last", [0]], site="layer").by_token


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("men", r"reduce for layer: 'men' is not one of 'mean', .* Near: 'mean'"),
        (["mean", "tokns"], r"'tokns' is not one of .* Near: 'tokens'"),
        ([], r"\[\] is not a reduction. Give 'mean'"),
        (None, "None is not a reduction"),
        ({"mean": "relu"}, "is not a reduction"),
        (7, "7 is not a reduction"),
        ([0, "mean"], "mixes indices"),
        ([True, False], "booleans"),
        (torch.tensor([True, False]), "booleans"),
        ([0.5], "fractions"),
        (slice(0, 3, 0), "step of at least 1"),
        (slice("a"), "is not a slice of nodes"),
        (Projection(0), "size of at least 1"),
        (Projection(2, seed=-1), "seed of at least 0"),
        (["tokens", "mean"], "'mean' follows 'tokens'"),
        (["tokens", [0], "tokens"], "'tokens' follows 'tokens'"),
    ],
)
def test_what_is_no_reduction_is_refused_before_it_is_used(spec, message):
    with pytest.raises(SiteError, match=message):
        plan_reduction(spec, site="layer")


FOUR = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("spec", "shape", "mask", "message"),
    [
        ("cls", (2, 5), None, r"reduce='cls' on layer, of shape \(2, 5\): it has no tokens"),
        ("last", (2, 3, 4, 4), None, "it has no tokens"),
        ("tokens", (2, 5), None, "it has no tokens"),
        (["mean", "last"], (2, 3, 5), None, r"reduce='last' on layer, of shape \(2, 5\)"),
        ("mean", (2, 3, 5), FOUR, r"mask has shape \(2, 4\), and .* is \(2, 3\)"),
        ("last", (2, 3, 5), torch.ones(2, 1, 3, 3), r"mask has shape \(2, 1, 3, 3\), and .* is \(2, 3\)"),
        ("max", (2, 3, 4, 4), FOUR, r"the \(batch, position\) of these tokens is \(2, 16\)"),
        ("mean", (2, 4, 5), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), "sample 1 of the batch has no real token"),
        ("tokens", (2, 4, 5), torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]), "sample 0 of the batch has no real token"),
        ("mean", (2, 0, 5), None, "it has no positions"),
        ("max", (2, 3, 0, 4), None, "it has no positions"),
        ([0, 7], (2, 5), None, r"it has 5 nodes: no \[7\]"),
        ([-6], (2, 5), None, r"no \[-6\]"),
        (slice(5, None), (2, 5), None, "it has 5 nodes: none of them in the slice"),
        ([0], (2,), None, "no nodes to choose from"),
        (Projection(3), (2,), None, "no nodes to choose from"),
        ("flatten", (), None, r"of shape \(\): axis 0"),
        (torch.sum, (2, 5), None, r"axis 0 of shape \(\) is not the batch, of length 2"),
        (torch.t, (2, 5), None, r"axis 0 of shape \(5, 2\) is not the batch, of length 2"),
        (["tokens", lambda x: x[1:]], (2, 3, 5), None, r"axis 0 of shape \(5, 5\) is not the batch, of length 6"),
        (torch.Tensor.tolist, (2, 5), None, "returned a list"),
        (lambda x: x @ x, (2, 5), None, "RuntimeError: .*mat1 and mat2"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(spec, shape, mask, message):
    with pytest.raises(SiteError, match=message):
        kept(spec, torch.zeros(shape), mask)


def test_a_mask_to_be_added_to_scores_is_refused():
    with pytest.raises(DataError, match=r"of shape \(1, 2\), must hold only 1 \(a real token\) and 0 \(padding\)"):
        kept("mean", noise(1, 2, 3), torch.tensor([[0.0, -torch.inf]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("spec", [*NAMES, [0, 2], ["tokens", [1]]], ids=str)
def test_a_gpu_gives_the_same_bits(spec, sentences):
    batch, mask = padded(sentences, [True, False, False, True], width=7)
    there = reduced(spec, batch.cuda(), mask.cuda())
    assert there.tensor.is_cuda
    np.testing.assert_array_equal(there.tensor.cpu().numpy(), kept(spec, batch, mask).numpy())
