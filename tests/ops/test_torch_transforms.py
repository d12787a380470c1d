# SPDX-License-Identifier: Apache-2.0
"""The ops under transforms of torch: torch.func, torch.compile, torch.export, autocast."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cells import backends, place
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import stylefast

pytestmark = pytest.mark.parametrize("backend", backends())
EDITS = torch.tensor([[0, 1, 0], [2, 2, 1], [0, 0, 1], [1, 2, 0]])


def rows(backend: str) -> tuple[Tensor, ...]:
    """Random target [3, 8], reference [3, 8], query [2, 8] and strength [4] in float64."""
    rng = torch.Generator().manual_seed(0)
    target, reference = torch.randn(3, 8, generator=rng), torch.randn(3, 8, generator=rng)
    query, strength = torch.rand(2, 8, generator=rng), torch.rand(4, generator=rng)
    return tuple(place(x.double(), backend) for x in (target, reference, query, strength))


def both(backend: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The blend of `EDITS`, and its equation in plain torch."""
    edits = place(EDITS, backend)
    t, r, q = edits.T

    def equation(target: Tensor, reference: Tensor, query: Tensor, strength: Tensor) -> Tensor:
        return target[t] + strength[:, None] * query[q] * (reference[r] - target[t])

    def blend(target: Tensor, reference: Tensor, query: Tensor, strength: Tensor) -> Tensor:
        return stylefast.blend(target, reference, query, edits=edits, strength=strength, backend=backend)

    return blend, equation


def test_blend_is_transformed_as_its_equation(backend: str):
    inputs, argnums = rows(backend), (0, 1, 2, 3)
    blend, equation = both(backend)
    tangents = tuple(x.flip(0) for x in inputs)
    for transform in (
        lambda f: grad(lambda *x: f(*x).square().sum(), argnums)(*inputs),
        lambda f: vjp(f, *inputs)[1](f(*inputs)),
        lambda f: jacrev(f, argnums)(*inputs),
        lambda f: jacfwd(f, argnums)(*inputs),
        lambda f: jvp(f, inputs, tangents),
        lambda f: hessian(lambda *x: f(*x).pow(3).sum(), argnums)(*inputs),
    ):
        assert_close(transform(blend), transform(equation))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_blend_under_vmap_equals_its_equation(backend: str):
    target, reference, query, _ = rows(backend)
    for in_dim, q in ((None, query[0]), (0, query[[0, 1, 0]])):
        blended = vmap(lambda t, r, q: stylefast.blend(t, r, q, backend=backend), (0, 0, in_dim))(target, reference, q)
        assert_close(blended.squeeze(1), target + q * (reference - target))
    got = vmap(grad(lambda t: stylefast.blend(t, reference[0], query[0], backend=backend).sum()))(target)
    assert_close(got, (1 - query[0]).expand(3, -1))


def batched_calls(backend: str) -> dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]]:
    """Functions of one item of a batch, and the batched tensors [2, ...] that they take."""
    rng = torch.Generator().manual_seed(0)
    a, c = torch.randn(2, 2, 6, 5, 4, generator=rng), torch.randn(2, 3, 6, generator=rng)
    labels, edits = torch.randint(3, (2, 2, 5, 4), generator=rng), torch.randint(3, (2, 4, 3), generator=rng)
    t, r, q = torch.rand(3, 2, 3, 7, generator=rng)
    a, c, labels, edits, t, r, q = (place(x, backend) for x in (a, c, labels, edits, t, r, q))
    b: dict[str, Any] = {"backend": backend}
    return {
        "assign": (lambda a, c: tuple(stylefast.assign(a, c, **b)), (a, c)),
        "lloyd_step": (lambda a, c: tuple(stylefast.lloyd_step(a, c, **b)), (a, c)),
        "contribution": (lambda a, labels: stylefast.contribution(a, labels, 3, **b), (a, labels)),
        "assign_contribution": (lambda a, c: tuple(stylefast.assign_contribution(a, c, **b)), (a, c)),
        "blend": (lambda t, r, q: stylefast.blend(t, r, q, mode="norm_preserving", **b), (t, r, q)),
        "edits": (lambda t, r, q, e: stylefast.blend(t, r, q, edits=e, strength=0.5, **b), (t, r, q, edits)),
    }


