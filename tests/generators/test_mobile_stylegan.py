# SPDX-License-Identifier: Apache-2.0
"""The random-face generator: fetched by name and hash, and compared with the graph that it was ported from."""

import zipfile

import numpy as np
import openvino_graph
import pytest
import torch

from stylefast.generators import load
from stylefast.generators.random_face import fetch_random_face

pytestmark = pytest.mark.fetches


@pytest.fixture(scope="session")
def wheel():
    return fetch_random_face()


@pytest.fixture(scope="session")
def real(wheel):
    return load(wheel)


def graph(wheel, network, argument, **options):
    """Output of the distributed graph, executed node by node."""
    with zipfile.ZipFile(wheel) as archive:
        files = [archive.read(f"random_face/data/{network}Network.{suffix}") for suffix in ("xml", "bin")]
    with torch.no_grad():
        return openvino_graph.run(*files, argument, **options)


def test_the_site_table_is_that_of_the_paper(real):
    blocks = [f"layers.{i}.{name}" for i in range(7) for name in ("up", "conv1", "conv2")]
    assert [site.name for site in real.sites] == ["conv1", *blocks, "to_img"]
    assert [site.channels for site in real.sites] == (
        [512, *[512, 128, 512] * 4, 512, 128, 256, 256, 64, 128, 128, 32, 64, 64]
    )
    assert [site.size[0] for site in real.sites] == [4, *[2**i for r in range(2, 9) for i in (r, r + 1, r + 1)], 512]
    assert {site.kind for site in real.sites[:-1]} == {"conv"} and real.sites[-1].kind == "rgb"
    assert len({site.tensor for site in real.sites}) == 23 and real.style_width == 6752
    assert real.image_size == (1024, 1024) and real.w_shape == (512,)


def test_mapping_styles_tensors_and_image_agree_with_the_graph(real, wheel):
    """Compare the style of each site, and the tensor that the graph multiplies by it."""
    z = torch.from_numpy(np.random.RandomState(3).randn(1, 512)).float()
    w = real.latents([3])
    torch.testing.assert_close(w, graph(wheel, "Mapping", z), atol=1e-5, rtol=0)
    products = []

    def watch(style, tensor):
        if tensor.numel() > style.numel() > 1:  # other products only apply a constant gain to a style
            products.append((style.flatten(), tensor))

    image = graph(wheel, "Synthesis", w, watch=watch)
    styles, sites = real.styles(w)[0], {site.name: site for site in real.sites}
    errors = []

    def compare(key, tensor):
        style, expected = products.pop(0)
        torch.testing.assert_close(styles[sites[key].slice], style, atol=1e-5, rtol=1e-5)
        errors.append(float((tensor - expected).abs().max() / expected.abs().max()))

    got = real.visit(w, compare, image=True)
    assert len(errors) == 23 and max(errors) < 1e-4, errors
    assert float((got - (image * 0.5 + 0.5).clamp(0, 1)).abs().max()) < 1e-4
    assert 0.2 < float(got.mean()) < 0.8 and float(got.std()) > 0.1


def test_replay_and_reference_are_bit_exact(real):
    target, reference = real.latents([0], truncation=0.7), real.latents([1], truncation=0.7)
    expected = real.visit(reference, lambda key, tensor: None, (), image=True)
    styles = real.styles(reference)
    assert torch.equal(real.synthesize(styles, reference), expected)
    assert torch.equal(real.synthesize(styles, target), expected)  # only the styles depend on w


def test_activations_do_not_run_later_layers(real):
    w = real.latents([0, 1])
    ran = []
    handle = real.network.synthesis.layers[3].register_forward_hook(lambda *_: ran.append("too far"))
    activations = real.activations(w, ["layers.2.up", "layers.3.up"])
    handle.remove()
    assert {key: tuple(tensor.shape) for key, tensor in activations.items()} == {
        "layers.2.up": (2, 512, 16, 16),
        "layers.3.up": (2, 512, 32, 32),
    }
    assert not ran and all(tensor.is_contiguous() for tensor in activations.values())


def test_openvino_makes_the_images_of_eager(real):
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    w = real.latents([0, 1], truncation=0.7)
    styles = real.styles(w).lerp(real.styles(w.flip(0)), 0.3)[:1]
    expected = real.synthesize(styles, w[:1])
    real.use_engine("openvino")
    images = real.synthesize(styles, w[:1])
    real.use_engine("eager")
    assert 0 < float((images - expected).abs().max()) < 1e-4
