# %% [markdown]
# # 05 · CLIP
#
# **The one idea:** one network for images and one for texts, trained so that an image and its
# caption end in the same place: then pictures and words can be compared.
#
# | | |
# |---|---|
# | module | [minidiff/clip.py](../minidiff/clip.py) |
# | recipe | [minidiff/recipes/clip.py](../minidiff/recipes/clip.py) |
# | paper | [Learning Transferable Visual Models](https://arxiv.org/abs/2103.00020), section 2 |
# | before this | [04](04_text.ipynb), [03](03_vit.ipynb), [02](02_contrastive.ipynb) |
# | minutes | 2 on two cores, without your own |
# | loads, saves | loads the reference CLIP, to compare with; saves nothing |

# %%
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, plot
from minidiff.clip import CLIP
from minidiff.contrastive import clamp_log_scale, contrastive_loss
from minidiff.data.scenes import SceneSource
from minidiff.data.tokens import some_captions
from minidiff.layers import count_parameters
from minidiff.lesson import Lesson
from minidiff.measure import exam, metrics
from minidiff.recipes import clip as recipe
from minidiff.text import Tokenizer
from minidiff.trained.encoder import Encoder
from minidiff.training.state import TrainState, fit, make_optimizer, make_train_step

lesson = Lesson("05_clip")

# %% [markdown]
# ## Which caption belongs to which image?
#
# Here are eight scenes of the test split, which no training sees, each above its caption.

# %%
test_source = SceneSource(split="test", batch_size=256)
test = jax.jit(test_source.batch)(0)
images, captions = np.asarray(test["image"]), test_source.captions(test)
lesson.show(plot.contact_sheet(images[:8], captions[:8]))

# %% [markdown]
# A caption need not tell everything: some leave out the place, the size, even the colour. If you
# were given the pictures and the captions in disorder, you would hardly make a mistake. A network
# that has never seen either cannot do it. We will let it try on 256 of each.
#
# ## Two towers, one space
#
# The image encoder of lesson 03 turns an image into a vector, the text encoder of lesson 04 a
# caption. The two vectors come from different networks. They may differ in length, and even where
# they do not, the third number of one has nothing to do with the third of the other. So behind each
# tower stands a **projection**: one matrix, without bias, to a common length, here 64. That common
# space is all that the towers share, and it has no meaning until training gives it one.

# %%
preset = recipe.PRESETS["cpu"]
if lesson.preset == "smoke":
    preset = dataclasses.replace(preset, width=64, layers=1, text_layers=1)
tokenizer = Tokenizer.learn(some_captions(SceneSource()), preset.vocabulary)
tokens = SceneSource().tokenized(tokenizer).tokens
towers = preset.towers(SceneSource().image_shape, tokenizer, tokens.context)
init = jax.jit(CLIP.init, static_argnums=1)
untrained = init(jax.random.key(0), towers)

for name in ("image", "image_projection", "text", "text_projection"):
    print(f"{name:17s}{count_parameters(getattr(untrained, name)):9,} numbers")
print("log_scale is one number:", untrained.log_scale)
lesson.claim(untrained.image_projection.weight.shape == (preset.width, preset.embedding))

# %% [markdown]
# ## The cosine, scaled
#
# How well do an image and a text go together? By the cosine of their embeddings, as in lesson 02,
# times a **scale**. With $I_i$ and $T_j$ the embeddings, brought to length 1:
#
# $$\text{logits}_{ij} = e^{\text{log\_scale}} \; I_i \cdot T_j$$
#
# A softmax along row $i$ turns the logits of image $i$ into a probability for each text.
#
# ### Exercise 5.1 · Logits (★, 5 minutes)
#
# Write `my_clip_logits(clip, images, ids)`, shape `(images, texts)`. You have `clip.encode_images`,
# `clip.encode_texts` and `clip.log_scale`. What they return is not of length 1.
# `checks.clip_logits.hint()` gives hints, one more at each call. Left out, the lesson goes on.


