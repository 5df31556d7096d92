from __future__ import annotations

import pytest
import torch

from medfuncta_dist.errors import IntegrityError, RunChangedError
from medfuncta_dist.training.checkpoints.training_state import (
    AdamState,
    Kind,
    MuonState,
    State,
    from_tensors,
    parts,
    require_kinds,
    to_tensors,
)

SHAPES = {"layer.2.weight": (3, 3), "layer.2.bias": (3,)}
WITH_MUON: dict[str, Kind] = {"layer.2.weight": MuonState, "layer.2.bias": AdamState}
WITHOUT: dict[str, Kind] = dict.fromkeys(SHAPES, AdamState)


def state(kinds: dict[str, Kind]) -> State:
    return {name: kind(*(torch.rand(SHAPES[name]) for _ in parts(kind))) for name, kind in kinds.items()}


@pytest.mark.parametrize("kinds", [WITH_MUON, WITHOUT])
def test_a_state_comes_back_from_its_tensors(kinds: dict[str, Kind]) -> None:
    whole = state(kinds)
    back = from_tensors(to_tensors(whole), SHAPES, "here")
    assert {name: type(found) for name, found in back.items()} == kinds
    for name, found in back.items():
        assert all(torch.equal(getattr(found, part), getattr(whole[name], part)) for part in parts(kinds[name]))


def test_tensors_are_named_by_part_and_parameter() -> None:
    bias = {f"{part}/layer.2.bias" for part in ("param", "exp_avg", "exp_avg_sq")}
    assert to_tensors(state(WITHOUT)).keys() == bias | {name.replace("bias", "weight") for name in bias}
    muon = {"param/layer.2.weight", "momentum_buffer/layer.2.weight"}
    assert to_tensors(state(WITH_MUON)).keys() == bias | muon


@pytest.mark.parametrize("kinds", [WITH_MUON, WITHOUT])
def test_a_part_too_few_or_of_two_optimisers_is_damage(kinds: dict[str, Kind]) -> None:
    tensors = to_tensors(state(kinds))
    for name in tensors:
        with pytest.raises(IntegrityError, match="not those of this network"):
            from_tensors({other: tensor for other, tensor in tensors.items() if other != name}, SHAPES, "here")
    mixed = to_tensors(state(WITHOUT)) | to_tensors(state(WITH_MUON))
    with pytest.raises(IntegrityError, match="not those of this network"):
        from_tensors(mixed, SHAPES, "here")


def test_a_momentum_of_another_shape_is_damage() -> None:
    tensors = to_tensors(state(WITH_MUON)) | {"momentum_buffer/layer.2.weight": torch.rand(9)}
    with pytest.raises(IntegrityError, match=r"momentum_buffer/layer\.2\.weight is not float32 of shape \[3, 3\]"):
        from_tensors(tensors, SHAPES, "here")


@pytest.mark.parametrize(("trained", "asked", "remedy"), [(WITH_MUON, WITHOUT, "muon"), (WITHOUT, WITH_MUON, "adamw")])
def test_the_state_of_another_optimizer_is_refused_with_the_remedy(
    trained: dict[str, Kind], asked: dict[str, Kind], remedy: str
) -> None:
    require_kinds(state(trained), trained, "here")
    with pytest.raises(RunChangedError, match="another optimizer") as caught:
        require_kinds(state(trained), asked, "here")
    assert f"train.optimizer: {remedy}" in caught.value.do
