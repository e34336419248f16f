"""What is measured of an autoencoder, against closed forms; and an autoencoder at work on many images."""

import numpy as np
import pytest

from minidiff.data.factors import FACTORS
from minidiff.measure import metrics, reconstruction
from minidiff.measure.judge import load_judge, real_scenes
from minidiff.trained.autoencoder import between


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_latents_are_told_channel_by_channel():
    signs = np.sign(normal(50, 4, 4, 1))  # of two equal values: kurtosis 1
    z = np.concatenate([3 + signs * 0.5, normal(50, 4, 4, 1) * 2, np.ones((50, 4, 4, 1))], axis=3)
    found = reconstruction.latents(np.float32(z))
    assert found["count"] == 50
    assert found["scale"] == pytest.approx(1 / z.std(), rel=1e-5)
    np.testing.assert_allclose(found["mean"], z.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["std"], z.std((0, 1, 2)), rtol=1e-5, atol=1e-6)
    balance = signs.mean()  # kurtosis of two values: (1 + 3 b^2) / (1 - b^2)
    assert found["kurtosis"][0] == pytest.approx((1 + 3 * balance**2) / (1 - balance**2), rel=1e-4)
    assert found["kurtosis"][1] == pytest.approx(3, abs=5 * (24 / 800) ** 0.5)
    assert found["kurtosis"][2] == 0  # a channel that says nothing has none


def test_latents_that_say_nothing_have_no_scale():
    with pytest.raises(ValueError, match="no scale"):
        reconstruction.latents(np.full((3, 2, 2, 1), 0.5, np.float32))


def test_divergence_in_nats_and_bits():
    """Of N(1, 1) from N(0, 1) half a nat for each number; of the prior itself nothing."""
    zeros = np.zeros((3, 2, 2, 4), np.float32)
    assert reconstruction.divergence(zeros, zeros) == {"nats": 0, "bits": 0}
    found = reconstruction.divergence(zeros + 1, zeros)
    assert found == pytest.approx({"nats": 8, "bits": 8 / np.log(2)})


def test_copies_are_compared_with_their_originals():
    real = np.float32(np.clip(0.3 * normal(4, 16, 16, 3), -0.8, 0.8))
    error = np.float32([0.2, 0.02, 0.2, 0.02])[:, None, None, None]
    found = reconstruction.compare(real + error, real)
    assert found["psnr"] == pytest.approx({"mean": 30, "worst": 20}, abs=1e-4)
    assert found["count"] == 4
    assert found["crispness"]["made"] == pytest.approx(found["crispness"]["real"], abs=1e-6)
    assert found["ssim"] == pytest.approx(metrics.ssim(real + error, real).mean())


def test_the_judge_knows_good_copies_from_bad():
    scenes = real_scenes(0, "test", 16, 128)
    real, factors, others = scenes["image"][:64], scenes["factors"][:64], scenes["image"][64:]
    good = reconstruction.judged(load_judge(), real, real, factors, others)
    assert good["accuracy"]["made"] == good["accuracy"]["real"]
    assert set(good["accuracy"]["made"]) == set(FACTORS)
    assert good["frechet"]["made"] == pytest.approx(0, abs=1e-4)
    grey = reconstruction.judged(load_judge(), 0 * real, real, factors, others)
    assert grey["accuracy"]["made"]["subject"] < 0.4 < 0.9 < grey["accuracy"]["real"]["subject"]
    assert grey["frechet"]["made"] > grey["frechet"]["floor"] > 0


def test_between_two_points():
    first, last = normal(2, 3), normal(2, 3, seed=1)
    way = between(first, last, 5)
    assert way.shape == (5, 2, 3)
    np.testing.assert_allclose(way[[0, 2, 4]], [first, (first + last) / 2, last], rtol=1e-5)