# %%
def my_clip_logits(clip, images, ids):
    # your code here, in place of the next line
    raise NotImplementedError


checks.clip_logits(my_clip_logits)

# %%
lesson.source(CLIP.logits)

# %% [markdown]
# ## Why a scale?
#
# One image, four texts, with cosines 0.8, 0.5, 0.3 and 0. The first is the right one, clearly
# ahead. **Predict:** which probability does a softmax of the bare cosines give it?

# %%
lesson.predict("...")
cosines = np.array([0.8, 0.5, 0.3, 0.0])
chances = {s: np.exp(s * cosines) / np.exp(s * cosines).sum() for s in (1, 14.3, 100)}
for scale, values in chances.items():
    print(f"scale {scale:5}: ", np.round(values, 3))
lesson.outcome(f"{chances[1][0]:.2f}")

# %% [markdown]
# 0.36, not much more than the others. A cosine ends at 1, so a softmax of cosines can never be
# certain. With many texts this becomes absurd. Suppose an encoder is perfect: 1 for the right text,
# $-1$ for the 255 others. At scale 1 its loss is still
#
# $$-\log \frac{e^1}{e^1 + 255\, e^{-1}} = \log(1 + 255\, e^{-2}) = 3.57$$
#
# Compare it with **log N**, the loss of an encoder that knows nothing and gives all N texts the
# same probability: $\log 256 = 5.55$. A loss says nothing until you know its log N, so we print it
# beside every loss. Many a CLIP has been stuck there with nobody noticing.

# %%
N = 256
first = [values[0] for values in chances.values()]
lesson.agree(first, [0.358, 0.986, 1.0], atol=5e-4)
lesson.agree(math.log(1 + 255 * math.exp(-2)), 3.57, atol=0.005)
lesson.agree(math.log(N), 5.55, atol=0.005)

# %% [markdown]
# So the scale is learned with everything else. It begins at $1/0.07 = 14.3$. The 0.07 is called the
# **temperature**: a hot softmax (small scale) is undecided, a cold one (large scale) certain. What
# is stored is the logarithm, so that the scale cannot become negative. And it has bounds. Certainty
# is cheap: once the pairs are found, a larger scale lowers the loss without learning anything, and
# the authors saw training become unstable above 100. So after each step it is put back into [1,
# 100].
#
# ### Exercise 5.2 · The clamp (★, 3 minutes)
#
# Write `my_clamp_log_scale(log_scale)`: `log_scale`, moved as little as it takes for the scale to
# be between 1 and 100.


# %%
def my_clamp_log_scale(log_scale):
    # your code here, in place of the next line
    raise NotImplementedError


checks.clamp_log_scale(my_clamp_log_scale)

# %% [markdown]
# ## A number that can be trusted
#
# The loss depends on the scale and on N. What we want to know is plainer: for how many images is
# the right caption the nearest? That is **recall at 1**. Two things need care. Two scenes may have
# the same caption, then either will do: `relevant[i, j]` says whether text $j$ is right for image
# $i$. And ties: a *collapsed* encoder gives everything the same vector. All its cosines are equal,
# and whoever counts ties as found calls it perfect. So a tie is a miss.
#
# ### Exercise 5.3 · Recall at 1 (★★, 8 minutes)
#
# Write `my_recall_at_1(similarity, relevant)`: both `(images, texts)`, the second of True and
# False. The share of rows in which the best relevant text is above all that are not relevant.


# %%
def my_recall_at_1(similarity, relevant):
    # your code here, in place of the next line
    raise NotImplementedError


checks.recall_at_1(my_recall_at_1)

# %%
relevant = recipe.same_text(captions)


def measure(clip, tokenizer=tokenizer):
    """Cosines of the test images (rows) and captions (columns), and recall at 1 both ways."""
    score = recipe.similarity(Encoder(clip, tokenizer), images, captions)
    return score, metrics.recall(score, relevant, 1), metrics.recall(score.T, relevant.T, 1)


