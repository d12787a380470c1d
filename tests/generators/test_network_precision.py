# SPDX-License-Identifier: Apache-2.0
"""Networks whose parameters are in half or double precision run in it, or are refused in one sentence."""

import pytest
import torch
from catalogs import build_catalog
from miniatures import MINIATURES

from stylefast.editing import StyleEditor
from stylefast.generators import wrap

HALVES = (torch.float16, torch.bfloat16)


def network_in(dtype, name="rosinality"):
    torch.manual_seed(0)
    return MINIATURES[name].build().eval().to(dtype)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("name", ["rosinality", "nvlabs2", "mmagic", "genforce2"])
def test_networks_run_in_the_dtype_of_their_parameters(name, dtype):
    network = network_in(dtype, name)
    generator = wrap(network)
    w = generator.latents([0, 1, 2], truncation=0.9)
    styles = generator.styles(w)
    assert w.dtype == torch.float32 and styles.dtype == dtype
    assert {x.dtype for x in generator.activations(w).values()} == {dtype}
    with torch.no_grad():
        expected = (MINIATURES[name].run(network, w.to(dtype)).float() * 0.5 + 0.5).clamp(0, 1)
    images = generator.synthesize(styles, w)
    assert images.dtype == torch.float32 and torch.equal(images, expected)
    target = generator.latents([5])
    assert torch.equal(generator.synthesize(styles[:1], target), generator.synthesize(styles[:1], w[:1]))


@pytest.mark.parametrize("dtype", HALVES)
def test_edits_work_in_half_precision(dtype):
    generator = wrap(network_in(dtype))
    w = generator.latents(range(4))
    catalog = build_catalog(generator, w, n_clusters=3, resolution=8, n_init=1).annotate({"part": [0, 1, 2]})
    (batch,) = StyleEditor(generator, catalog).edit(w[:1], w[1:2], "part")
    assert not torch.equal(batch.images, generator.synthesize(generator.styles(w[:1]), w[:1]))


@pytest.mark.parametrize("dtype", HALVES)
def test_latents_may_have_another_dtype_than_the_network(dtype):
    generator = wrap(network_in(torch.float32))
    w = generator.latents([0])
    assert torch.equal(generator.styles(w.to(dtype)), generator.styles(w.to(dtype).float()))
    assert torch.equal(generator.styles(w.double()), generator.styles(w))


def test_networks_that_fail_in_half_precision_are_refused():
    message = r"must run in the dtype of its parameters, torch.float16, but its code fails \({}\); convert it with"
    with pytest.raises(ValueError, match=message.format("RuntimeError: .*")):  # its noise is float32
        wrap(network_in(torch.float16, "lernapparat"))
    network = network_in(torch.float16, "nvlabs2")

    def check_filter(module, inputs):  # as the code of NVlabs
        assert module.noise.dtype == torch.float32

    network.synthesis.b8.conv0.register_forward_pre_hook(check_filter)
    with pytest.raises(ValueError, match=message.format("AssertionError.*")):
        wrap(network)


def test_networks_whose_halves_do_not_fit_together_are_refused():
    network = network_in(torch.float32)
    network.style.half()
    with pytest.raises(ValueError, match=r"its parameters, torch.float16 and torch.float32, but its code fails"):
        wrap(network)


def test_failures_in_single_precision_are_not_changed():
    network = network_in(torch.float32)
    network.style = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        wrap(network)


def test_values_beyond_float16_are_refused():
    network = network_in(torch.float16)
    network.to_rgbs[-1].conv.weight.data.fill_(60000)
    with pytest.raises(ValueError, match="must give finite images, got .* values NaN or Inf"):
        wrap(network)
