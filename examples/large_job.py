# SPDX-License-Identifier: Apache-2.0
"""Run a job that can be stopped at any time: start it again, and it makes only what is missing.

python examples/large_job.py --network random-face --targets 1000 --references 10
torchrun --nproc-per-node 2 examples/large_job.py    # two processes share the job
"""

from __future__ import annotations

import argparse
from pathlib import Path

import stylefast
from stylefast.catalog import BuildOptions, Clustering, LatentBatches
from stylefast.distributed import process_group
from stylefast.editing import Grid, Job, JobOptions, SeedLatents, Sequential, Simultaneous


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="toy:sg2", help="a name or file, as in stylefast.generators.load")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; under torchrun, cuda is one GPU per process")
    parser.add_argument("--targets", type=int, default=20, help="number of images to edit")
    parser.add_argument("--references", type=int, default=3, help="number of images to take the part from")
    parser.add_argument("--outdir", type=Path, default=Path("job"), help="folder for the images and the state")
    arguments = parser.parse_args()

    with process_group(arguments.device) as (group, device):  # group is None unless torchrun started this program
        generator = stylefast.generators.load(arguments.network, device=device)

        # The build keeps its state in workdir, and reads the latents as a stream: memory does not grow with the images.
        # For a real network, use more images: range(50_000).
        catalog = stylefast.Catalog.build(
            generator,
            LatentBatches(generator, range(64), truncation=0.7, size=16),
            Clustering(n_clusters=16),
            BuildOptions(workdir=arguments.outdir / "build", dtype="float16"),
            group=group,
        )
        catalog.annotate({"first": [0, 1], "second": [2]})  # for faces: catalog.annotate(FFHQ_REGIONS)

        plan = Grid(
            SeedLatents(generator, range(arguments.targets), truncation=0.7),
            SeedLatents(generator, range(5000, 5000 + arguments.references), truncation=0.7),
            ["first", "second"],
            [Sequential(epsilon=2.0), Simultaneous(1.0)],
        )
        editor = stylefast.StyleEditor(generator, catalog)
        job = Job(editor, plan, arguments.outdir / "images", JobOptions(image_format="jpg", measure=True), group=group)
        for _ in job:  # each step renders one batch and hands it to the writers
            pass
        if job.ranks.rank == 0:
            print(f"{len(plan)} edits and manifest.jsonl are in {job.directory}")
        print(f"this process kept {job.n_existing} images and wrote {job.n_written}")


if __name__ == "__main__":
    main()
