# SPDX-License-Identifier: Apache-2.0
"""Sites are found by rules and paired with the tensor whose channels their style scales."""

import pytest
import torch
import torch.nn.functional as F
from networks import Layer, hooks, own_images, shared, tiny
from torch import nn

from stylefast.generators import Generator, Rule
from stylefast.generators.toy import RULES


@pytest.fixture(params=["sg1", "sg2", "sg3"])
def generator(request):
    return shared(request.param)


def test_sites_of_stylegan2_by_hand():
    got = [(s.name, s.channels, s.start, s.kind, s.tensor, s.size) for s in shared("sg2").sites]
    assert got == [
        ("convs.0", 32, 0, "conv", "convs.0", (4, 4)),
        ("torgbs.0", 32, 32, "rgb", "torgbs.0", (4, 4)),
        ("convs.1", 32, 64, "conv", "torgbs.0", (4, 4)),
        ("convs.2", 32, 96, "conv", "convs.2", (8, 8)),
        ("torgbs.1", 32, 128, "rgb", "torgbs.1", (8, 8)),
        ("convs.3", 32, 160, "conv", "torgbs.1", (8, 8)),
        ("convs.4", 24, 192, "conv", "convs.4", (16, 16)),
        ("torgbs.2", 24, 216, "rgb", "torgbs.2", (16, 16)),
        ("convs.5", 24, 240, "conv", "torgbs.2", (16, 16)),
        ("convs.6", 16, 264, "conv", "convs.6", (32, 32)),
        ("torgbs.3", 16, 280, "rgb", "torgbs.3", (32, 32)),
    ]
    assert shared("sg2").style_width == 296


def test_sites_of_stylegan1_and_stylegan3_by_hand():
    one, three = shared("sg1").sites, shared("sg3").sites
    assert [s.size for s in three] == [(13, 13), (21, 21), (36, 36), (36, 36)]
    assert [s.kind for s in three] == ["conv", "conv", "conv", "rgb"]
    assert [s.channels for s in one] == [32, 32, 32, 32, 24, 24, 16, 16]
    assert all(s.normalized for s in one) and not any(s.normalized for s in three)


def test_slices_tile_the_flat_style_vector(generator):
    columns = torch.arange(generator.style_width)
    assert torch.equal(torch.cat([columns[s.slice] for s in generator.sites]), columns)


