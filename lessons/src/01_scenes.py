# %% [markdown]
# # 01 · Scenes
#
# **The one idea:** a data set need not be a pile of files. It can be a pure function: give it a number,
# and it answers with a picture, the truth about the picture, and a caption.
#
# | | |
# |---|---|
# | module | [minidiff/data/scenes.py](../minidiff/data/scenes.py), with `shapes` and `captions` beside it |
# | paper | [CLEVR](https://arxiv.org/abs/1612.06890), which tests vision with made scenes |
# | before this | [00 · Layers](00_layers.ipynb) |
# | minutes | 30 to read and do; less than one to run |
# | loads, saves | nothing |

# %%
import math

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, plot
from minidiff.data import pictures, shapes
from minidiff.data.captions import caption_words, full_caption_words, parse_prompt, to_text
from minidiff.data.scenes import (
    CENTRE_X,
    COLOURS,
    FACTORS,
    RADIUS,
    SUBJECTS,
    UNSEEN_PAIRS,
    SceneSource,
    render,
    render_batch,
    scene,
    scenes,
)
from minidiff.lesson import Lesson
from minidiff.plot import scenes as draw

lesson = Lesson("01_scenes")

# %% [markdown]
# ## A small world
#
# A model that connects pictures and words needs pictures with words, by the thousand. We draw them.
# The drawn world has three gifts: it needs no download, it never runs out, and we know the exact truth
# about every picture. `scenes(seed, split, indices)` draws lots, `render_batch` makes pixels,
# `caption_words` finds words.
#
# **Predict before you run the next cell:** eight pictures with a caption each. How many *kinds* of
# pictures are there in this world, if you look at everything that a caption may mention? Write down a
# guess.

# %%
lesson.predict("...")
draw_scenes = jax.jit(scenes, static_argnums=1)
to_pixels = jax.jit(render_batch, static_argnums=1)
caption = jax.jit(jax.vmap(caption_words))

count = 2000
train = draw_scenes(0, "train", jnp.arange(count))
images = to_pixels(train, 16)  # (2000, 16, 16, 3) in [-1, 1]
told = to_text(caption(jax.random.split(jax.random.key(1), count), train))
lesson.show(plot.contact_sheet(np.asarray(images[:8]), told[:8]))

# %% [markdown]
# ## Factors
#
# Behind each picture stands a `Scene`: a record of numbers. Seven of them are **factors**, choices
# from a short list. The others are **jitter**: small continuous changes of place, size, tilt and
# colour, so that no two pictures are the same.

# %%
for name, values in FACTORS.items():
    print(f"{name:10} {', '.join(values)}")
kinds = math.prod(len(values) for values in FACTORS.values())
print("kinds of pictures:", kinds)
lesson.outcome(f"{kinds} kinds")
lesson.claim(kinds == 8 * 8 * 6 * 4 * 2 * 3 * 2 == 18_432)

# %% [markdown]
# Here is one scene, with one factor changed at a time. A `Scene` is a pytree, so a stack of scenes is
# one `jax.tree.map`.

# %%
base = jax.tree.map(lambda leaf: leaf[0], train)
for name, value in zip(FACTORS, (2, 3, 1, 0, 1, 1, 0), strict=True):  # a cat in a meadow
    base = base.replace(**{name: jnp.int32(value)})
base = base.replace(x=jnp.float32(0), radius=jnp.float32(0.66), tilt=jnp.float32(0))
# Three factors stand for numbers of the scene as well.
stands_for = {"colour": ("rgb", pictures.SUBJECT_COLOURS), "size": ("radius", RADIUS)}
stands_for["position"] = ("x", CENTRE_X)


def variant(name, value):
    field, table = stands_for.get(name, (name, np.arange(8, dtype=np.int32)))
    return base.replace(**{name: jnp.int32(value)}).replace(**{field: jnp.asarray(table[value])})


# %%
changes = [(name, value) for name, values in FACTORS.items() for value in range(len(values))]
stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[variant(*one) for one in changes])
drawn = np.asarray(to_pixels(stack, 32))
rows = [
    (name, drawn[[i for i, one in enumerate(changes) if one[0] == name]], values)
    for name, values in FACTORS.items()
]
lesson.show(draw.variations(rows))

