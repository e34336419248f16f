"""Settings: what field=value understands, and what it says to the rest."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff.errors import InputError
from minidiff.recipes import ddpm
from minidiff.recipes import judge as judge_recipe
from minidiff.training.config import TrainConfig, override, presets_table, setting

CONFIG = ddpm.Config()


@dataclasses.dataclass(frozen=True)
class Switch(TrainConfig):
    on: bool = setting(False, "a switch")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=7", 7),
        ("learning_rate=3e-4", 3e-4),
        ("learning_rate=0", 0.0),
        ("clip=2", 2.0),
        ("dtype=bfloat16", "bfloat16"),
        ("data=folder:a=b", "folder:a=b"),
        ("size=32", 32),
        ("size=none", None),
        ("size=None", None),
        ("channels=8,16", (8, 16)),
        ("channels=16,32,64", (16, 32, 64)),
        ("channels=16,32,", (16, 32)),
        ("attention=", ()),
        ("seed=4294967295", 2**32 - 1),
    ],
)
def test_values_by_the_type_of_the_field(text, value):
    name = text.partition("=")[0]
    changed = override(CONFIG, [text])
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    assert dataclasses.replace(changed, **{name: getattr(CONFIG, name)}) == CONFIG


def test_switches():
    assert override(Switch(), ["on=true"]).on is True
    assert override(Switch(on=True), ["on=False"]).on is False
    with pytest.raises(InputError, match=r"^on=yes: on must be true or false$"):
        override(Switch(), ["on=yes"])


def test_many_at_once_the_last_one_stands():
    changed = override(CONFIG, ["steps=5", "seed=2", "steps=6"])
    assert (changed.steps, changed.seed) == (6, 2)
    assert override(CONFIG, []) == CONFIG


def test_values_that_fit_only_together():
    """Neither is allowed by itself."""
    both = ["attention=2", "channels=8,8,8", "timesteps=10", "sample_steps=10"]
    assert override(CONFIG, both).attention == (2,)
    for one in (both[0], both[2]):
        with pytest.raises(InputError):
            override(CONFIG, [one])


WRONG = {
    "steps": ["steps", "field=value"],
    "=5": ["''", "steps", "data"],
    "stepz=5": ["'stepz'", "steps", "learning_rate", "data"],
    "Steps=5": ["'Steps'"],
    "steps=": ["steps=", "a whole number"],
    "steps=many": ["steps=many", "a whole number"],
    "steps=2.5": ["steps=2.5", "a whole number"],
    "steps=none": ["steps=none", "a whole number"],
    "steps=0": ["steps=0", "from 1"],
    "steps=-3": ["steps=-3", "from 1"],
    "steps=2147483648": ["steps=2147483648", "to 2147483647"],
    "batch_size=0": ["batch_size=0", "from 1"],
    "batch_size=1000000000": ["batch_size=1000000000", "to 65536"],
    "learning_rate=fast": ["learning_rate=fast", "a number"],
    "learning_rate=nan": ["learning_rate=nan", "from 0.0 to 1.0"],
    "learning_rate=inf": ["learning_rate=inf", "from 0.0 to 1.0"],
    "learning_rate=-inf": ["learning_rate=-inf", "from 0.0 to 1.0"],
    "learning_rate=1.01": ["learning_rate=1.01", "from 0.0 to 1.0"],
    "weight_decay=nan": ["weight_decay=nan", "at least 0.0"],
    "weight_decay=inf": ["weight_decay=inf", "at least 0.0, and finite"],
    "clip=-1": ["clip=-1", "at least 0.0"],
    "ema_decay=1.5": ["ema_decay=1.5", "from 0.0 to 1.0"],
    "seed=-1": ["seed=-1", "from 0 to 4294967295"],
    "seed=4294967296": ["seed=4294967296", "from 0 to 4294967295"],
    "log_every=0": ["log_every=0", "from 1"],
    "checkpoint_every=0": ["checkpoint_every=0", "at least 1"],
    "dtype=float64": ["dtype=float64", "float32, bfloat16"],
    "schedule=": ["schedule=", "linear, cosine"],
    "size=7": ["size=7", "at least 8"],
    "size=big": ["size=big", "a whole number"],
    "channels=": ["channels=()", "multiple of 8"],
    "channels=12": ["channels=(12,)", "multiple of 8"],
    "channels=0,8": ["channels=(0, 8)", "multiple of 8"],
    "channels=8;16": ["channels=8;16", "whole numbers with commas"],
    "attention=2": ["attention=(2,)", "0 to 1"],
    "attention=-1": ["attention=(-1,)", "0 to 1"],
    "timesteps=1": ["timesteps=1", "from 2"],
    "sample_steps=1001": ["sample_steps=1001", "timesteps=1000"],
    "patch=0": ["patch=0", "from 1 to 8"],
}


@pytest.mark.parametrize("text", WRONG)
def test_one_line_names_field_value_and_what_is_allowed(text):
    with pytest.raises(InputError) as caught:
        override(CONFIG, [text])
    message = str(caught.value)
    assert "\n" not in message
    for part in WRONG[text]:
        assert part in message


def outcome(text):
    """The config, or what is said instead."""
    try:
        return override(CONFIG, [text])
    except InputError as error:
        return str(error)


@given(st.text(max_size=20))
def test_any_text_is_understood_or_refused(text):
    said = outcome(text)
    assert isinstance(said, ddpm.Config) or "field" in said


@given(st.sampled_from([field.name for field in dataclasses.fields(CONFIG)]), st.text(max_size=9))
def test_any_value_is_understood_or_refused(name, value):
    said = outcome(f"{name}={value}")
    assert isinstance(said, ddpm.Config) or name in said


def test_ranges_hold_without_override_too():
    with pytest.raises(InputError, match="batch_size=0"):
        TrainConfig(batch_size=0)


@given(st.integers(1, 5000), st.integers(1, 500))
def test_steps_per_call_divides(steps, log_every):
    config = TrainConfig(steps=steps, log_every=log_every)
    assert steps % config.steps_per_call == 0
    assert 1 <= config.steps_per_call <= log_every
    larger = range(config.steps_per_call + 1, min(log_every, steps) + 1)
    assert not any(steps % d == 0 for d in larger)


@pytest.mark.parametrize("recipe", [ddpm, judge_recipe])
def test_the_table_of_fields_names_every_field_and_preset(recipe):
    lines = presets_table(recipe.PRESETS).split("\n")
    assert lines[0].split() == ["field", *recipe.PRESETS, "meaning"]
    fields = dataclasses.fields(recipe.Config)
    assert [line.split()[0] for line in lines[1:]] == [field.name for field in fields]
    for line, field in zip(lines[1:], fields, strict=True):
        assert line.endswith(field.metadata["help"])
        for config in recipe.PRESETS.values():
            assert re.search(rf"\s{re.escape(str(getattr(config, field.name)))}\s", line)