before, to_text, to_image = measure(untrained)
ids = jnp.asarray(tokenizer(captions, tokens.context))
loss = jax.jit(recipe.pair_loss)(untrained, images, ids)
print(f"untrained: loss {loss:.2f}, log N {math.log(N):.2f}, recall {to_text:.3f} {to_image:.3f}")
lesson.expect("loss of the untrained, less log N", loss - math.log(N), 0, 2)
lesson.expect("recall of the untrained", to_text, 0, 0.03)

# %% [markdown]
# Chance is $1/256 = 0.004$, and that is where it is. The loss is even *above* log N: it does not
# say "I do not know", it guesses at random, and the scale makes it rather certain of its guesses.
#
# ## Train
#
# The loss is lesson 02's: cross-entropy of the rows and of the columns. Each step draws 256 new
# scenes with captions. The clamp is handed to the training step, which calls it after each update.
# The switch `learned` is 1 now; with 0 the scale gets no gradient and stays what it was, for a
# trial at the end.
#
# **Predict** before you run the next cell: after how many steps will half of the 256 images find
# their caption?


# %%
lesson.predict("...")


def loss(key, model, batch):
    clip, learned = model["clip"], model["learned"] > 0  # frozen: no gradient
    log_scale = jnp.where(learned, clip.log_scale, jax.lax.stop_gradient(clip.log_scale))
    embeddings = clip.encode_images(batch["image"]), clip.encode_texts(batch["ids"])
    return contrastive_loss(*embeddings, log_scale), {"scale": jnp.exp(log_scale)}


def clamp(model):
    clip = model["clip"]
    return {**model, "clip": clip.replace(log_scale=clamp_log_scale(clip.log_scale))}


def make_training(until):
    optimizer = make_optimizer(until, preset.learning_rate, kind=preset.optimizer, warmup=20)
    step = make_train_step(loss, optimizer, ema_decay=0.95, steps=10, constrain=clamp)

    def train(clip, source, learned=1.0):
        """Yield (the averaged CLIP, metrics) after every ten steps."""
        model = {"clip": jax.tree.map(jnp.copy, clip), "learned": jnp.float32(learned)}
        state = TrainState.init(model, optimizer)
        for state, told in fit(jax.random.key(1), state, source, step, until):
            yield state.ema["clip"], {name: float(x.mean()) for name, x in told.items()}

    return train


# %%
until = lesson.pick(smoke=10, cpu=150)
source = SceneSource(batch_size=lesson.pick(smoke=128, cpu=N)).tokenized(tokenizer)
log_n = math.log(source.source.batch_size)
train = make_training(until)
history, matrices = [], [("untrained", before)]
for number, (clip, told) in enumerate(train(untrained, source), 1):
    score, to_text, to_image = measure(clip)
    history.append({**told, "to text": to_text, "to image": to_image})
    if number in (3, 15):
        matrices.append((f"after {10 * number} steps", score))
    if number % 3 == 0:
        now = f"loss {told['loss']:.2f} (log N {log_n:.2f}), recall {to_text:.2f}"
        print(f"step {10 * number}: {now}")

# %% [markdown]
# Here is the matrix of 24 test pairs, three times on one scale. Rows are images, columns captions,
# and the true pairs are on the diagonal.

# %%
lesson.show(plot.similarity_matrices([(name, score[:24, :24]) for name, score in matrices]))

# %% [markdown]
# Untrained there are upright stripes: every image says the same about a caption, so the image makes
# no difference. After 30 steps there is a diagonal, and blocks beside it: things are told apart in
# large groups first. After 150 steps the diagonal stands out. The bright spots beside it are
# captions that are true of a picture, or nearly.

