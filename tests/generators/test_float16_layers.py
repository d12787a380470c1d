# SPDX-License-Identifier: Apache-2.0
"""Layers in float16 and channels_last, clamped at 256, whose squares exceed the range of float16."""

import pytest
import torch
from catalogs import build_catalog
from miniatures import MINIATURES

from stylefast import assign, contribution
from stylefast.editing import StyleEditor
from stylefast.generators import wrap

LAST = ("b16.conv1", "b16.torgb")


@pytest.fixture(scope="module")
def generator():
    """A network whose noise drives the last layers to their clamp."""
    net = MINIATURES["nvlabs2-half"].build()
    with torch.no_grad():
        net.synthesis.b16.conv0.noise *= 800
        net.synthesis.b16.conv1.noise *= 800
    return wrap(net)


def tensors(generator, w):
    """The last tensors in the dtype and layout of the network."""
    tensors_by_key = {}
    generator.visit(w, lambda key, tensor: tensors_by_key.update({key: tensor}), LAST)
    return tensors_by_key


def exact(tensor, labels, k, standardize):
    """M computed in float64 from the float16 values."""
    x = tensor.double()
    if standardize:
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    one_hot = torch.nn.functional.one_hot(labels.long(), k).permute(0, 3, 1, 2).double()
    return torch.einsum("nchw,nkhw->kc", x.square(), one_hot) / labels.numel()


def test_tensors_keep_the_networks_dtype_and_layout(generator):
    for tensor in tensors(generator, generator.latents([0, 1])).values():
        assert tensor.dtype == torch.float16 and tensor.is_contiguous(memory_format=torch.channels_last)
        assert (tensor.abs() == 256).float().mean() > 0.1


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_squares_are_summed_in_float32(generator, backend, standardize):
    for tensor in tensors(generator, generator.latents([0, 1])).values():
        labels, _ = assign(tensor, torch.eye(len(tensor[0]))[:3], backend=backend)
        m = contribution(tensor, labels, 3, standardize=standardize, backend=backend)
        torch.testing.assert_close(m.double(), exact(tensor, labels, 3, standardize), rtol=1e-5, atol=1e-6)


def test_catalogs_and_edits_work_with_float16_layers(generator):
    w = generator.latents(range(4))
    catalog = build_catalog(generator, w, n_clusters=3, layer="b16.conv1", n_init=1)
    labels = catalog.labels(generator, w)
    for name, tensor in tensors(generator, w).items():
        (site,) = generator.select([name])
        expected = exact(tensor, labels, 3, standardize=True)
        torch.testing.assert_close(catalog.contributions[:, site.slice].double(), expected, rtol=1e-4, atol=1e-5)
    catalog.annotate({"part": [0, 1, 2]})
    (batch,) = StyleEditor(generator, catalog).edit(w[:1], w[1:2], "part", measure=True)
    assert batch.images.dtype == torch.float32 and not torch.equal(batch.images, batch.targets)
    assert torch.equal(batch.images, generator.synthesize(batch.styles, w[:1]))
