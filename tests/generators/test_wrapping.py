# SPDX-License-Identifier: Apache-2.0
"""`wrap` gives the images of every known code base bit for bit, tested on small networks."""

import numpy as np
import pytest
import torch
from miniatures import CHANNELS, MINIATURES, WIDTH, holder, miniature
from networks import hooks
from torch import nn

from stylefast.generators import wrap
from stylefast.generators.code_bases import FAMILIES, ROSINALITY


@pytest.fixture(params=MINIATURES)
def name(request):
    return request.param


def wrapped(name, **options):
    row = MINIATURES[name]
    return wrap(miniature(name), label=row.label, **row.options | options)


def code_base_images(name, w):
    """Images in [0, 1] as computed by the code base."""
    row = MINIATURES[name]
    with torch.no_grad():
        images = row.run(miniature(name), w).float()
    return (images if row.unit else images * 0.5 + 0.5).clamp(0, 1)


def ignore(key, tensor):
    pass


def image(generator, w):
    return generator.visit(w, ignore, (), image=True)


def test_replaying_own_styles_gives_own_image_bit_for_bit(name):
    generator = wrapped(name)
    w = generator.latents(range(3))
    expected = code_base_images(name, w)
    assert expected.std() > 0.03 and expected.shape[1:] == (3, *generator.image_size)
    assert torch.equal(image(generator, w), expected)
    assert torch.equal(generator.synthesize(generator.styles(w), w), expected)
    assert hooks(generator) == 0


def test_each_style_comes_from_its_own_row_of_w(name):
    generator = wrapped(name)
    w = generator.latents(range(generator.w_shape[0]))[None, :, 0]
    assert torch.equal(generator.synthesize(generator.styles(w), w), image(generator, w))


def test_reference_styles_give_the_reference_image_bit_for_bit(name):
    generator = wrapped(name)
    target, reference = generator.latents([0, 1, 2]), generator.latents([3, 4, 5])
    styles, expected = generator.styles(reference), image(generator, reference)
    assert not torch.equal(image(generator, target), expected)
    assert torch.equal(generator.synthesize(styles, reference), expected)
    assert torch.equal(generator.synthesize(styles, target), expected) != MINIATURES[name].w_matters
    if generator.transform_row is not None:
        target[:, generator.transform_row] = reference[:, generator.transform_row]
        assert torch.equal(generator.synthesize(styles, target), expected)


def test_sites_have_the_shapes_and_kinds_of_the_code_base(name):
    generator, row = wrapped(name), MINIATURES[name]
    assert "".join(site.kind[0] for site in generator.sites) == row.kinds
    assert generator.w_shape == (row.rows, WIDTH)
    activations = generator.activations(generator.latents([0, 1]))
    for site in generator.sites:
        assert activations[site.tensor].shape == (2, site.channels, *site.size)
        assert generator.styles(generator.latents([0]))[:, site.slice].shape == (1, site.channels)
    assert {side for site in generator.sites for side in site.size} == row.sizes
    if name == "lernapparat":  # its styles and tensors are in different modules
        assert [site.name for site in generator.sites] == list(miniature(name).g_style.style_layers)
    assert {site.normalized for site in generator.sites} == {name in ("genforce1", "lernapparat")}


def test_the_last_tensor_is_the_one_that_the_code_base_scales(name):
    generator, row = wrapped(name), MINIATURES[name]
    w, (module, which), seen = generator.latents([0, 1]), row.last, []

    def see(module, inputs, output):
        seen.append((inputs[0] if which == "input" else output).clone())

    handle = miniature(name).get_submodule(module).register_forward_hook(see)
    try:
        code_base_images(name, w)
    finally:
        handle.remove()
    site = generator.sites[-1]
    assert torch.equal(generator.activations(w, [site.name])[site.tensor], seen[0])


def test_random_noise_is_replaced_by_fixed_noise(name):
    row, generator = MINIATURES[name], wrapped(name)
    w = generator.latents([0])
    assert torch.equal(image(generator, w), image(generator, w))
    if row.random is not None:
        with torch.no_grad():
            assert not torch.equal(row.random(miniature(name), w), row.random(miniature(name), w))