# %%
steps = np.arange(10, until + 1, 10)
column = {name: [line[name] for line in history] for name in history[0]}
panels = [
    ("loss", {"loss": column["loss"], "log N": [log_n] * len(steps)}),
    ("scale", {"scale": column["scale"]}),
    ("recall at 1", {"image to text": column["to text"], "text to image": column["to image"]}),
]
lesson.show(plot.curves(panels, steps, "step"))
half = steps[np.argmax(np.array(column["to text"]) >= 0.5)]
lesson.outcome(f"{half} steps")
lesson.expect("half are found at step", half, 30, 70, trained=True)
lesson.expect("loss in steps 11 to 20", column["loss"][:2][-1], 4, 5.4, trained=True)
lesson.expect("least scale", min(column["scale"]), 13.5, 14.29, trained=True)
lesson.expect("loss at the end", column["loss"][-1], 0.35, 0.9, trained=True)
lesson.expect("scale at the end", column["scale"][-1], 14.5, 25, trained=True)
lesson.expect("recall, image to text", column["to text"][-1], 0.75, 0.95, trained=True)
lesson.expect("recall, text to image", column["to image"][-1], 0.75, 0.95, trained=True)

# %% [markdown]
# The loss falls below log N within 20 steps. The scale waits, even shrinks a little, while there is
# nothing to be certain of, and grows as pairs are found. It stays far from 100: the clamp is for
# long trainings, and costs nothing here.
#
# ## How good could it be?
#
# Not every caption can be found: "a box" is true of many pictures. The renderer knows what is true
# and how likely each caption is, so `exam.ideal_scores` can say what a perfect CLIP would answer.
# And we look at images for which our CLIP prefers another caption than their own. Below each stands
# the one it *found*. **Judge for yourself** which of them are wrong.

# %%
ideal = exam.ideal_scores(np.asarray(test["factors"]), captions)  # -inf: says something false
first = np.isclose(ideal, ideal.max(axis=1, keepdims=True))
ceiling = np.mean((first & relevant).sum(axis=1) / first.sum(axis=1))
lesson.expect("recall of a perfect CLIP", ceiling, 0.94, 0.96)

found = score.argmax(axis=1)
wrong = np.flatnonzero(~relevant[np.arange(N), found])
lesson.show(plot.contact_sheet(images[wrong[:8]], [captions[j] for j in found[wrong[:8]]]))
true = np.isfinite(ideal[wrong, found[wrong]])
print(f"of {len(wrong)} images that find another caption, {true.sum()} find one that is true")
lesson.expect("share of true ones", true.mean(), 0.25, 0.9, trained=True)

# %% [markdown]
# About half of all these "mistakes" are none: the caption is true, only not the one that was drawn
# by lot. Most others are wrong in one thing, such as a colour, a shape or a hat, and right in the
# rest.
#
# ## Longer
#
# The reference weights come from the full recipe, 500 steps of the same network: `minidiff train
# clip --preset cpu --out runs/clip`. Run this command in the folder of this notebook, and `WHOSE =
# "mine"` compares yours. Note that weights and tokenizer belong together.

# %%
WHOSE = "reference"  # or "mine"
reference = recipe.load(lesson.weights("clip", WHOSE))
_, longer_to_text, longer_to_image = measure(reference.clip, reference.tokenizer)
lesson.expect("500 steps: recall, image to text", longer_to_text, 0.87, 0.97)
lesson.expect("500 steps: recall, text to image", longer_to_image, 0.85, 0.97)
lesson.expect("500 steps: scale", jnp.exp(reference.clip.log_scale), 18, 40)

# %% [markdown]
# Very near to what a perfect CLIP could reach.
#
# ## Break it: freeze the scale
#
# How much does it matter? We train a smaller CLIP three times, 100 steps with 128 pairs: with the
# scale learned, frozen at 1, and frozen at 100. At 1 the loss cannot go below
# $\log(1 + 127\,e^{-2}) = 2.90$. **Predict** which of them finds the most captions, and what the
# matrices will look like: where are the cosines far apart, where close together?

# %%
lesson.predict("...")
depth = lesson.pick(smoke=1, cpu=2)
small = dataclasses.replace(preset, width=64, layers=depth, text_layers=1)
small = small.towers(SceneSource().image_shape, tokenizer, tokens.context)
few = SceneSource(batch_size=128).tokenized(tokenizer)
panels, recall, last_loss, spread = [], {}, {}, {}
if lesson.preset == "cpu":
    train = make_training(100)
