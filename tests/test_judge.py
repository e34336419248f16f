"""The judge that comes with the package: right on real scenes, hard to please with others."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.data.factors import FACTORS
from minidiff.data.sources import open_source
from minidiff.errors import InputError
from minidiff.measure import judge as judging
from minidiff.measure import metrics

COUNT = 256


@functools.cache
def the_judge():
    return judging.load_judge()


@functools.cache
def real(count=COUNT, side=16, seed=0):
    return judging.real_scenes(seed, "test", side, count)


@functools.cache
def report_on(kind):
    """``report`` on noise, on real scenes, and on four scenes again and again."""
    shape = (COUNT, 16, 16, 3)
    others = real(seed=1)["image"]
    made = {
        "noise": np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32),
        "real": others,
        "few": np.tile(others[:4], (COUNT // 4, 1, 1, 1)),
    }
    return judging.report(the_judge(), made[kind])


def test_right_on_real_scenes():
    scenes = real(2048)
    seen = judging.look(the_judge(), scenes["image"])
    right = metrics.accuracy(seen["factors"], scenes["factors"])
    assert right.shape == (len(FACTORS),)
    assert (right >= 0.98).all(), dict(zip(FACTORS, right, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_right_on_larger_scenes(side):
    scenes = real(side=side)
    seen = judging.look(the_judge(), scenes["image"])
    assert (metrics.accuracy(seen["factors"], scenes["factors"]) >= 0.95).all()


def test_real_scenes_depend_on_the_seed():
    first = real()
    assert np.array_equal(first["image"], real(2048)["image"][:COUNT])
    assert not np.array_equal(first["image"], real(seed=1)["image"])
    assert first["factors"].shape == (COUNT, len(FACTORS))
    assert first["image"].shape == (COUNT, 16, 16, 3)


def test_what_look_returns():
    images = real()["image"]
    seen = judging.look(the_judge(), images[:5])
    assert {name: x.shape for name, x in seen.items()} == {
        "features": (5, judging.FEATURES),
        "factors": (5, len(FACTORS)),
        "certainty": (5, len(FACTORS)),
    }
    assert (seen["certainty"] > 0).all()
    assert (seen["certainty"] <= 1).all()
    assert (seen["factors"] < [len(values) for values in FACTORS.values()]).all()


def test_look_at_more_than_one_call_takes():
    images = np.concatenate([real()["image"], real(seed=1)["image"][:7]])
    together = judging.look(the_judge(), images)
    apart = judging.look(the_judge(), images[-7:])
    np.testing.assert_allclose(together["features"][-7:], apart["features"], atol=1e-5)
    assert np.array_equal(together["factors"][-7:], apart["factors"])


def test_the_classifier_reads_the_features():
    judge, images = the_judge(), jnp.asarray(real()["image"][:2])
    direct, by_features = judge(images), judge.classify(judge.embed(images))
    assert list(direct) == list(FACTORS)
    for name, values in FACTORS.items():
        assert direct[name].shape == (2, len(values))
        np.testing.assert_allclose(direct[name], by_features[name], atol=1e-5)


# Sizes


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_shrink_averages(factor):
    small = real()["image"][:3]
    large = small.repeat(factor, axis=1).repeat(factor, axis=2)
    ripple = np.where(np.indices(large.shape).sum(axis=0) % 2, 0.25, -0.25) * (factor > 1)
    shrunk = judging.shrink(jnp.asarray(large + ripple, jnp.float32))
    np.testing.assert_allclose(shrunk, small, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 24, 24, 3), (2, 8, 8, 3), (2, 16, 16, 1), (2, 16, 32, 3)])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match="colour images of 16, 32 or 64 pixels") as caught:
        judging.shrink(jnp.zeros(shape))
    assert str(shape) in str(caught.value)


# The report


def test_the_report_is_complete_and_goes_into_json():
    report = json.loads(json.dumps(report_on("real")))
    measures = {"frechet", "coverage", "certain", "commonest_subject"}
    assert set(report) == {"count", "accuracy", *measures}
    assert report["count"] == COUNT
    assert list(report["accuracy"]) == list(FACTORS)
    assert min(report["accuracy"].values()) > 0.97
    for name in measures:
        assert set(report[name]) == {"made", "floor"}
        assert report[name]["floor"] == report_on("noise")[name]["floor"]


def test_other_real_scenes_are_at_the_floor():
    report = report_on("real")
    assert report["frechet"]["made"] < 1.5 * report["frechet"]["floor"]
    assert report["coverage"]["made"] > 0.85
    assert report["certain"]["made"] > 0.85
    assert report["commonest_subject"]["made"] < 0.25


def test_noise_is_told_from_scenes():
    report = report_on("noise")
    assert report["frechet"]["made"] > 5 * report["frechet"]["floor"]
    assert report["certain"]["made"] < 0.2
    # Between the scenes of 96 features there is room: coverage alone would not tell.
    assert report["coverage"]["made"] < 0.6 * report["coverage"]["floor"]


def test_a_few_scenes_repeated_are_told_from_many():
    report = report_on("few")
    assert report["frechet"]["made"] > 3 * report["frechet"]["floor"]
    assert report["coverage"]["made"] < 0.2
    assert report["commonest_subject"]["made"] > 2 * report["commonest_subject"]["floor"]


def test_the_table_shows_every_number():
    report = report_on("noise")
    text = judging.table(report)
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len(rows) == 2 + 4
    for name in ("frechet", "coverage", "certain", "commonest_subject"):
        assert f"| {report[name]['made']:.3f} | {report[name]['floor']:.3f} |" in " ".join(
            text.split()
        )
    assert f"{100 * min(report['accuracy'].values()):.1f}%" in text


# Weights


def test_weights_of_another_network_are_refused(tmp_path):
    from minidiff import weights

    judge = jax.tree.map(lambda x: x[:1], the_judge())
    weights.save(tmp_path / "judge.safetensors", judge)
    with pytest.raises(InputError, match="is of another model"):
        judging.load_judge(tmp_path / "judge.safetensors")
    with pytest.raises(InputError, match="there is no file"):
        judging.load_judge(tmp_path / "none.safetensors")


def test_faithfulness_asks_for_what_is_said_and_no_more():
    values = {"subject": "cat", "colour": "blue", "accessory": "hat", "background": "night"}
    row = [names.index(values.get(name, names[0])) for name, names in FACTORS.items()]
    factors = np.array([row] * 4)
    prompts = ["a blue cat wearing a cap", "a red cat", "a blue star wearing glasses", "a cat"]
    found = judging.faithfulness(factors, prompts)
    assert found == {"subject": 3 / 4, "colour": 2 / 3, "accessory": 1 / 2, "all": 2 / 4}


def test_real_scenes_are_faithful_to_their_captions():
    source = open_source("scenes", split="test", size=16, batch_size=256)
    batch = jax.jit(lambda source: source.batch(0))(source)
    seen = judging.look(the_judge(), np.asarray(batch["image"]))["factors"]
    texts = source.captions(batch)
    assert min(judging.faithfulness(seen, texts).values()) >= 0.97
    turned = judging.faithfulness(seen, texts[1:] + texts[:1])  # each with its neighbour's caption
    assert turned["all"] < 0.05
    assert turned["subject"] < 0.3
