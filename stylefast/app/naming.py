# SPDX-License-Identifier: Apache-2.0
"""Logic of the tab Parts: the clusters that a user selects, their names, the steps to undo, and saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..catalog import FFHQ_REGIONS, Catalog
from ..catalog.regions import Box, check_part_name, clusters_of, fractions_inside, name_clusters
from ..core.text import describe
from ..figures.canvas import Colour, distinct_colours
from .workspace import Workspace

MAX_STEPS = 100  # steps that can be undone
MOST = 0.5  # fraction of a cluster that must lie in a box


@dataclass(frozen=True, eq=False)
class Draft:
    """What one step of a user changes.

    Args:
        catalog: Catalog with the parts so far.
        clusters: Selected clusters, in ascending order.
        part: Part of the catalog whose clusters are edited, or "" for a new part.
    """

    catalog: Catalog
    clusters: tuple[int, ...] = ()
    part: str = ""


@dataclass(frozen=True)
class Offer:
    """Text that the page puts in the input of the name, unless the user has typed another one when it arrives.

    Args:
        number: Number of the offer, so that a page accepts it once.
        name: The text.
        instead: Texts that the offer may replace: the previous offer and, if a step of the user makes the offer, the
            text in the input at that step.
    """

    number: int = 0
    name: str = ""
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Naming:
    """State of the tab Parts in one page. Every step returns a new state.

    Args:
        draft: The present draft.
        saved: Catalog that the file holds, or None if that could not be read.
        digest: Digest of that file.
        past: Earlier drafts, the oldest first.
        future: Drafts that were undone, the next to redo last.
        picked: Cluster that is shown on several images, or None for the selected clusters.
        box: First corner (x, y) of a box, or the last box (x from, y from, x to, y to), as fractions of the frame.
        message: Outcome of the last step, in a few sentences.
        slots: Part of each colour, "" for a colour that is free. Every new state assigns the colours of its parts.
        offer: Last text for the input of the name.
        has_conflict: Whether the user must choose between the file, which has changed, and the catalog of the page.
    """

    draft: Draft
    saved: Catalog | None
    digest: str
    past: tuple[Draft, ...] = ()
    future: tuple[Draft, ...] = ()
    picked: int | None = None
    box: tuple[float, ...] = ()
    message: str = ""
    slots: tuple[str, ...] = ()
    offer: Offer = Offer()
    has_conflict: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", fit_slots(self.slots, self.draft.catalog.parts))

    @classmethod
    def load(cls, workspace: Workspace) -> Naming:
        """Return the state of a page that has just been opened, with the catalog that the file holds now.

        If the file cannot be read, the catalog is the one with which the workspace was opened, and it can be saved.
        """
        try:
            catalog, digest = workspace.read_catalog()
        except (OSError, ValueError) as error:
            state, is_missing = cls.start(workspace), isinstance(error, FileNotFoundError)
            reason = f"{workspace.catalog_path} is missing" if is_missing else describe(error).rstrip(".")
            way = "press Save catalog" if is_missing else "press Save catalog, then Replace the file"
            message = f"{reason}. The page shows the catalog with which the app was started. To write it, {way}."
            return replace(state, saved=None, digest="" if is_missing else state.digest, message=message)
        return cls(Draft(catalog), catalog, digest)

    @classmethod
    def start(cls, workspace: Workspace) -> Naming:
        """Return the state of a page before it has read the file: the catalog when the workspace was opened."""
        return cls(Draft(workspace.catalog), workspace.catalog, workspace.opened_digest)

    @property
    def catalog(self) -> Catalog:
        """The catalog with the parts so far."""
        return self.draft.catalog

    @property
    def colours(self) -> dict[str, Colour]:
        """The colour of every part, and that of a new part for ""."""
        slots = (*self.slots, "")
        palette = distinct_colours(len(slots))
        return {part: palette[slots.index(part)] for part in (*self.catalog.parts, "")}

    @property
    def is_saved(self) -> bool:
        """Whether the file holds the catalog."""
        return self.catalog is self.saved

    def toggle(self, cluster: int) -> Naming:
        """Add a cluster to the selected clusters, or remove it from them."""
        clusters = set(self.draft.clusters) ^ {cluster}
        share = self.catalog.occupancy[cluster].mean().item()
        owners = [part for part, ids in self.catalog.parts.items() if cluster in ids]
        owner = f" It belongs to {owners[0]}." if owners and owners[0] != self.draft.part else ""
        verb = "added" if cluster in clusters else "removed"
        message = f"Cluster {cluster} was {verb}. It covers {share:.1%} of the area of all images.{owner}"
        return self._step(clusters=tuple(sorted(clusters)), picked=cluster, message=message)

    def edit(self, part: str) -> Naming:
        """Select the clusters of a part, which the next name replaces. "" starts a new part."""
        if part and part not in self.catalog.parts:
            clusters_of(part, self.catalog.parts)  # raises
        message = f"Click clusters to change {part}, then press Name." if part else ""
        clusters = tuple(sorted(self.catalog.parts.get(part, ())))
        if (part, clusters) == (self.draft.part, self.draft.clusters):  # a page reports a choice more than once
            return replace(self, picked=None, box=(), message=message)
        return self._step(clusters=clusters, part=part, message=message)

    def name(self, name: str) -> Naming:
        """Name the selected clusters. They leave the other parts.

        If a part is edited, it gets the clusters and the name. Otherwise the name may be new, or that of a part whose
        clusters are replaced. A part that loses its last cluster is removed.

        Raises:
            ValueError: If no cluster is selected, the name cannot be used, or the edited part would get the name of
                another part.
        """
        name, chosen, edited = name.strip(), self.draft.clusters, self.draft.part or name.strip()
        check_part_name(name)
        if not chosen:
            raise ValueError("a part must have at least one cluster: click clusters in the image")
        if name != edited and name in self.catalog.parts:
            raise ValueError(f"the part {edited!r} must get a name of its own, got the name of another part: {name!r}")
        parts, removed = {}, []
        for part, ids in self.catalog.parts.items():
            rest = [k for k in ids if k not in chosen]
            if part == edited:
                parts[name] = list(chosen)
            elif rest or not ids:
                parts[part] = rest
            else:
                removed.append(part)
        parts.setdefault(name, list(chosen))
        message = f"{name} has {count(chosen)}."
        if not self.draft.part and (lost := set(self.catalog.parts.get(name, ())).difference(chosen)):
            message += f" {len(lost)} of its former clusters {'has' if len(lost) == 1 else 'have'} no name now."
        if removed:
            message += f" {', '.join(removed)} had no other cluster and was removed."
        return self._step(catalog=replace(self.catalog, parts=parts), clusters=(), part="", message=message)

    def remove(self) -> Naming:
        """Remove the part that is edited.

        Raises:
            ValueError: If no part is edited.
        """
        part = self.draft.part
        if not part:
            raise ValueError("a part must be chosen to be removed")
        parts = {name: ids for name, ids in self.catalog.parts.items() if name != part}
        catalog = replace(self.catalog, parts=parts)
        return self._step(catalog=catalog, clusters=(), part="", message=f"{part} was removed.")

    def suggest_part(self, part: str) -> Naming:
        """Select the clusters that lie mostly in the box of a part of an aligned face."""
        ids = name_clusters(FFHQ_REGIONS, self.catalog.occupancy, MOST)[part]
        return self._suggest(ids, FFHQ_REGIONS[part], f"the box of {part}")

    def corner(self, x: float, y: float) -> Naming:
        """Set a corner of a box, as fractions of the frame. The second corner selects the clusters mostly in the box.

        Raises:
            ValueError: If the corners have the same x or the same y.
        """
        if len(self.box) != 2:
            return replace(self, box=(x, y), picked=None, message="Click the opposite corner of the box.")
        (left, right), (top, bottom) = sorted((self.box[0], x)), sorted((self.box[1], y))
        if left == right or top == bottom:
            raise ValueError("the corners of a box must differ in x and in y")
        box = left, top, right, bottom
        fractions = fractions_inside("box", [box], self.catalog.occupancy)
        state = self._suggest((fractions > MOST).nonzero().flatten().tolist(), [box], "the box")
        return replace(state, box=box)

    def _suggest(self, ids: Sequence[int], boxes: list[Box], place: str) -> Naming:
        """Select clusters, or if there are none, the cluster with the largest fraction in the boxes."""
        if ids:
            message = f"{count(ids)} of {place} {'is' if len(ids) == 1 else 'are'} selected."
        else:
            fractions = fractions_inside("box", boxes, self.catalog.occupancy).nan_to_num(-1)
            ids = [int(fractions.argmax())]
            message = (
                f"No cluster lies mostly in {place}. Cluster {ids[0]} is selected, "
                f"because the largest fraction of it, {fractions.max():.0%}, lies there."
            )
        return self._step(clusters=tuple(ids), message=message)

    def use(self, catalog: Catalog, message: str) -> Naming:
        """Replace the catalog, such as by a new build."""
        return self._step(catalog=catalog, clusters=(), part="", message=message)

    def reload(self, workspace: Workspace) -> Naming:
        """Replace the catalog by that of the file."""
        catalog, digest = workspace.read_catalog()
        state = self.use(catalog, f"The catalog was read from {workspace.catalog_path}.")
        return replace(state, saved=catalog, digest=digest, has_conflict=False)

    def undo(self) -> Naming:
        """Return to the draft before the last step."""
        if not self.past:
            return replace(self, message="There is nothing to undo.")
        *past, draft = self.past
        return self._go(draft, tuple(past), (*self.future, self.draft), "Undone.")

    def redo(self) -> Naming:
        """Repeat the step that was undone last."""
        if not self.future:
            return replace(self, message="There is nothing to redo.")
        *future, draft = self.future
        return self._go(draft, (*self.past, self.draft), tuple(future), "Redone.")

    def save(self, workspace: Workspace, *, overwrite: bool = False) -> Naming:
        """Write the catalog to its file, atomically.

        Args:
            workspace: Workspace of the file.
            overwrite: Whether to replace a file that another page or program has changed.

        Raises:
            ChangedFileError: If the file has changed since this page read or wrote it, and `overwrite` is False.
        """
        digest = workspace.save_catalog(self.catalog, None if overwrite else self.digest)
        n_parts = len(self.catalog.parts)
        message = f"{n_parts} {'part was' if n_parts == 1 else 'parts were'} saved to {workspace.catalog_path}."
        return replace(self, saved=self.catalog, digest=digest, message=message, has_conflict=False)

    def offer_name(self, name: str, *instead: str) -> Naming:
        """Offer a text for the input of the name in place of the last offer, or of other texts."""
        return replace(self, offer=Offer(self.offer.number + 1, name, (self.offer.name, *instead)))

    def _go(self, draft: Draft, past: tuple[Draft, ...], future: tuple[Draft, ...], message: str) -> Naming:
        return replace(self, draft=draft, past=past, future=future, picked=None, box=(), message=message)

    def _step(self, *, message: str, picked: int | None = None, **changes: Any) -> Naming:
        """Return the state after a step that can be undone."""
        past = (*self.past, self.draft)[-MAX_STEPS:]
        draft = replace(self.draft, **changes)
        return replace(self, draft=draft, past=past, future=(), picked=picked, box=(), message=message)


def fit_slots(slots: Sequence[str], parts: Iterable[str]) -> tuple[str, ...]:
    """Return the part of each colour for other parts.

    Parts keep their colours. New parts get the colours of parts that are gone, so that a renamed part keeps its colour,
    then other free colours.

    Args:
        slots: Part of each colour so far, "" for a colour that is free.
        parts: The parts.
    """
    parts = list(parts)
    free = [i for i, part in enumerate(slots) if part and part not in parts]
    free += [i for i, part in enumerate(slots) if not part]
    fitted = [part if part in parts else "" for part in slots]
    for part in parts:
        if part not in fitted:
            if free:
                fitted[free.pop(0)] = part
            else:
                fitted.append(part)
    return tuple(fitted)


def count(clusters: Sequence[int]) -> str:
    """Return "1 cluster", "2 clusters" and so on."""
    return f"{len(clusters)} cluster{'' if len(clusters) == 1 else 's'}"