# %% [markdown]
# ## How far is it to the edge?
#
# How does one draw a cat with arrays? Not line by line. For every pixel at once we compute one number,
# the **signed distance** to the edge of a shape: below zero inside, zero on the edge, above zero
# outside. For a circle with centre $c$ and radius $r$:
#
# $$d(p) = \lVert p - c \rVert - r$$
#
# The picture is the square from -1 to 1, $x$ to the right and $y$ upwards.

# %%
x = jnp.array([0.0, 0.5, 1.0, 0.6])[None, :]  # four points (x, y)
y = jnp.array([0.0, 0.0, 0.0, 0.8])[None, :]
print(shapes.disc(x, y, 0.0, 0.0, 0.5))
lesson.agree(shapes.disc(x, y, 0.0, 0.0, 0.5), [[-0.5, 0, 0.5, 0.5]], atol=2e-4)

# %% [markdown]
# ### Exercise 1.1 · A circle (★, 4 minutes)
#
# Write `my_circle_distance(x, y, centre_x, centre_y, radius)`. `x` and `y` are arrays of the same
# shape, the other three are numbers. `checks.circle_distance.hint()` helps.


# %%
def my_circle_distance(x, y, centre_x, centre_y, radius):
    # your code here, in place of the next line
    raise NotImplementedError


checks.circle_distance(my_circle_distance)

# %% [markdown]
# Distances are easy to combine. A point is in one shape *or* another if the smaller distance is below
# zero, in one *and* another if the larger one is.
#
# **Predict before you run the next cell:** which outline do the minimum and the maximum have?


# %%
lesson.predict("...")


def grid(size):
    line = (jnp.arange(size) + 0.5) * (2 / size) - 1  # the centres of the pixels
    return jnp.meshgrid(line, -line)  # rows go down, y goes up


x, y = grid(64)
circle = shapes.disc(x, y, 0.0, 0.25, 0.5)
box = shapes.box(x, y, 0.0, -0.35, 0.7, 0.35)
panels = {"circle": circle, "box": box}
panels |= {"minimum": jnp.minimum(circle, box), "maximum": jnp.maximum(circle, box)}
lesson.show(draw.fields(panels, contour=True))

# %% [markdown]
# The black line is the edge, blue is inside. The minimum joins the two, the maximum keeps what they
# share. A cat is about a dozen such shapes, and `jnp.abs(u)` draws both ears at once:

# %%
lesson.source(shapes.cat)

# %% [markdown]
# ## Edges in pixels
#
# Colouring every pixel whose distance is below zero gives stairs. A pixel on the edge should be covered
# in part. The distance says how much: half a pixel inside it is 1, on the edge 1/2, half a pixel
# outside 0.
#
# ### Exercise 1.2 · Coverage (★★, 5 minutes)
#
# Write `my_coverage(distance, pixels_per_unit)`: a number from 0 to 1 for each pixel. `distance` is in
# units of the picture, and a unit is `pixels_per_unit` pixels wide.


# %%
def my_coverage(distance, pixels_per_unit):
    # your code here, in place of the next line
    raise NotImplementedError


checks.coverage(my_coverage)

# %% [markdown]
# How good is this? The truth is known: draw the hard edge at 32 times the size and take the mean of
# each square of 32 × 32. Then measure on the pixels that the edge crosses.


# %%
def circle_at(size):
    return shapes.disc(*grid(size), 0.1, -0.05, 0.6)


hard = np.asarray(circle_at(16) < 0, float)
soft = np.asarray(checks.coverage.solution(circle_at(16), 8.0))
truth = np.asarray(circle_at(512) < 0, float).reshape(16, 32, 16, 32).mean((1, 3))
lesson.show(draw.fields({"hard": hard, "by distance": soft, "the truth": truth}))
crossed = (truth > 0) & (truth < 1)
off = {name: np.abs(a - truth)[crossed].mean() for name, a in (("hard", hard), ("soft", soft))}
lesson.expect("error of a hard edge", off["hard"], 0.18, 0.22)
lesson.expect("error of the distance's", off["soft"], 0.0, 0.05)