runs = (("learned", 1, 1 / 0.07), ("frozen at 1", 0, 1), ("frozen at 100", 0, 100))
for name, learned, scale in runs:
    clip = init(jax.random.key(0), small).replace(log_scale=jnp.log(jnp.float32(scale)))
    *_, (clip, told) = train(clip, few, learned)
    score, recall[name], _ = measure(clip)
    last_loss[name], spread[name] = told["loss"], score.std()
    panels.append((f"{name}: recall {recall[name]:.2f}", score[:24, :24]))

# %%
lesson.show(plot.similarity_matrices(panels))
for name in recall:
    print(f"{name:14s} loss {last_loss[name]:.2f}, spread of the cosines {spread[name]:.2f}")
print(f"log N {math.log(128):.2f}")
lesson.outcome(", ".join(f"{found:.0%} {name}" for name, found in recall.items()))
lesson.claim(last_loss["frozen at 1"] > math.log(1 + 127 * math.exp(-2)) > 2.89)
lesson.expect("recall, learned", recall["learned"], 0.33, 0.65, trained=True)
lesson.expect("recall, frozen at 1", recall["frozen at 1"], 0.08, 0.32, trained=True)
lesson.expect("recall, frozen at 100", recall["frozen at 100"], 0.28, 0.62, trained=True)
spreads = spread["frozen at 1"] / spread["frozen at 100"]
lesson.expect("spread of cosines at 1, over that at 100", spreads, 2, 20, trained=True)

# %% [markdown]
# At 1 the cosines are driven to the ends, $-1$ and 1, because there is no other way to be certain.
# What comes out is a few large groups, bright within and dark between, and small differences have
# no room. At 100 all cosines crowd together, since a difference of 0.05 is plenty there. Recall
# heeds the order alone, so the pale matrix finds nearly as many as the learned one, but a cosine of
# 0.3 means something else in each of the three. So never compare cosines of two models.
#
# ## Recap
#
# - Two towers, two projections, one scale. Only the common space is shared.
# - logits = exp(log_scale) · cosine. Without a scale a softmax of cosines cannot be certain.
# - Print log N beside the loss: at log N nothing has been learned. It may begin above.
# - The scale is learned as a logarithm and kept within [1, 100].
# - Recall at 1, with ties as misses, does not depend on the scale. Know its ceiling.
#
# **Pitfalls.** log_scale used without exp; embeddings that are not of length 1; weights with
# another run's tokenizer; captions that are not unique counted as mistakes; losses of different N
# compared.
#
# ## Quiz
#
# 1. Your CLIP's loss is 4.16 for 64 pairs, after an hour. What do you know?
#
# <details><summary>Answer</summary> log 64 = 4.16: it has learned nothing. Look at the matrix: it
# will have stripes, or no pattern at all.</details>
#
# 2. A colleague's loss is 2.0 with N = 256, yours 1.5 with N = 64. Whose model is better?
#
# <details><summary>Answer</summary> The losses cannot tell: yours chose among fewer. Measure recall
# on the same pairs.</details>
#
# 3. All cosines of a trained model lie between 0.2 and 0.4. Is it broken?
#
# <details><summary>Answer</summary> No: with a large scale that is enough. The order
# counts.</details>
#
# 4. Why are there two projections and not one?
#
# <details><summary>Answer</summary> The vectors of the towers have nothing in common, perhaps not
# even their length. Each needs its own way into the common space.</details>
#
# ## References
#
# Radford et al.: [Learning Transferable Visual Models from Natural Language
# Supervision](https://arxiv.org/abs/2103.00020), 2021, figure 3 and section 2.5.
#
# **Next:** [06 · Retrieval](06_retrieval.ipynb) uses what was learned: to classify, to search, and
# to calculate with pictures and words.

# %%
# The number of the quiz.
lesson.agree(math.log(64), 4.16, atol=0.005)
