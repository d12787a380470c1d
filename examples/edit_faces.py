# SPDX-License-Identifier: Apache-2.0
"""Give two faces the eyes and the mouth of two other faces, and print how local each edit is.

python examples/edit_faces.py                      # real faces; the network is downloaded once
python examples/edit_faces.py --network ffhq.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import stylefast
from stylefast.catalog import FFHQ_REGIONS
from stylefast.editing import SeedLatents
from stylefast.figures import save, to_pil


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="random-face", help="a name or file, as in stylefast.generators.load")
    parser.add_argument("--images", type=int, default=160, help="number of images to learn the parts from")
    parser.add_argument("--outdir", type=Path, default=Path("edits"), help="folder for the images")
    arguments = parser.parse_args()

    # Learn where the parts are, and which style channels act on them. This takes most of the time, once per generator.
    generator = stylefast.generators.load(arguments.network)
    w = generator.latents(range(arguments.images), truncation=0.7)
    catalog = stylefast.Catalog.build(generator, w, regions=FFHQ_REGIONS, contribution_images=min(24, len(w)))
    catalog.save(arguments.outdir / "faces.safetensors")

    # Edit every target with every reference and part. Image sources name the images; tensors of latents work, too.
    targets = SeedLatents(generator, [1004, 1011], truncation=0.7)
    references = SeedLatents(generator, [1002, 1016], truncation=0.7)
    editor = stylefast.StyleEditor(generator, catalog)
    for batch in editor.edit(targets, references, ["eyes", "mouth"], measure=True):
        assert batch.locality is not None
        for edit, image, ratio in zip(batch.edits, to_pil(batch.images), batch.locality.ratio, strict=True):
            name = f"{targets.name(edit.target)}-{edit.part}-{references.name(edit.reference)}"
            save(image, arguments.outdir / f"{name}.png")
            print(f"{name}: the {edit.part} changed {ratio:.1f} times as much as the rest")


if __name__ == "__main__":
    main()