def test_styles_keep_the_convention_of_the_code_base():
    """The styles of toRGB sites are taken before the gain, and before the 1 that some code bases add."""
    for name, module, offset in (("nvlabs2", "b4.torgb", 1), ("lucidrains", "blocks.0.to_rgb", 0)):
        generator = wrapped(name)
        site = generator.select([module])[0]
        styles = generator.styles(generator.latents(range(50)))[:, site.slice]
        assert abs(float(styles.mean()) - offset) < 0.3


# Latents


@pytest.mark.parametrize(
    "name, mapping",
    [
        ("rosinality", lambda net, z: net.style(z)),
        ("genforce1", lambda net, z: net.mapping(z)["w"]),
        ("genforce2", lambda net, z: net.mapping(z)["w"]),
        ("hammer2", lambda net, z: net.mapping(z)["w"]),
        ("hammer3", lambda net, z: net.mapping(z)["w"]),
        ("lucidrains", lambda net, z: net.SE(z)),
        ("lernapparat", lambda net, z: net.g_mapping(z)[:, 0]),
        ("mmagic", lambda net, z: net.style_mapping(z)),
    ],
)
def test_latents_are_mapped_by_the_network(name, mapping):
    w, z = wrapped(name).latents([0, 1]), torch.from_numpy(np.stack([row_of(0), row_of(1)]))
    with torch.no_grad():
        expected = mapping(miniature(name), z)
    assert all(torch.allclose(w[:, i], expected, rtol=0, atol=1e-6) for i in range(w.shape[1]))


def row_of(seed):
    return np.random.RandomState(seed).randn(WIDTH).astype(np.float32)


@pytest.mark.parametrize("name", ["nvlabs2", "nvlabs2-classes", "nvlabs3", "stylegan-xl"])
def test_truncation_is_that_of_the_network_bit_for_bit(name):
    generator, net = wrapped(name), miniature(name)
    z = torch.from_numpy(np.stack([row_of(seed) for seed in range(3)]))
    c = torch.zeros(3, net.c_dim)
    if net.c_dim:
        c[:, 2] = 1
    with torch.no_grad():
        for psi in (1, 0.7, 0.3, 0):
            assert torch.equal(generator.latents(range(3), truncation=psi), net.mapping(z, c, truncation_psi=psi))


def test_the_mean_comes_from_the_network_or_its_holder():
    assert torch.equal(wrapped("genforce2").w_mean, miniature("genforce2").truncation.w_avg)
    assert torch.equal(wrapped("hammer3").w_mean, miniature("hammer3").w_avg)
    assert torch.equal(wrapped("lernapparat").w_mean, miniature("lernapparat").truncation.avg_latent)
    psp = holder(encoder=nn.Linear(2, 2), decoder=miniature("rosinality"))
    psp.latent_avg = torch.randn(6, WIDTH)
    assert torch.equal(wrap(psp).w_mean, psp.latent_avg)
    psp.latent_avg = psp.latent_avg[:1]
    assert torch.equal(wrap(psp).w_mean, psp.latent_avg[0])
    assert wrapped("rosinality").w_mean.shape == (6, WIDTH)  # estimated
    mean = torch.ones(WIDTH)
    assert torch.equal(wrap(psp, w_mean=mean).latents([0], truncation=0)[0, 3], mean)


# Networks and their options


def test_a_network_is_found_in_the_module_that_holds_it():
    generator = wrapped("rosinality")
    w = generator.latents([0])
    for holding in ("decoder", "module", "generator_ema"):
        held = wrap(holder(encoder=nn.Linear(2, 2), **{holding: miniature("rosinality")}))
        assert held.fingerprint == generator.fingerprint and torch.equal(image(held, w), image(generator, w))


def test_moving_averages_make_the_images_of_lucidrains():
    generator, net = wrapped("lucidrains"), miniature("lucidrains")
    assert generator.network.GE is net.GE and set(dict(generator.network.named_children())) == {"SE", "GE"}


