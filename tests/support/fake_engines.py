# SPDX-License-Identifier: Apache-2.0
"""Engines that run the network itself and add a given error to its images."""

from functools import partial

from stylefast.generators.engines import ENGINES, engine


class Fake:
    """Engine that runs the network with its own styles, and adds an error to the images."""

    def __init__(self, error, target):
        self.error, self.removed = error, False
        self.hooks = target.site_hooks

    def __call__(self, synthesis, styles, w):
        if self.error is None:
            raise RuntimeError("no kernel\nfor this network")
        handles = [x.replace_scale(lambda site=site: styles[:, site.slice]) for site, x in self.hooks]
        yield synthesis(w) + self.error
        for handle in handles:
            handle.remove()

    def remove(self):
        self.removed = True


def use_fakes(monkeypatch, **errors):
    """Replace the table of engines by fakes with errors, which are returned when they are made."""
    made = {}

    def make(name, target):
        made[name] = Fake(errors[name], target)
        return made[name]

    for name in list(ENGINES):
        monkeypatch.delitem(ENGINES, name)
    for name in errors:
        monkeypatch.setitem(ENGINES, name, engine.EngineKind(partial(make, name), lambda target: None, lambda x: True))
    monkeypatch.setattr("stylefast.generators.engines.switch.NAMES", ("eager", *errors, "auto"))
    return made
