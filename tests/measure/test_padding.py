"""Padding is left out of what is measured, from a store and live, by the mask among the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import probekit as pk
from probekit.errors import DataError, SiteError


class Tokens(nn.Module):
    """Embeds tokens, and maps them on; `attention_mask` is 1 for real ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(50, 4), nn.Linear(4, 6)
        self.by_channel = nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mixed: Tensor = self.mix(self.embed(input_ids))
        self.by_channel(mixed.transpose(1, 2))
        return mixed.mean(1)


LENGTHS = torch.tensor([5, 2, 7, 1, 4, 7, 3, 6, 2, 5])
IDS, LABELS = torch.randint(50, (10, 7), generator=torch.Generator().manual_seed(1)), torch.arange(10) % 2
RIGHT = (torch.arange(7) < LENGTHS[:, None]).long()
LEFT = RIGHT.flip(1)
SITES = ["embed", "mix", "by_channel"]


def as_dict(mask: Tensor) -> Any:
    return {"input_ids": IDS, "attention_mask": mask, "labels": LABELS}


def as_loader(mask: Tensor) -> Any:
    data = torch.utils.data.TensorDataset(IDS, mask.bool(), LABELS)
    return [((ids, real), labels) for ids, real, labels in torch.utils.data.DataLoader(data, 4)]


def by_hand(mask: Tensor, site: str, positions: str) -> np.ndarray[Any, Any]:
    """The mean of the observations of each class."""
    model = Tokens()
    with torch.no_grad():
        tokens = model.embed(IDS) if site == "embed" else model.mix(model.embed(IDS))
    groups: list[list[Tensor]] = [[], []]
    for values, real, label in zip(tokens, mask.bool(), LABELS.tolist(), strict=True):
        kept = values[real]
        groups[label] += {"mean": [kept.mean(0)], "max": [kept.amax(0)], "each": list(kept)}[positions]
    return np.stack([torch.stack(group).mean(0).numpy() for group in groups])


@pytest.mark.parametrize("data", [as_dict, as_loader])
@pytest.mark.parametrize("positions", ["mean", "max", "each"])
@pytest.mark.parametrize("mask", [RIGHT, LEFT, torch.ones(10, 7, dtype=torch.long)], ids=["right", "left", "none"])
def test_padding_is_left_out(tmp_path: Path, data: Any, positions: Any, mask: Tensor) -> None:
    options = {"batch_size": 4, "sites": SITES}
    pk.capture(Tokens(), data(mask), tmp_path / "a", memory=9000, **options)
    stored = pk.measure(tmp_path / "a", ["mean", "median"], positions=positions)
    live = pk.measure_live(Tokens(), data(mask), ["mean", "median"], positions=positions, **options)
    again = xr.open_datatree(tmp_path / "a", engine="zarr")
    for site in SITES:
        expected = by_hand(mask, site, positions)
        np.testing.assert_allclose(stored[site]["mean"].values, expected, atol=1e-6)
        np.testing.assert_allclose(live[site]["mean"].values, expected, atol=1e-6)
        np.testing.assert_allclose(live[site]["median"].values, stored[site]["median"].values, rtol=0.01, atol=1e-3)
        np.testing.assert_array_equal(again[site]["mask"].values, mask.bool())
        assert again[site].attrs["mask"] == "attention_mask"
    assert pk.verify(tmp_path / "a")


def test_a_choice_of_samples_and_a_stopped_capture_keep_their_masks(tmp_path: Path) -> None:
    def batches(stop: int | None = None) -> Any:
        for number, batch in enumerate(as_loader(RIGHT)):
            if number == stop:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        pk.capture(Tokens(), batches(2), tmp_path / "a", sites="mix", memory=9000)
    tree = pk.capture(Tokens(), batches(), tmp_path / "a", sites="mix", memory=9000, resume=True)
    np.testing.assert_array_equal(tree["mix"]["mask"].values, RIGHT.bool())
    found = pk.measure(tree, "mean", positions="each", where={"label": 1}, by=None)
    np.testing.assert_allclose(found["mix"]["mean"].values, by_hand(RIGHT, "mix", "each")[1], atol=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "max", "last", "tokens"])