def test_noise_that_a_user_has_fixed_is_kept():
    net = MINIATURES["lernapparat"].build()
    layers = [module for module in net.modules() if hasattr(module, "noise") and hasattr(module, "weight")]
    plain = wrap(net)
    w = plain.latents([0])
    before = image(plain, w)
    assert [layer.noise for layer in layers] == [None] * 6  # noise is set only while the network runs
    for i, layer in enumerate(layers):
        layer.noise = torch.randn(1, 1, 4 << i // 2, 4 << i // 2)
    with torch.no_grad():
        expected = (net.g_synthesis(net.g_style(w)) * 0.5 + 0.5).clamp(0, 1)
    assert torch.equal(image(wrap(net), w), expected) and torch.equal(image(plain, w), before)


def test_options_reach_the_synthesis():
    w = wrapped("nvlabs2").latents([0])
    with torch.no_grad():
        expected = (miniature("nvlabs2").synthesis(w, noise_mode="none") * 0.5 + 0.5).clamp(0, 1)
    assert torch.equal(image(wrapped("nvlabs2", noise_mode="none"), w), expected)


def test_a_label_may_be_a_vector_of_class_weights():
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0])
    by_weights = wrap(miniature("nvlabs2-classes"), label=weights)
    assert torch.equal(by_weights.latents([0]), wrapped("nvlabs2-classes").latents([0]))
    assert not torch.equal(wrap(miniature("nvlabs2-classes"), label=1).latents([0]), by_weights.latents([0]))


def test_a_family_matches_only_its_own_module_tree(name):
    net = miniature(name)
    names = {module for module, _ in net.named_modules()}
    fitting = [family for family in FAMILIES if names.issuperset(family.modules) and family.fits(net)]
    assert fitting[0].name == wrapped(name).name
    also = {"genforce2": ["Hammer StyleGAN2"], "swagan": [f"{ROSINALITY} (pSp, e4e, HyperStyle: decoder)"]}
    assert [family.name for family in fitting[1:] if not family.refusal] == also.get(name, [])


# Refusals


def test_an_unknown_module_tree_lists_the_known_families():
    with pytest.raises(ValueError, match=r"got Sequential \(children: 0, 1\); searched it and its submodules") as error:
        wrap(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    for family in FAMILIES:
        assert bool(family.refusal) != (f"{family.name}: {', '.join(family.modules)}" in str(error.value))
    with pytest.raises(ValueError, match=r"\(children: none\); .*"):
        wrap(nn.ReLU())
    with pytest.raises(ValueError, match="known code base"):
        wrap(miniature("nvlabs2").synthesis)  # without its mapping


@pytest.mark.parametrize(
    "run, error, message",
    [
        (lambda: wrap({"G_ema": miniature("nvlabs2")}), TypeError, "module must be a torch.nn.Module, got dict"),
        (lambda: wrap(miniature("stylegan-xl")), ValueError, "label must be given, .* has 4 classes"),
        (lambda: wrap(miniature("stylegan-xl"), label=4), ValueError, r"must be an integer in \[0, classes\) .* got 4"),
        (lambda: wrap(miniature("stylegan-xl"), label=1.5), ValueError, r"must be an integer in .* got 1\.5"),
        (lambda: wrap(miniature("stylegan-xl"), label="2"), ValueError, "must be an integer in .* got '2'"),
        (lambda: wrap(miniature("nvlabs2"), label=0), ValueError, "classes = 0, got 0"),
        (lambda: wrap(miniature("nvlabs2-classes"), label=torch.ones(3)), ValueError, r"classes = 4, got \(3,\)"),
    ],
)
def test_wrong_arguments_are_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("channels", [2, 5])
def test_images_with_other_channels_are_refused(channels):
    net = MINIATURES["lernapparat"].build()
    net.g_synthesis.torgb = nn.Conv2d(CHANNELS[16], channels, 1)
    message = rf"must give images \[N, C, H, W\] with C = 1 .*3 .* or 4 .*, got \(1, {channels}, 16, 16\)"
    with pytest.raises(ValueError, match=message):
        wrap(net)
