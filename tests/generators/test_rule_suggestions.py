# SPDX-License-Identifier: Apache-2.0
"""The error about an unknown network suggests rules, which describe it."""

import re

import pytest
import torch
from described import StyleGAN2GeneratorClean
from miniatures import MINIATURES, holder, miniature
from torch import nn

from stylefast.generators import FIRST_HALF, Generator, Rule, wrap
from stylefast.generators.rule_suggestions import describe_unknown, suggest_rules


def rules_in(message):
    """The rules of the message's code, which is run as it stands."""
    code = message[message.index("from stylefast") : message.index("generator = ")]
    names = {}
    exec(code, names)
    return names["rules"]


def test_the_suggested_rules_describe_an_unknown_network():
    network = StyleGAN2GeneratorClean().eval()
    rules = rules_in(describe_unknown(network))
    generator = Generator(
        network,
        rules,
        name="unknown",
        z_dim=network.num_style_feat,
        mapping=lambda z: network.style_mlp(z)[:, None].repeat(1, network.num_latent, 1),
        synthesis=lambda w: network([w], input_is_latent=True, randomize_noise=False)[0],
    )
    assert "".join(site.kind[0] for site in generator.sites) == "crccrccr"
    assert [site.channels for site in generator.sites] == [8, 8, 8, 8, 8, 8, 6, 6]


@pytest.mark.parametrize("name", ["nvlabs2", "nvlabs3", "rosinality", "genforce2", "hammer2", "hammer3", "mmagic"])
def test_the_suggested_rules_give_the_sites_of_a_known_network(name):
    """For NVlabs' StyleGAN3, the kind of the last site is separate, and its margin must be added by hand."""
    generator = wrap(miniature(name))
    rules = rules_in(describe_unknown(miniature(name)))
    styles = {module for rule in rules for module in matched(miniature(name), rule)}
    own = {module for _, hooks in generator._site_hooks for module in [hooks.style]}
    assert styles == own
    assert sum(len(matched(miniature(name), rule)) for rule in rules) == len(own)
    kinds = [rule.last or rule.kind for rule in rules]
    assert kinds.count("rgb") == (1 if name in ("nvlabs2", "nvlabs3", "genforce2", "hammer2", "hammer3") else 2)


def matched(network, rule):
    return [module for name, module in network.named_modules() if re.fullmatch(rule.style, name)]


def test_scales_with_biases_are_recognised_by_their_width():
    network = holder(block0=holder(conv=nn.Conv2d(5, 6, 3), style=nn.Linear(4, 12)))
    (rule,) = rules_in(describe_unknown(network))
    assert rule == Rule(r"(?P<site>(?P<block>block\d+)\.style)", r"\g<block>.conv", scale=FIRST_HALF, reads="output")


def test_carriers_have_the_number_of_the_style():
    block = {"to_noise1": nn.Linear(1, 6), "to_style1": nn.Linear(4, 6), "to_style2": nn.Linear(4, 6)}
    block |= {"conv1": nn.Conv2d(6, 6, 3), "conv2": nn.Conv2d(6, 6, 3)}
    suggestions = suggest_rules(holder(blocks=nn.ModuleList([holder(**block), holder(**block)])))
    assert [suggestion.carrier for suggestion in suggestions] == [r"\g<block>.conv1", r"\g<block>.conv2"]


def test_mappings_are_not_suggested():
    network = StyleGAN2GeneratorClean()
    names = [name for suggestion in suggest_rules(network) for name in suggestion.names]
    assert len(names) == 8 and not any(name.startswith("style_mlp") for name in names)
    width = 6
    children = {f"fc{i}": nn.Linear(width, width) for i in range(2)}
    styled = holder(conv=nn.Conv2d(width, width, 3), to_style=holder(linear=nn.Linear(width, width)))
    constant = nn.Module()
    constant.weight = nn.Parameter(torch.ones(1, width, 4, 4))
    network = holder(mapping=holder(**children), color=nn.Conv2d(width, 3, 1), constant=constant, styled=styled)
    assert [suggestion.names for suggestion in suggest_rules(network)] == [["styled.to_style.linear"]]


def test_the_error_says_where_to_read_more():
    with pytest.raises(ValueError, match=r"got Sequential \(children: 0, 1\); searched it") as error:
        wrap(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert "no modules that look like style modules" in str(error.value)
    assert 'the section "Describe another network" of docs/guides/your_generator.md' in str(error.value)
    unknown = MINIATURES["rosinality"].build()
    unknown.mapper = unknown.style
    del unknown.style
    with pytest.raises(ValueError, match=r'kind="rgb"\),  # 2: to_rgbs.0.conv.modulation \.\.\.'):
        wrap(unknown)