# %% [markdown]
# The picture is then painted from back to front. Each layer moves the canvas towards its colour, by its
# coverage. This is the function that does it:

# %%
lesson.source(pictures._paint)

# %% [markdown]
# ## A picture has slopes
#
# Coverage has a second gift. A hard edge jumps, a soft one slides: move the cat by a hair, and every
# pixel on its edge changes by a little. So the picture has a slope in each number it was drawn from.
#
# `jax.grad` is for many numbers in and one out. Here it is one number in and many out: `jax.jacfwd`
# finds the slope of every pixel.
#
# **Predict before you run the next cell:** where is the slope zero if the cat moves right? If it grows?

# %%
lesson.predict("...")
numbers = {"x": base.x, "radius": base.radius, "tilt": base.tilt}


@jax.jit
def picture(numbers):
    return render(base.replace(**numbers), 32)


slopes = jax.jit(jax.jacfwd(picture))(numbers)
names = {"x": "it moves right", "radius": "it grows", "tilt": "it turns left"}
shown = {names[name]: slopes[name] for name in numbers}
lesson.show(draw.slopes(np.asarray(picture(numbers)), shown))

# %% [markdown]
# Within an even colour nothing changes: the slopes are on the edges. Red pixels become brighter, blue
# ones darker. Is it true? Move the cat by a thousandth of a pixel and see what changes.

# %%
hair = 0.001 * 2 / 32
moved = picture(numbers | {"x": numbers["x"] + hair})
change = np.asarray((moved - picture(numbers)) / hair)
alike = np.corrcoef(change.ravel(), np.ravel(slopes["x"]))[0, 1]
lesson.expect("correlation of slopes and change", alike, 0.995, 1.0)

# %% [markdown]
# Later a network will be asked how a picture must change to fit a caption better. That is a slope too.
#
# ## Captions
#
# A caption is made from the scene by a small grammar: an order of phrases is drawn, synonyms are drawn,
# and factors are left out at random, as people do. Six captions of one scene, after the complete one:

# %%
i = 3
first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[i], leaf.shape), train)
others = to_text(caption(jax.random.split(jax.random.key(2), count), first))
print(to_text(jax.jit(full_caption_words)(jax.tree.map(lambda leaf: leaf[i], train))))
for text in others[:6]:
    print(" ", text)
with_size = np.mean(["size" in parse_prompt(text)[0] for text in others])
lesson.expect("captions that mention the size", with_size, 0.45, 0.55)

# %% [markdown]
# A caption leaves things out, but it never lies. We can check that, for `parse_prompt` reads a caption
# back, and the scene holds the truth.

# %%
stated, known = 0, jax.device_get(train)  # NumPy arrays, quick to look into
for i, text in enumerate(told):
    said, unknown = parse_prompt(text)
    lesson.claim(not unknown)
    for name, value in said.items():
        lesson.claim(value == FACTORS[name][getattr(known, name)[i]])
        stated += 1
lesson.expect("statements in a caption", stated / count, 4.3, 5.0)

# %% [markdown]
# ## Splits
#
# A model is trained on one part of the data and measured on another that it never saw. The parts are
# called **splits**. `train` and `test` are alike, but share no picture. The split `unseen` is another
# kind of question. `train` has red men and blue cats, but some pairs of subject and colour never occur
# in it; `unseen` shows these alone.
#
# **Predict before you run the next cell:** 2000 scenes over 64 pairs. How many does a table have in
# each cell?

# %%
lesson.predict("...")
unseen = draw_scenes(0, "unseen", jnp.arange(count))
tables = {}
for name, drawn in (("train", train), ("unseen", unseen)):
    tables[name] = np.zeros((8, 8), int)
    np.add.at(tables[name], (drawn.subject, drawn.colour), 1)
lesson.show(draw.pair_counts(tables, SUBJECTS, COLOURS))
filled = {name: f"{table[table > 0].mean():.0f} in {name}" for name, table in tables.items()}
lesson.outcome(f"{', '.join(filled.values())} in the mean of the cells that are not empty")