def test_a_mask_by_position_reduces_as_one_by_key(tmp_path: Path, reduce: str) -> None:
    by_key = pk.capture(Tokens(), as_dict(RIGHT), tmp_path / "a", sites="mix", reduce=reduce)
    ways: dict[str, dict[str, Any]] = {
        "a parameter's name": {"data": ((IDS, RIGHT), LABELS)},
        "a place": {"data": ((IDS, RIGHT), LABELS), "mask": 1},
        "a callable": {"data": ((IDS, 1 - RIGHT), LABELS), "mask": lambda inputs: inputs[1] == 0},
        "by selector": {"data": as_dict(RIGHT), "mask": {"mix": "attention_mask"}},
    }
    for number, (way, options) in enumerate(ways.items()):
        data = options.pop("data")
        data = [data] if isinstance(data, tuple) else data
        tree = pk.capture(Tokens(), data, tmp_path / str(number), sites="mix", reduce=reduce, **options)
        np.testing.assert_array_equal(tree["mix"]["activation"], by_key["mix"]["activation"], err_msg=way)


class TwoTowers(nn.Module):
    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.left, self.right, self.names = nn.Embedding(50, 4), nn.Embedding(50, 4), names

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.left(inputs["a"]).mean(1) + self.right(inputs["b"]).mean(1)


@pytest.mark.parametrize(
    "names", [("attention_mask", "decoder_attention_mask"), ("a_attention_mask", "b_attention_mask")]
)
@pytest.mark.parametrize("reduce", [None, "mean"])
def test_of_several_masks_that_fit_one_must_be_chosen(tmp_path: Path, names: Any, reduce: Any) -> None:
    data = {"a": IDS, names[0]: RIGHT, "b": IDS.flip(0), names[1]: LEFT}
    options = {"sites": ["left", "right"], "reduce": reduce, "labels": False}
    with pytest.raises(SiteError, match=f"'{names[0]}', '{names[1]}', any of which may tell its padding"):
        pk.capture(TwoTowers(names), data, tmp_path / "a", **options)
    model = TwoTowers(names)
    tree = pk.capture(model, data, tmp_path / "a", mask={"left": names[0], "right": names[1]}, **options)
    found = pk.measure(tree, "mean", by=None)
    for site, ids, mask in (("left", IDS, RIGHT), ("right", IDS.flip(0), LEFT)):
        tokens = model.get_submodule(site)(ids).detach()
        means = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        np.testing.assert_allclose(found[site]["mean"].values, means.mean(0), atol=1e-6)
    shorter = data | {
        "b": IDS.flip(0)[:, :5],
        names[1]: RIGHT[:, :5],
    }  # where one mask alone fits a site, it is the one
    tree = pk.capture(model, shorter, tmp_path / "b", **options)
    assert (tree["left"].attrs["mask"], tree["right"].attrs["mask"]) == names


def test_callables_of_one_name_are_masks_of_their_own(tmp_path: Path) -> None:
    model = TwoTowers(("real_a", "real_b"))
    data = {"a": IDS, "real_a": RIGHT.float(), "b": IDS.flip(0), "real_b": LEFT.float()}
    by_site = {"left": lambda inputs: inputs["real_a"], "right": lambda inputs: inputs["real_b"]}
    tree = pk.capture(model, data, tmp_path / "a", sites=["left", "right"], reduce="mean", mask=by_site, labels=False)
    for site, ids, mask in (("left", IDS, RIGHT), ("right", IDS.flip(0), LEFT)):
        tokens = model.get_submodule(site)(ids).detach()
        means = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        np.testing.assert_allclose(tree[site]["activation"].values, means, atol=1e-6)


