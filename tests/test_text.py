"""The text tower against a float64 loop; the future and the padding never count."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import towers
from hypothesis import given, settings

from minidiff import text
from minidiff.text import TextConfig, TextTransformer

KEY = jax.random.key(0)
END = 11
IDS = np.array([[10, 3, 4, END, 0, 0], [10, 5, 6, 7, 8, END], [10, END, 0, 0, 0, 0]], np.int32)
ENDS = np.array([3, 5, 1])
TINY = {"vocabulary": 12, "context": 9, "width": 8, "layers": 2, "heads": 2}
CONVENTIONS = {"an id": {"end": END}, "the largest id": {"end": None}}
by_convention = pytest.mark.parametrize("convention", CONVENTIONS)
run = jax.jit(lambda tower, ids: tower(ids))
states = jax.jit(lambda tower, ids: tower.states(ids))
pool = jax.jit(lambda tower, states, ids: tower.pool(states, ids))


def tiny(convention="an id", module=text, **more):
    config = module.TextConfig(**TINY, **CONVENTIONS[convention], **more)
    return towers.shaken(module.TextTransformer.init(KEY, config))


def check_loop(module):
    """A whole tower, by either convention of the end."""
    for convention in CONVENTIONS:
        tower = tiny(convention, module, expand=2, activation="quick_gelu", eps=0.01)
        found = run(tower, IDS)
        assert found.shape == (3, 8)
        np.testing.assert_allclose(found, towers.text_tower(tower, IDS, ENDS), atol=1e-4)


def check_the_future(module):
    """Changing a token changes nothing before it, and everything from there on."""
    tower = tiny(module=module)
    before = states(tower, IDS)
    for place in range(IDS.shape[1]):
        changed = IDS.copy()
        changed[:, place] = (IDS[:, place] + 1) % 12
        moved = np.abs(np.asarray(states(tower, changed) - before)).max(2)
        np.testing.assert_allclose(moved[:, :place], 0, atol=1e-6)
        assert (moved[:, place:] > 1e-5).all()


def check_padding(module):
    """Whatever stands behind the end token, and however much of it, the vector is the same."""
    for convention, pads in (("an id", (0, 5, END)), ("the largest id", (0, 5, END))):
        tower = tiny(convention, module)
        expected = run(tower, IDS)
        for pad in pads:
            for length in (6, 9):
                ids = np.full((3, length), pad, np.int32)
                for row, source, end in zip(ids, IDS, ENDS, strict=True):
                    row[: end + 1] = source[: end + 1]
                np.testing.assert_allclose(run(tower, ids), expected, atol=1e-5)
    apart = np.asarray(run(tiny(module=module), IDS))
    assert min(np.abs(apart[i] - apart[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-2


CHECKS = [check_loop, check_the_future, check_padding]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_oracle(check):
    check(text)


@settings(max_examples=15)
@given(st.data())
def test_a_row_of_any_length_ends_where_it_ends(data):
    """In a batch of one shape, so that it is compiled once."""
    tower, ids, ends = tiny(), np.zeros((4, 9), np.int32), []
    for row in ids:
        end = data.draw(st.integers(1, 8))
        ends.append(end)
        row[0], row[end] = 10, END
        row[1:end] = data.draw(st.lists(st.integers(0, 9), min_size=end - 1, max_size=end - 1))
        row[end + 1 :] = data.draw(st.lists(st.integers(0, 11), min_size=8 - end, max_size=8 - end))
    found = np.asarray(states(tower, ids))
    np.testing.assert_array_equal(pool(tower, found, ids), found[np.arange(4), ends])


def test_an_id_larger_than_the_end_is_no_end_where_the_end_is_an_id():
    """Added words come after the end token in a vocabulary: only its own id counts then."""
    config = TextConfig(**(TINY | {"vocabulary": 14}), end=END)
    tower = TextTransformer.init(KEY, config)
    ids = np.array([[10, 13, 4, END, 0]], np.int32)
    found = np.asarray(states(tower, ids))
    np.testing.assert_array_equal(pool(tower, found, ids), found[:, 3])


@by_convention
def test_the_stages_are_those_of_the_call(convention):
    tower = tiny(convention)
    stages = jax.jit(lambda tower, ids: tower.stages(ids))(tower, IDS)
    assert set(stages) == {
        "embedded", "blocks.0", "blocks.1", "attention.0", "attention.1", "states", "out",
    }  # fmt: skip
    np.testing.assert_allclose(stages["out"], run(tower, IDS), atol=1e-6)
    np.testing.assert_allclose(stages["embedded"], tower.embed(jnp.asarray(IDS)), atol=1e-6)
    np.testing.assert_allclose(stages["states"], states(tower, IDS), atol=1e-5)
    for i in range(2):
        towers.is_attention_map(stages[f"attention.{i}"], (3, 2, 6, 6), causal=True)


def test_the_order_of_words_counts():
    tower = tiny()
    assert np.abs(np.asarray(run(tower, IDS) - run(tower, IDS[:, [0, 2, 1, 3, 4, 5]]))).max() > 1e-3


def test_texts_do_not_see_each_other():
    tower = tiny()
    np.testing.assert_allclose(run(tower, IDS)[1:2], run(tower, IDS[1:2]), atol=1e-5)


def test_it_starts_with_the_scales_of_clip():
    config = TextConfig(vocabulary=500, width=64, layers=1)
    tower = jax.jit(lambda: TextTransformer.init(KEY, config))()
    assert float(tower.tokens.std()) == pytest.approx(0.02, rel=0.05)
    assert float(tower.positions.std()) == pytest.approx(0.01, rel=0.05)
    assert (tower.tokens.shape, tower.positions.shape) == ((500, 64), (77, 64))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="10 tokens are more than the context of 9"):
        tiny()(jnp.zeros((1, 10), jnp.int32))
    with pytest.raises(ValueError, match="heads 3 does not divide width 128"):
        TextConfig(heads=3)
