"""The teacher: views, weights from elsewhere, and settings that do not fit each other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from xmkd import config, training
from xmkd.config import OptimConfig
from xmkd.data.rng import sample_keys
from xmkd.errors import ConfigError
from xmkd.losses.classification import classification_loss
from xmkd.methods.base import Task
from xmkd.methods.teacher import Teacher, TeacherSettings
from xmkd.nets.classifiers import take_frames

STILL, CLIP = (1, 32, 32), (1, 12, 32, 32)


def teacher(shape: tuple[int, ...] = STILL, classes: int = 2, **settings: Any) -> Teacher:
    torch.manual_seed(0)
    settings = {"backbone": "resnet10t" if len(shape) == 3 else "small", "clip_frames": 4, **settings}
    task = Task(tuple(f"c{k}" for k in range(classes)), tuple(range(10, 10 + classes)), shape)
    return Teacher(TeacherSettings(**settings), task, OptimConfig()).eval()


def images(shape: tuple[int, ...], batch: int = 3) -> Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("classes", [2, 3])
def test_score_of_a_still_is_the_mean_over_itself_and_its_mirror_image(classes: int) -> None:
    method, x = teacher(classes=classes), images(STILL)
    with torch.inference_mode():
        views = [method(x), method(torch.flip(x, (3,)))]
        probability = [v.sigmoid() if classes == 2 else v.softmax(1) for v in views]
        found = method.scores({"image": x})
        torch.testing.assert_close(found, (probability[0] + probability[1]) / 2)
        assert found.shape == ((3,) if classes == 2 else (3, 3))
        assert not torch.allclose(found, probability[0])
        alone = teacher(classes=classes, test_views=1).scores({"image": x})
        torch.testing.assert_close(alone, probability[0])


def test_score_of_a_clip_is_the_mean_over_shifts_and_mirror_images() -> None:
    method, x = teacher(CLIP, test_views=4), images(CLIP)
    with torch.inference_mode():
        clips = [take_frames(x, 4, torch.full((3,), start)) for start in (0.25, 0.75)]
        assert not torch.equal(*clips)
        views = [method(v).sigmoid() for clip in clips for v in (clip, clip.flip(4))]
        torch.testing.assert_close(method.scores({"image": x}), torch.stack(views).mean(0))


@pytest.mark.parametrize("loss", ["plain", "weighted", "focal"])
def test_step_is_the_loss_named(loss: str) -> None:
    method, x, label = teacher(loss=loss), images(STILL), torch.tensor([0, 1, 1])
    weight = None if loss == "plain" else torch.tensor([21 / 20, 21 / 22])  # of 10 and 11 samples
    expected = classification_loss(method(x), label, weight=weight, focal_gamma=2.0 if loss == "focal" else 0.0)
    found = method.step({"tvus": {"image": x, "label": label}})
    torch.testing.assert_close(found.loss, expected)


def test_frames_seen_in_training_depend_on_the_key_alone() -> None:
    method, x, label = teacher(CLIP), images(CLIP), torch.tensor([0, 1, 0])
    keys = sample_keys(0, 0, ["a", "b", "c"])
    whole = method.step({"tvus": {"image": x, "label": label, "key": keys}}).loss
    again = method.step({"tvus": {"image": x, "label": label, "key": keys}}).loss
    other = method.step({"tvus": {"image": x, "label": label, "key": sample_keys(0, 1, ["a", "b", "c"])}}).loss
    assert whole == again
    assert whole != other


def test_checkpoints_hold_the_network_alone() -> None:
    method = teacher()
    assert {name.split(".")[0] for name in method.state_dict()} == {"net"}
    assert "class_weight" in dict(method.named_buffers())


def test_weights_of_a_run(experiment: Path) -> None:
    run = training.fit(config.load(experiment, ["trainer.max_epochs=1"]))
    state = torch.load(run.last, weights_only=True)["state_dict"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = teacher(weights=str(run.last)).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)
    second = training.fit(config.load(experiment, ["trainer.max_epochs=1", f"method.weights={run.last}"]))
    (ancestor,) = second.provenance()["ancestors"]
    assert ancestor["fitted_on"] == run.provenance()["fitted_on"], "the leakage guard must know whom it saw"


@pytest.mark.parametrize("shape", [STILL, CLIP])
def test_weights_of_a_plain_state_dict(shape: tuple[int, ...], tmp_path: Path) -> None:
    other = teacher(shape)
    for value in other.parameters():
        value.data.add_(1)
    torch.save(other.net.state_dict(), tmp_path / "net.pt")
    found = teacher(shape, weights=str(tmp_path / "net.pt")).net.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in other.net.state_dict().items())


def test_weights_of_a_timm_state_dict(tmp_path: Path) -> None:
    other = teacher()
    torch.save(cast(torch.nn.Module, other.net.net).state_dict(), tmp_path / "timm.pt")
    found = teacher(weights=str(tmp_path / "timm.pt")).net.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in other.net.state_dict().items())


def test_weights_of_colour_pictures_see_grey_ones_as_three_equal_channels(tmp_path: Path) -> None:
    import timm

    colour = timm.create_model("resnet10t", in_chans=3, num_classes=1)
    torch.save(colour.state_dict(), tmp_path / "colour.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing starts at random
        net = cast(torch.nn.Module, teacher(weights=str(tmp_path / "colour.pt")).net.net).eval()
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(grey), colour.eval()(grey.expand(-1, 3, -1, -1)))


def test_a_head_of_another_size_is_left_out_and_named(tmp_path: Path) -> None:
    many = teacher(classes=5)
    for value in many.parameters():
        value.data.add_(1)
    torch.save(many.net.state_dict(), tmp_path / "five.pt")
    with pytest.warns(UserWarning, match=r"net\.fc\.weight, net\.fc\.bias"):
        found = teacher(weights=str(tmp_path / "five.pt")).net.state_dict()
    same = {k for k, v in many.net.state_dict().items() if v.shape == found[k].shape and torch.equal(v, found[k])}
    assert set(found) - same == {"net.fc.weight", "net.fc.bias"}


def test_wrong_weights_are_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such weights file"):
        teacher(weights=str(tmp_path / "missing.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ConfigError, match="can't read the weights"):
        teacher(weights=str(tmp_path / "text.ckpt"))
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ConfigError, match="can't read the weights"):
        teacher(weights=str(tmp_path / "list.ckpt"))
    torch.save(teacher(CLIP).state_dict(), tmp_path / "clip.ckpt")
    with pytest.raises(ConfigError, match=r"only \d+ of \d+ tensors fit"):
        teacher(weights=str(tmp_path / "clip.ckpt"))


CLIP_VIEW = ["data.streams.tvus.view=clip", "data.streams.tvus.ultrasound.frames=8", "method.backbone=small"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.streams.tvus.view=clip", "data.streams.tvus.ultrasound.frames=8", "method.clip_frames=8"],
            "method.backbone: 'resnet10t' takes",
        ),
        (["method.backbone=small"], "method.backbone: 'small' takes clips"),
        (["method.backbone=resnet19"], "did you mean 'resnet18'?"),
        (["data.streams.tvus.label=null"], "data.streams.tvus.label"),
        (["data.streams.tvus.sampler=balanced"], "method.loss: imbalance is met twice"),
        (["method.test_views=3"], "method.test_views: 3"),
        (["method.test_views=4"], "method.test_views: 4"),
        ([*CLIP_VIEW, "method.clip_frames=9"], "method.clip_frames: 9 is not in 1..8"),
        (["method.weights=kinetics"], "method.weights: there are no 'kinetics' weights of 'resnet10t'"),
        ([*CLIP_VIEW, "method.clip_frames=8", "method.weights=imagenet"], "no 'imagenet' weights of 'small'"),
        (["method.drop_rate=1"], "method.drop_rate"),
        (["method.focal_gamma=-1"], "method.focal_gamma"),
    ],
)
def test_contradictions_are_named(experiment: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match="problem") as caught:
        config.load(experiment, words)
    assert message in str(caught.value)
    assert caught.value.what.startswith("1 problem ")


@pytest.mark.parametrize(
    "words",
    [
        ["data.streams.tvus.sampler=balanced", "method.loss=plain"],
        [*CLIP_VIEW, "method.clip_frames=8", "method.test_views=4"],
    ],
)
def test_what_fits_passes(experiment: Path, words: list[str]) -> None:
    config.load(experiment, words)