def test_a_plan_shows_what_was_found_out() -> None:
    plan = pk.plan(Tokens(), as_dict(RIGHT), sites=SITES)
    shown = plan.table.to_dataframe().set_index("site")
    assert shown["batch"].tolist() == ["axis 0"] * 3
    assert shown["nodes"].to_dict() == {"embed": "axis 2", "mix": "axis 2", "by_channel": "axis 1"}
    assert shown["mask"].tolist() == ["attention_mask"] * 3


@pytest.mark.parametrize("name", ["src_key_padding_mask", "padding_mask"])
def test_a_mask_of_unknown_meaning_is_asked_for(tmp_path: Path, name: str) -> None:
    class Net(Tokens):
        def forward(self, input_ids: Tensor, **masks: Tensor) -> Tensor:
            return super().forward(input_ids)

    data = {"input_ids": IDS, name: RIGHT == 0}
    with pytest.raises(SiteError, match=f"{name}'?, and 1 may mean a real token or padding there"):
        pk.measure_live(Net(), data, "mean", sites="mix", labels=False)
    live = pk.measure_live(Net(), data, "mean", sites="mix", labels=False, mask=lambda inputs: ~inputs[name])
    means = by_hand(RIGHT, "mix", "mean")
    np.testing.assert_allclose(live["mix"]["mean"].values, means.mean(0), atol=1e-6)
    pk.capture(Net(), data, tmp_path / "a", sites="mix", labels=False, mask=False)


def test_a_reduction_without_any_mask_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"No mask says which positions of mix are real, .*mask=False"):
        pk.capture(Tokens(), IDS, tmp_path / "a", sites="mix", reduce="mean")
    pk.capture(Tokens(), IDS, tmp_path / "b", sites="mix", reduce="mean", mask=False)
    pk.capture(Tokens(), IDS, tmp_path / "c", sites="mix")
    pk.capture(nn.Conv2d(3, 4, 3), torch.randn(4, 3, 8, 8), tmp_path / "d", reduce="mean")  # images have no padding


def test_masks_of_other_kinds_do_not_matter_where_they_are_not_used(tmp_path: Path) -> None:
    class Net(Tokens):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids)

    segments, added = RIGHT * 2, (1.0 - RIGHT[:, None, None]) * -1e9
    for number, mask in enumerate([segments, added]):
        data = {"input_ids": IDS, "attention_mask": mask}
        pk.capture(Net(), data, tmp_path / str(number), sites=["mix", "(root)"])
    with pytest.raises(DataError, match=r"must hold only 1 \(a real token\) and 0"):
        pk.capture(Net(), {"input_ids": IDS, "attention_mask": segments}, tmp_path / "b", sites="mix", reduce="mean")


@pytest.mark.parametrize(
    ("mask", "message"),
    [("attention", "Near: 'attention_mask'"), (7, "mask is 7"), (lambda inputs: 3, "returned a int")],
)
def test_a_mask_that_is_not_there_is_told(mask: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pk.plan(Tokens(), as_dict(RIGHT), sites="mix", mask=mask)


def test_a_site_with_fewer_positions_than_the_mask_warns(tmp_path: Path) -> None:
    class Sound(nn.Module):
        """Two samples of a waveform make one position."""

        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(2, 3)

        def forward(self, input_values: Tensor, attention_mask: Tensor) -> Tensor:
            return self.mix(input_values.unflatten(1, (-1, 2)))

    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    model, data = Sound(), {"input_values": torch.randn(4, 4), "attention_mask": mask}
    with pytest.warns(UserWarning, match=r"No mask says which positions of mix are real, .*or a callable"):
        pk.capture(model, data, tmp_path / "a", sites="mix", reduce="mean", labels=False)
    tree = pk.capture(
        model, data, tmp_path / "b", sites="mix", reduce="mean", labels=False,
        mask=lambda inputs: inputs["attention_mask"][:, ::2],
    )  # fmt: skip
    frames = model(**data).detach()
    expected = torch.stack([frames[0].mean(0), frames[1, 0], frames[2].mean(0), frames[3, 0]])
    np.testing.assert_allclose(tree["mix"]["activation"], expected, atol=1e-6)