@pytest.mark.parametrize(
    "rules, message",
    [
        ((Rule(r"nothing(?P<site>)", "x"),), r"rules must match style modules, got none for \['nothing"),
        ((Rule(r"(?P<site>convs\.\d+)\.affine", r"\g<site>.absent"),), r"convs\.0\.affine .* convs\.0\.absent"),
        ((*RULES["sg2"], *RULES["sg2"]), r"must give convs\.0\.affine a unique site"),
        (
            (Rule(r"convs\.0\.(?P<site>affine)", "convs.4"),),
            r"site affine: a style of 32 channels cannot scale a tensor \(1, 24",
        ),
        (
            (Rule(r"(?P<site>mapping)", "convs.0"),),
            r"site mapping: a style of None channels cannot scale a tensor \(1, 32, 4",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, message):
    network = shared("sg2").network
    with pytest.raises(ValueError, match=message):
        Generator(network, rules, name="x", z_dim=32, mapping=network.mapping, synthesis=network)
    assert hooks(shared("sg2")) == 0


def test_style_modules_may_have_other_inputs_than_rows_of_w():
    """The input of the second style module is 2 w, so that `styles` has to run the forward pass."""
    generator = tiny()
    w = generator.latents(range(5))
    styles = torch.cat((generator.network.first.affine(w), generator.network.second.affine(2 * w)), dim=1).detach()
    assert torch.equal(generator.styles(w), styles)
    assert torch.equal(generator.synthesize(styles, w), own_images(generator, w))


def test_stylegan1_scales_the_normalised_tensor():
    generator = shared("sg1")
    w = generator.latents(range(2))
    layer = generator.network.layers[3]
    scale, bias = layer.style(w).detach()[:, :, None, None].split(32, dim=1)
    tensor = generator.activations(w, ["layers.3"])["layers.3"]
    torch.testing.assert_close(tensor.var(dim=(2, 3), correction=0), torch.ones(2, 32), atol=1e-3, rtol=0)
    following = []
    handle = layer.register_forward_hook(lambda module, inputs, output: following.append(output))
    own_images(generator, w)
    handle.remove()
    torch.testing.assert_close(following[0], tensor * (1 + scale) + bias)


@pytest.mark.parametrize("kind, site", [("sg2", "convs.3"), ("sg2", "torgbs.1"), ("sg3", "layers.1"), ("sg3", "torgb")])
def test_the_tensor_is_the_one_that_the_style_scales(kind, site):
    """A convolution of the tensor with weights modulated by the style gives the output of the layer."""
    generator = shared(kind)
    w, row = generator.latents([4]), next(s for s in generator.sites if s.name == site)
    style = generator.styles(w)[0, row.slice]
    x = generator.activations(w, [site])[row.tensor]
    layer, outputs = generator.network.get_submodule(site), []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    own_images(generator, w)
    handle.remove()
    assert x.shape[1:] == (row.channels, *row.size)
    weight = layer.weight.detach() * style[:, None, None]
    if row.kind == "rgb":
        expected = F.conv2d(x, weight / 4)
    else:
        weight = weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).add(1e-8).sqrt()
        x = F.interpolate(x, size=layer.noise.shape, mode="bilinear")
        expected = F.leaky_relu(F.conv2d(x, weight, padding=1) + layer.noise, 0.2) * 2**0.5
    torch.testing.assert_close(outputs[0], expected, atol=1e-5, rtol=1e-5)


def test_a_shared_tensor_is_visited_once():
    generator, seen = shared("sg2"), []
    generator.visit(generator.latents([0]), lambda key, tensor: seen.append(key))
    assert seen == ["convs.0", "torgbs.0", "convs.2", "torgbs.1", "convs.4", "torgbs.2", "convs.6", "torgbs.3"]
    assert list(generator.activations(generator.latents([0]), ["convs.3", "torgbs.1"])) == ["torgbs.1"]


def test_activations_are_taken_before_they_are_scaled_in_place():
    generator = tiny()
    w = generator.latents([0, 1])
    activations = generator.activations(w)
    assert torch.equal(activations["first"], torch.ones(2, 3, 2, 2))
    assert torch.equal(activations["second"][:, :, 0, 0], generator.network.first.affine(w).detach() + 1)


def test_visit_with_other_styles_sees_their_tensors(generator):
    target, reference = generator.latents([0, 1]), generator.latents([2, 3])
    seen = {}
    styles = generator.styles(reference)
    generator.visit(reference, lambda key, tensor: seen.update({key: tensor.clone()}), styles=styles)
    expected = generator.activations(reference)
    assert all(torch.equal(seen[key], expected[key]) for key in expected) and seen.keys() == expected.keys()
    last = generator.sites[-1].tensor
    generator.visit(target, lambda key, tensor: seen.update({key: tensor.clone()}), [last], styles=styles)
    assert not torch.equal(seen[last], generator.activations(target, [last])[last])


class Automatic(nn.Module):
    """Network whose synthesis runs under autocast."""

    def __init__(self):
        super().__init__()
        self.only = Layer()

    def forward(self, w):
        with torch.autocast(w.device.type, torch.bfloat16):
            return self.only(torch.ones(len(w), 3, 2, 2), w).float()


def test_styles_are_computed_under_the_networks_autocast():
    torch.manual_seed(0)
    network, rule = Automatic(), Rule(r"(?P<site>\w+)\.affine", r"\g<site>")
    generator = Generator(network, [rule], name="automatic", z_dim=4, mapping=lambda z: z, synthesis=network)
    w = generator.latents([0, 1])
    assert generator.styles(w).dtype == torch.bfloat16
    assert torch.equal(generator.synthesize(generator.styles(w), w), own_images(generator, w))
