"""Equal labels for equal things."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.data.operators import apply
from sightline.data.unify import UnifyLabels
from sightline.errors import Refused
from sightline.samples.sample import Origin, Region, Regions, Sample, Text, Turn


def sample(name: str, *labels: str) -> Sample:
    said = (Turn(role="user", items=(Text(text="where?"),)), Turn(role="assistant", items=(Regions(regions=(Region(label=labels[0]),), label=labels[0]),)))
    return Sample(id=name, turns=said, annotations=tuple(Region(label=label) for label in labels), origin=Origin(source="set"))


def test_labels_become_ids_wherever_they_stand() -> None:
    (made,) = UnifyLabels().learn([]).each(sample("a", "Store_Tank", "ships", "ship"), np.random.default_rng(0), ()).samples
    assert [(region.label, region.attributes) for region in made.annotations] == [
        ("storage-tank", {"published": "Store_Tank"}),
        ("ship", {"published": "ships"}),
        ("ship", {}),
    ]
    spoken = made.turns[1].items[0]
    assert isinstance(spoken, Regions) and spoken.label == spoken.regions[0].label == "storage-tank"


def test_nothing_in_particular_is_marked_to_be_ignored() -> None:
    (made,) = UnifyLabels().learn([]).each(sample("a", "DontCare", "background"), np.random.default_rng(0), ()).samples
    assert [region.attributes.get("ignore") for region in made.annotations] == [True, True]


def test_wider_names() -> None:
    (made,) = UnifyLabels(wider=True).learn([]).each(sample("a", "car", "small-vehicle", "plane"), np.random.default_rng(0), ()).samples
    assert [region.label for region in made.annotations] == ["vehicle", "vehicle", "plane"]


def test_unknown_labels_are_refused_together_with_what_they_may_be() -> None:
    rows = [sample("a", "vehicel", "ship"), sample("b", "vehicel"), sample("c", "gizmo")]
    with pytest.raises(Refused) as refused:
        list(apply([UnifyLabels()], rows, 0))
    assert [(problem.place, problem.found) for problem in refused.value.problems] == [("label 'vehicel'", "in 2 rows"), ("label 'gizmo'", "in 1 rows")]
    assert "add it as an alias of 'vehicle'" in refused.value.problems[0].fix


def test_policies_for_unknown_labels() -> None:
    rows = [sample("a", "gizmo"), sample("b", "ships")]
    kept = list(apply([UnifyLabels(unknown="keep")], rows, 0))
    assert [one[0].annotations[0].label for one in kept] == ["gizmo", "ship"]
    judged = list(apply([UnifyLabels(unknown="quarantine")], rows, 0))
    assert [(one[1], one[2]) for one in judged] == [("quarantined", "unify-labels/unknown"), ("kept", None)]