# %% [markdown]
# Eight cells are empty, and the others have about 2000 / 56 = 36 scenes each. Each subject occurs in
# seven colours, and each colour on seven subjects. So every *word* has been seen. Who has understood
# that a colour is a colour, whatever wears it, can name the unseen pairs as well. That is
# **compositional generalisation**, and lesson 10 asks it of a model that draws.
#
# ### Exercise 1.3 · Was it seen? (★★, 5 minutes)
#
# Write `my_is_unseen(pairs, subject, colour)`. `pairs` is a tuple of (subject, colour), such as
# `UNSEEN_PAIRS`; `subject` and `colour` are arrays of integers, a number for each scene. Return an
# array of True and False.


# %%
def my_is_unseen(pairs, subject, colour):
    # your code here, in place of the next line
    raise NotImplementedError


checks.is_unseen(my_is_unseen)

# %% [markdown]
# Two more splits are questions as well. In `pairs`, scenes 0 and 1 differ in one factor and nothing
# else, 2 and 3 again; the first figure names the factor. In `two` there are two things in one picture,
# and the question is whose colour is whose.

# %%
lesson.claim({tuple(pair) for pair in np.argwhere(tables["train"] == 0)} == set(UNSEEN_PAIRS))
lesson.claim({tuple(pair) for pair in np.argwhere(tables["unseen"] > 0)} == set(UNSEEN_PAIRS))
pairs = draw_scenes(0, "pairs", jnp.arange(count))
two = draw_scenes(0, "two", jnp.arange(count))
paired, double = (np.asarray(to_pixels(drawn, 16)[:12]) for drawn in (pairs, two))
values = np.stack([getattr(pairs, name) for name in FACTORS], axis=1)
differ = values[0::2] != values[1::2]
lesson.claim((differ.sum(axis=1) == 1).all())
changed = [list(FACTORS)[i] for i in differ[:6].argmax(axis=1)]
lesson.show(plot.strips([("scene 2k", paired[0::2]), ("2k + 1", paired[1::2])], changed))
lesson.show(plot.contact_sheet(double[:6], title="two"))

# %% [markdown]
# ## Learning by heart
#
# Is `unseen` really harder? Let us ask the simplest model that there is. It keeps the 2000 training
# pictures. Shown a new one, it looks for the most similar, pixel by pixel, and says what that one was.
#
# **Predict before you run the next cell:** how often does it name subject and colour both right, on
# `test` and on `unseen`?


# %%
lesson.predict("...")


def by_heart(drawn):
    """How often the nearest training picture has the subject, the colour, both."""
    asked = np.asarray(to_pixels(drawn, 16)).reshape(count, -1)
    known = np.asarray(images).reshape(count, -1)
    nearest = np.argmin(np.sum(known**2, axis=1)[None] - 2 * asked @ known.T, axis=1)
    subject = np.asarray(drawn.subject) == np.asarray(train.subject)[nearest]
    colour = np.asarray(drawn.colour) == np.asarray(train.colour)[nearest]
    return {"subject": subject.mean(), "colour": colour.mean(), "both": (subject & colour).mean()}


test = draw_scenes(0, "test", jnp.arange(count))
results = {"test": by_heart(test), "unseen": by_heart(unseen)}
lesson.show(draw.shares(results))
lesson.outcome(", ".join(f"{name} {share['both']:.0%}" for name, share in results.items()))

# %% [markdown]
# On `test` it looks like a fair beginner. On `unseen` it is never right, and cannot be: it can only
# name pairs that it has kept. A number on `test` alone would not have told you.
#
# ## The same picture for everyone
#
# Scene 25 of `train` is scene 25 whether you ask for it alone, in a batch of 8, or on another machine:
# its key is made by `fold_in` from seed, split and index, and nothing else. So a run that was stopped
# goes on with the very pictures it would have seen. `SceneSource` is what the trainings of this course
# use: `batch(step)` answers pictures, factors and captions, and can be compiled into the training step,
# so that the pictures are drawn where they are needed.

