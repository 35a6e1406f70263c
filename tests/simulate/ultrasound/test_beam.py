"""Laws of the beam, on phantoms."""

from __future__ import annotations

import math

import pytest
import torch

from xmkd.simulate.ultrasound import beam as physics
from xmkd.simulate.ultrasound import validate
from xmkd.simulate.ultrasound.beam import Beam
from xmkd.simulate.ultrasound.fan import Fan, Picture

DEEP = Fan(depth_mm=105.0, half_angle=1.0, radius_mm=12.0, samples=320, lines=192)


@pytest.mark.parametrize("fan", [Fan(), DEEP], ids=["shallow", "deep"])
def test_envelope_of_a_uniform_phantom_is_rayleigh_distributed(fan: Fan) -> None:
    found = validate.speckle_statistics(fan)
    assert found.samples > 10_000
    assert found.ks <= 0.02  # asked: 0.05
    assert found.snr == pytest.approx(validate.RAYLEIGH_SNR, abs=0.04)


def test_compounding_two_sub_bands_raises_the_signal_to_noise_ratio() -> None:
    fan, beam = Fan(), Beam()
    noise = physics.speckle((4, fan.samples, fan.lines), torch.Generator().manual_seed(1)).permute(2, 0, 1, 3)
    padded, inner = physics.pulse_input(fan.samples, 4, fan.lines)
    physics.focus(noise.contiguous(), physics.lateral_blur(fan, beam), inner)
    one, other = physics.envelopes(padded, fan.samples, fan, beam)
    both = (one + other)[8:-8, :, 8:-8]
    assert float(both.mean() / both.std()) > 1.1 * validate.RAYLEIGH_SNR


@pytest.mark.parametrize("fan", [Fan(), DEEP], ids=["shallow", "deep"])
def test_point_targets_are_as_wide_as_designed_at_every_depth(fan: Fan) -> None:
    for depth, measured, design in validate.lateral_resolution(fan=fan):
        assert measured == pytest.approx(design, rel=0.05), depth
    assert validate.axial_resolution(fan) == pytest.approx(Beam().pulse_mm, rel=0.02)


@pytest.mark.parametrize("attenuation", [0.3, 0.55, 1.3])
def test_echoes_fall_off_as_the_tissue_attenuates(attenuation: float) -> None:
    assert validate.attenuation_slope(attenuation) == pytest.approx(attenuation, rel=0.1)


@pytest.mark.parametrize("inside", [0.25, 1.0], ids=["fluid", "absorber"])
def test_layers_brighten_or_darken_what_lies_behind_them(inside: float) -> None:
    measured, expected = validate.layer_contrast(inside)
    assert measured == pytest.approx(expected, abs=0.5)


def test_gas_casts_clutter_behind_it_and_nowhere_else() -> None:
    fan = Fan()
    gas = torch.zeros(fan.samples, 1, fan.lines)
    gas[100:103, 0, 40:50] = 1
    clutter = physics.reverberation(gas, torch.ones_like(gas), fan, length_mm=15.0, spacing_mm=5.0)
    assert clutter[:100].abs().max() == 0
    assert clutter[..., :40].abs().max() == 0
    assert float(clutter[104:150, 0, 40:50].min()) > 0
    assert float(clutter[250:, 0, 45].mean()) < float(clutter[104:150, 0, 45].mean())


def test_running_sum_decays_geometrically() -> None:
    impulse = torch.zeros(5, 1)
    impulse[1] = 1
    assert physics.running_sum(impulse, 0.5).flatten().tolist() == [0, 1, 0.5, 0.25, 0.125]


def test_speckle_keeps_most_of_its_power_between_samples() -> None:
    noise = physics.speckle((200, 200), torch.Generator().manual_seed(0))
    midway = (noise[..., 1:] + noise[..., :-1]) / 2
    assert float(noise.square().sum(0).mean()) == pytest.approx(1, abs=0.03)
    assert float(midway.square().sum(0).mean()) > 0.75  # white noise: 0.5


def test_fan_and_picture_agree_on_where_things_are() -> None:
    fan, picture = Fan(), Picture((160, 160), 0.56, -3.0)
    lateral, axial = fan.points()
    index = fan.index(lateral, axial)
    row, line = ((index[..., 1] + 1) * fan.samples - 1) / 2, ((index[..., 0] + 1) * fan.lines - 1) / 2
    assert torch.allclose(row, torch.arange(fan.samples).float()[:, None].expand_as(row), atol=1e-3)
    assert torch.allclose(line, torch.arange(fan.lines).float().expand_as(line), atol=1e-3)
    rows, columns = picture.pixel(*picture.points())
    assert torch.allclose(rows[:, 0], torch.arange(160.0), atol=1e-4)
    assert torch.allclose(columns[0], torch.arange(160.0), atol=1e-4)


def test_padded_fan_keeps_the_samples_of_the_fan() -> None:
    fan = Fan()
    inner = fan.padded(32, 10).points()
    assert torch.allclose(inner[0][: fan.samples, 10:-10], fan.points()[0], atol=1e-4)
    assert torch.allclose(inner[1][: fan.samples, 10:-10], fan.points()[1], atol=1e-4)


def test_compression_spans_the_dynamic_range() -> None:
    levels = torch.tensor([0.0, -30.0, -60.0, -80.0])
    shown = physics.compress(10 ** (levels / 20), gain_db=0.0, range_db=60.0, curve=1.0)
    assert torch.allclose(shown, torch.tensor([1.0, 0.5, 0.0, 0.0]), atol=1e-5)


def test_receiver_noise_refuses_more_than_its_bank() -> None:
    with pytest.raises(ValueError, match="bank holds"):
        physics.receiver_noise((1 << 12, 1 << 12), 0)
    assert math.isclose(float(physics.receiver_noise((64, 64), 10**12).std()), 1, abs_tol=0.05)