CALLS = ["assign", "lloyd_step", "contribution", "assign_contribution", "blend", "edits"]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", CALLS)
def test_ops_under_vmap_equal_a_loop(name: str, backend: str):
    call, inputs = batched_calls(backend)[name]
    got = vmap(call)(*inputs)
    for i in range(2):
        expected = call(*(x[i] for x in inputs))
        item = got[i] if isinstance(got, Tensor) else tuple(x[i] for x in got)
        assert_close(item, expected)


@pytest.mark.parametrize("name", CALLS)
def test_ops_take_fake_tensors_and_can_be_traced(name: str, backend: str):
    call, inputs = batched_calls(backend)[name]
    inputs = tuple(x[0].clone() for x in inputs)
    expected = call(*inputs)
    with FakeTensorMode() as mode:
        fake = call(*(mode.from_tensor(x) for x in inputs))
    traced = make_fx(call)(*inputs)(*inputs)
    for a, b, c in zip(*([x] if isinstance(x, Tensor) else x for x in (expected, fake, traced)), strict=True):
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
        assert_close(a, c)


def test_a_query_is_learnt_inside_a_module(backend: str):
    class Mixer(nn.Module):
        def __init__(self, query: Tensor) -> None:
            super().__init__()
            self.query = nn.Parameter(query)

        def forward(self, target: Tensor, reference: Tensor) -> Tensor:
            return stylefast.blend(target, reference, self.query, mode="norm_preserving", backend=backend)

    target, reference, query, _ = rows(backend)
    mixer = Mixer(query[0])
    mixer(target, reference).sum().backward()
    got = grad(lambda q: functional_call(mixer, {"query": q}, (target, reference)).sum())(query[0])
    assert_close(got, mixer.query.grad)


class Measure(nn.Module):
    """Labels, similarity and M of activations."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        labels, similarity = stylefast.assign(x, centroids, backend=self.backend)
        return labels, similarity, stylefast.contribution(x, labels, 4, backend=self.backend)


def activations(backend: str, n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n)
    return place(torch.randn(n, 8, 6, 5, generator=rng), backend), place(torch.randn(4, 8, generator=rng), backend)


def exported(module: nn.Module, *inputs: Any) -> Callable[..., Any]:
    file = io.BytesIO()
    shapes = ({0: torch.export.Dim("n")}, None)
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), file)
    file.seek(0)
    return torch.export.load(file).module()


def compiled(module: nn.Module, *_: Any) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")


@pytest.mark.parametrize("make", [exported, compiled])
def test_labels_and_m_in_a_program_for_any_number_of_images(make: Callable[..., Any], backend: str):
    measure = Measure(backend)
    program = make(measure, *activations(backend, 2))
    for n in (2, 5):
        inputs = activations(backend, n)
        assert all(torch.equal(a, b) for a, b in zip(program(*inputs), measure(*inputs), strict=True))


def test_autocast_changes_no_bit(backend: str):
    x, centroids = activations(backend, 2)
    target, reference, query, strength = (x.float() for x in rows(backend))
    edits = place(EDITS, backend)

    def all_outputs() -> list[Tensor]:
        step = stylefast.lloyd_step(x, centroids, backend=backend)
        labels_and_m = stylefast.assign_contribution(x, centroids, backend=backend)
        blends = [
            stylefast.blend(target, reference, query, edits=edits, strength=strength, mode=mode, backend=backend)
            for mode in ("linear", "norm_preserving")
        ]
        return [*Measure(backend)(x, centroids), *step, *labels_and_m, *blends]

    expected = all_outputs()
    with torch.autocast(x.device.type, torch.bfloat16):
        assert (x[:, 0, 0] @ x[:, 0, 0].T).dtype == torch.bfloat16
        got = all_outputs()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_tangents_of_forward_ad_are_refused(name: str, backend: str):
    call, inputs = batched_calls(backend)[name]
    first, *others = (x[0].clone() for x in inputs)
    with forward_ad.dual_level():
        call(first, *others)  # no tensor has a tangent
        dual = forward_ad.make_dual(first, torch.ones_like(first))
        with pytest.raises(NotImplementedError, match="does not support torch.autograd.forward_ad"):
            call(dual, *others)


def test_out_with_a_tangent_is_refused(backend: str):
    rows = place(torch.rand(3, 9), backend)
    with forward_ad.dual_level():
        out = forward_ad.make_dual(torch.empty_like(rows), torch.ones_like(rows))
        with pytest.raises(NotImplementedError, match="does not support torch.autograd.forward_ad"):
            stylefast.blend(rows, rows, rows, out=out, backend=backend)