# %%
lesson.expect("test, both right", results["test"]["both"], 0.45, 0.60)
lesson.expect("unseen, both right", results["unseen"]["both"], 0, 0)
source = SceneSource(batch_size=8)
batch = jax.jit(source.batch)(3)  # scenes 24 to 31
print({name: leaf.shape for name, leaf in batch.items()})
lesson.agree(batch["image"][1], images[25], atol=1e-5)

alone = jax.jit(scene, static_argnums=1)(0, "train", 25)
jax.tree.map(lambda one, all_: lesson.agree(one, all_[25], atol=1e-6), alone, train)
lesson.source(SceneSource.batch)

# %% [markdown]
# ## Break it: forget the split
#
# The split is part of the key. Suppose somebody forgets it, so that `test` is drawn with the key of
# `train`. No error, the pictures look fine.
#
# **Predict before you run the next cell:** what does the model that learns by heart get?

# %%
lesson.predict("...")
leaked = draw_scenes(0, "train", jnp.arange(count))  # should have been "test"
results = {"test": results["test"], "test, leaked": by_heart(leaked)}
lesson.show(draw.shares(results))
lesson.outcome(f"{results['test, leaked']['both']:.0%} with both right")

# %% [markdown]
# Everything is right, and nothing was understood: the test pictures *are* the training pictures. A
# result that is too good is worth a look at the data first.
#
# ## Recap
#
# - A scene is a record of factors and jitter; picture and caption are functions of it.
# - Shapes are signed distances: minimum joins, maximum intersects.
# - Coverage turns a distance into a soft edge, and gives the picture slopes.
# - Example $i$ is a pure function of (seed, split, $i$), for any batch size.
# - `test` asks about new pictures, `unseen` about new combinations.
#
# **Pitfalls.** Rows count down while $y$ goes up; pictures in [0, 255] or [0, 1] where [-1, 1] is meant;
# a test set that overlaps with training; random numbers that depend on the batch size.
#
# ## Quiz
#
# 1. How many subject and colour pairs does `train` show?
#
# <details><summary>Answer</summary> 8 · 8 - 8 = 56.</details>
#
# 2. $d_1 = -0.2$ and $d_2 = 0.3$ at some point. Is it in the union? In the intersection?
#
# <details><summary>Answer</summary> The minimum is -0.2: in the union. The maximum is 0.3: not in the
# intersection.</details>
#
# 3. Why does the module add 1e-8 under the root in `shapes.disc`?
#
# <details><summary>Answer</summary> The slope of the root is infinite at 0, so at the very centre
# `grad` would answer NaN.</details>
#
# 4. A model names subjects right in 90% of `unseen` and colours in 30%. What has it learned?
#
# <details><summary>Answer</summary> Subjects, more or less apart from colours. Its colours hang on the
# subjects that wore them in training.</details>
#
# ## References
#
# Johnson and others: [CLEVR](https://arxiv.org/abs/1612.06890), 2017. Inigo Quilez:
# [2D distance functions](https://iquilezles.org/articles/distfunctions2d/). Lake, Baroni:
# [Generalization without systematicity](https://arxiv.org/abs/1711.00350), 2018.
#
# **Next:** [02 · Contrastive](02_contrastive.ipynb) brings pictures and words together.

# %%
lesson.expect("leaked test, both right", results["test, leaked"]["both"], 1, 1)
# The numbers of the quiz.
lesson.claim(np.sum(tables["train"] > 0) == 8 * 8 - 8 == 56 and round(2000 / 56) == 36)
met = checks.is_unseen.solution
lesson.claim(not met(UNSEEN_PAIRS, train.subject, train.colour).any())
lesson.claim(met(UNSEEN_PAIRS, unseen.subject, unseen.colour).all())
centre = jax.grad(lambda u: shapes.disc(*jnp.full((2, 1, 1), u), 0.0, 0.0, 0.5)[0, 0])(0.0)
plain = jax.grad(lambda u: jnp.sqrt(u**2 + u**2))(0.0)
lesson.claim(np.isfinite(centre) and np.isnan(plain))
