# %% [markdown]
# # 03 · An image is a sequence of patches
#
# **The one idea:** cut an image into squares, make each square a vector, and let the vectors look
# at one another. One more vector, which stands for the whole image, collects the answer.
#
# | | |
# |---|---|
# | modules | [vit.py](../minidiff/vit.py), [transformer.py](../minidiff/transformer.py) |
# | papers | [2017](https://arxiv.org/abs/1706.03762), [2020](https://arxiv.org/abs/2010.11929) |
# | before this | [02 · Contrastive](02_contrastive.ipynb) |
# | minutes | 45 to read and do; about one to run |
# | loads, saves | loads the image half of the reference CLIP; saves nothing |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from minidiff import checks, plot
from minidiff.contrastive import cross_entropy
from minidiff.data.factors import FACTORS
from minidiff.data.scenes import SceneSource
from minidiff.layers import Linear, depth_to_space
from minidiff.lesson import Lesson
from minidiff.plot import vit as draw
from minidiff.recipes import clip
from minidiff.training.state import TrainState, fit, make_optimizer, make_train_step
from minidiff.transformer import Attention, TransformerBlock, attention
from minidiff.vit import ViT, ViTConfig, patchify

lesson = Lesson("03_vit")
key = jax.random.key(0)

# %% [markdown]
# ## Sixteen squares
#
# Here is a scene, cut into 16 squares of 4 x 4 pixels. On the right are the same squares in another
# order.

# %%
test = jax.jit(SceneSource(split="test", batch_size=1024).batch)(0)
images = test["image"]
patches = patchify(images[:1], 4)  # (1, 16, 48)
order = np.random.default_rng(0).permutation(16)
squares = np.asarray(patches).reshape(16, 4, 4, 3)
panels = [("the scene", images[:1]), ("its patches", squares), ("shuffled", squares[order])]
lesson.show(plot.side_by_side([(name, np.asarray(pixels)) for name, pixels in panels]))

# %% [markdown]
# **Predict, and write down:** suppose a network sees the 16 squares and not where each one was,
# like cards in a bag. Could it still name the subject? Could it say whether the object stands left,
# in the middle or right? At the end of this lesson you will have trained that network.
#
# ## Cut and put back
#
# A **patch** is a square of pixels, written as one row of numbers: line by line, and for each pixel
# its channels. On a 4 x 4 image with one channel, patches of 2 x 2:

# %%
lesson.predict("...")
tiny = jnp.arange(16.0).reshape(1, 4, 4, 1)
print(tiny[0, :, :, 0])
print(patchify(tiny, 2)[0])
back = depth_to_space(patches.reshape(1, 4, 4, 48), 4)  # four rows of four patches

# %% [markdown]
# ### Exercise 3.1 · Cut (★★, 8 minutes)
#
# Write `my_patchify(images, patch)`: from `(batch, height, width, channels)` to `(batch, patches,
# patch * patch * channels)`. Patches in the order in which you read a page. It can be done by
# `reshape`, one `transpose`, and `reshape`.


# %%
def my_patchify(images, patch):
    # your code here, in place of the next line
    raise NotImplementedError


checks.patchify(my_patchify)

# %% [markdown]
# A linear layer turns each patch of 48 numbers into a vector. Such a vector is called a **token**,
# and from here on nothing knows that it came from an image. Lesson 04 feeds words into the same
# machine.
#
# ## Attention on four tokens
#
# Tokens have to exchange what they know. In **attention** every token sends out three vectors: a
# **query** (what am I looking for?), a **key** (what do I have to offer?) and a **value** (what do
# you get if you take me?). Query and key are compared by a dot product. A softmax over the keys
# makes weights of it, and the token takes home the mean of all values by these weights:
#
# $$\text{attention}(Q, K, V) = \text{softmax}\Big(\frac{Q K^T}{\sqrt d}\Big)\, V$$
#
# with $d$ the length of a query. Four tokens, $d = 2$. The keys point right, up, left and down.
# Token 0 looks up, strongly; token 1 up, weakly; token 2 looks to the lower left; token 3 does not
# care.

# %%
lesson.claim(patchify(tiny, 2)[0, 1].tolist() == [2, 3, 6, 7])  # upper right
lesson.claim((back == images[:1]).all())  # nothing is lost
k = jnp.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
q = jnp.array([[0.0, 4], [0, 1], [-3, -3], [0, 0]])
v = jnp.array([[10.0], [20], [30], [40]])
scores = q @ k.T / jnp.sqrt(2.0)
weights = jnp.exp(scores) / jnp.exp(scores).sum(axis=1, keepdims=True)
out = weights @ v
panels = [("scores", scores, "query", "key"), ("weights", weights, "query", "key")]
panels += [("values", v, "key", ""), ("taken home", out, "query", "")]
lesson.show(draw.numbers([(a, np.asarray(b), c, d) for a, b, c, d in panels]))

# %%
lesson.agree(weights.sum(axis=1), 1, rtol=1e-6)
lesson.agree(weights[3], 0.25)
lesson.agree(out[3], (10 + 20 + 30 + 40) / 4)
heads = [x[None, :, None] for x in (q, k, v)]  # (batch, tokens, heads, width)
lesson.agree(attention(*heads)[0, :, 0], out, rtol=1e-5)
lesson.expect("of token 1 taken by token 0", weights[0, 1], 0.89, 0.90)

# %% [markdown]
# Read the second table by rows. Row 0: 89% on key 1, so token 0 takes home nearly the 20. Row 2
# shares between left and down, and gets about 35. Row 3 takes the plain mean, 25. Everything here
# is smooth, so gradient descent can teach the network what to ask and what to offer.
#
# ## Why the root of d
#
# If the numbers in q and k are independent with variance 1, each product $q_i k_i$ has variance 1,
# and the sum of $d$ of them variance $d$. Scores grow like $\sqrt d$. **Predict:** with 16 random
# keys and $d = 256$, how much weight does the strongest key get without the root? With it?

# %%
lesson.predict("...")
widths, strongest, spread = (1, 4, 16, 64, 256), {"without the root": [], "with it": []}, []
rng = np.random.default_rng(0)
for d in widths:
    q, k = rng.standard_normal((2, 2000, 16, d), dtype=np.float32)
    dots = np.einsum("nd,nkd->nk", q[:, 0], k)
    spread.append(dots.std())
    for name, by in (("without the root", 1.0), ("with it", d**0.5)):
        weights = np.exp(dots / by - (dots / by).max(axis=1, keepdims=True))
        strongest[name].append((weights.max(axis=1) / weights.sum(axis=1)).mean())
lesson.show(plot.curves([("weight of the strongest key", strongest)], widths, "d"))
lesson.outcome(", ".join(f"{shares[-1]:.2f} {name}" for name, shares in strongest.items()))

# %% [markdown]
# Without the root, a wide network begins by taking one token at random and ignoring the others.
# Worse, a softmax that is sure of itself is flat: its slope in its own score is $p(1 - p)$, zero at
# $p = 1$. So descent could hardly change its mind. With the root, $d$ does not matter.
#
# ### Exercise 3.2 · Where to look (★★, 8 minutes)
#
# Write `my_attention_weights(q, k)`. One thing is new: **heads**. A token's vector is split into
# parts, each part attends for itself, so that a token can look for several things at once. `q` is
# `(batch, queries, heads, d)`, `k` is `(batch, keys, heads, d)`, and the result is `(batch, heads,
# queries, keys)`.


# %%
def my_attention_weights(q, k):
    # your code here, in place of the next line
    raise NotImplementedError


checks.attention_weights(my_attention_weights)

# %% [markdown]
# ### Exercise 3.3 · What to take (★, 5 minutes)
#
# Write `my_attention(q, k, v)`, with `v` of k's shape: the mean of the values by the weights, shape
# `(batch, queries, heads, d)`. Use `attention_weights`, yours or the module's.


# %%
def my_attention(q, k, v):
    # your code here, in place of the next line
    raise NotImplementedError


checks.attention(my_attention)

# %% [markdown]
# ## Read the module
#
# Queries, keys and values are linear layers of the tokens. A **block** of a transformer lets tokens
# look at one another (attention), then lets each think for itself (a small network, the MLP). Both
# add to what came in. Blocks are stacked.

# %%
lesson.agree(spread, np.sqrt(widths), rtol=0.03)
lesson.expect("strongest of 16, d = 256, without", strongest["without the root"][-1], 0.8, 1.0)
lesson.expect("the same with the root", strongest["with it"][-1], 0.2, 0.35)
lesson.source(Attention.project)
lesson.source(TransformerBlock.__call__)

# %% [markdown]
# The ViT puts one more token in front, the **class token**, whose start is learned and the same for
# all images. To each token it adds a learned vector of its place: the **position**. After the
# blocks only the class token is read.

# %%
lesson.source(ViT.embed)
lesson.source(ViT.__call__)

# %% [markdown]
# ## Without positions it is a bag
#
# Nothing in attention knows who sits where: it is a mean over all tokens. Take the positions away,
# and the order of the patches cannot matter.

# %%
vit = jax.jit(ViT.init, static_argnums=1)(key, ViTConfig(width=64, layers=2))
bag = vit.replace(positions=jnp.zeros_like(vit.positions))
run = jax.jit(lambda vit, images: vit(images))


def shuffle(images, order):
    moved = patchify(images, 4)[:, order]
    return depth_to_space(moved.reshape(len(images), 4, 4, 48), 4)


moved = shuffle(images[:8], order)
lesson.agree(run(bag, moved), run(bag, images[:8]), atol=1e-4)
difference = np.abs(np.asarray(run(vit, moved) - run(vit, images[:8]))).max()
lesson.expect("largest difference with positions", difference, 0.1, 10)

# %% [markdown]
# Without positions the two pictures at the top of this lesson give the same vector, to the last
# digits. The positions are the only thing that makes a picture of the patches.
#
# ## Where does a trained one look?
#
# The image half of the reference CLIP has 4 layers of 4 heads. For each head, row 0 of its weights
# says where the class token looks. There are 16 such maps of 4 x 4 for every picture. We look for
# two: the head whose gaze moves most to the right when the object does, and the head whose gaze
# moves most to the left.

# %%
WHOSE = "reference"  # or "mine": trained by lesson 05
tower = clip.load(lesson.weights("clip", WHOSE)).clip.image
stages = jax.jit(lambda vit, images: vit.stages(images))(tower, images)
layers, heads = tower.config.layers, tower.config.heads
maps = np.stack([np.asarray(stages[f"attention.{i}"])[:, :, 0, 1:] for i in range(layers)], axis=1)
maps = maps.reshape(len(images), layers * heads, 4, 4)
column = (maps.sum(axis=2) * np.arange(4)).sum(axis=2) / maps.sum(axis=(2, 3))  # where on average
place = np.asarray(test["factors"])[:, list(FACTORS).index("position")]
gaze = np.stack([column[place == i].mean(axis=0) for i in range(3)])  # left, middle, right
follows, avoids = int(np.argmax(gaze[2] - gaze[0])), int(np.argmin(gaze[2] - gaze[0]))
lesson.expect("columns that one head follows", (gaze[2] - gaze[0])[follows], 0.4, 2)
lesson.expect("columns that another moves", (gaze[2] - gaze[0])[avoids], -3, -0.4)


# %%
def name(head):
    return f"layer {head // heads}, head {head % heads}"


chosen = {name(head): maps[:6, head] for head in (follows, avoids)}
chosen["last layer, all heads"] = maps[:6, -heads:].mean(axis=1)
words = [FACTORS["position"][i] for i in place[:6]]
lesson.show(draw.attention_maps(np.asarray(images[:6]), words, chosen))

# %% [markdown]
# Layers and heads count from 0. The first head lies on the object or its edge. The second lies on
# the corner of the ground that the object leaves free: the ground there tells the background, and
# nothing is in the way. Nobody taught the heads these jobs. Over all 1,024 test scenes, sorted by
# position:

# %%
means = np.stack([images[place == i].mean(axis=0) for i in range(3)])
average = {name(h): np.stack([maps[place == i, h].mean(axis=0) for i in range(3)])
           for h in (follows, avoids)}  # fmt: skip
lesson.show(draw.attention_maps(means, FACTORS["position"], average))

# %% [markdown]
# In the left column all scenes of a position are averaged: a blurred object moves to the right. The
# first head moves with it by a column of patches, the second jumps from the right corner to the
# left one.
#
# A word of care: a map says where a head looked. From layer 1 on, the token found there has already
# mixed with others, so it does not say what was seen.
#
# ## Train one
#
# Two small networks: one with positions, and the bag of the beginning, whose positions stay zero.
# Each answers three questions about a scene, with a linear layer for each that turns the image's
# vector into logits.
#
# - **subject**: which of 8?
# - **position**: left, middle or right?
# - **arrangement**: before the network sees a scene, we exchange its left and right halves (1),
#   or upper and lower (2), or both (3), or nothing (0). Which was it?


# %%
@struct.dataclass
class Namer:
    vit: ViT
    heads: tuple[Linear, ...]
    places: float  # 1: with positions; 0: a bag

    @classmethod
    def init(cls, key, places, answers=(8, 3, 4), width=64):
        first, *rest = jax.random.split(key, 1 + len(answers))
        vit = ViT.init(first, ViTConfig(width=width, layers=2))
        heads = [Linear.init(k, width, n) for k, n in zip(rest, answers, strict=True)]
        return cls(vit, tuple(heads), places)

    def __call__(self, images):
        places = jax.lax.stop_gradient(self.places)  # it has no slope, so it stays what it is
        seen = self.vit.replace(positions=places * self.vit.positions)(images)
        return [head(seen) for head in self.heads]


# %%
@struct.dataclass
class Questions:
    source: SceneSource

    def batch(self, step):
        given = self.source.batch(step)
        turn = jnp.arange(len(given["image"])) % 4
        moved = jax.vmap(lambda x, i: jnp.roll(x, (8 * (i // 2), 8 * (i % 2)), axis=(0, 1)))
        labels = jnp.stack([*given["factors"][:, [0, 5]].T, turn])
        return {"image": moved(given["image"], turn), "labels": labels}


asked = jax.jit(Questions(SceneSource(split="test", batch_size=1024)).batch)(0)
tasks = ["subject", "position", "arrangement"]
print("arrangement of these four:", asked["labels"][2, :4])
lesson.show(plot.strips([("", np.asarray(asked["image"][:4]))], list("0123")))

# %% [markdown]
# The halves are two patches wide, so an arrangement is another order of the same patches. The loss
# is the cross-entropy of lesson 02, summed over the three questions.


# %%
def loss(key, namer, batch):
    answers = zip(namer(batch["image"]), batch["labels"], strict=True)
    return sum(cross_entropy(logits, labels) for logits, labels in answers)


until = lesson.pick(smoke=20, cpu=400)
optimizer = make_optimizer(until, 3e-3, warmup=20)
train_step = make_train_step(loss, optimizer, ema_decay=0.98, steps=20)
source = Questions(SceneSource(batch_size=128))


def learn(places):
    state = TrainState.init(jax.jit(Namer.init)(key, places), optimizer)
    for trained, _ in fit(key, state, source, train_step, until):
        pass
    return trained.ema


# %% [markdown]
# ## Break it: the bag
#
# **Take out your notes from the beginning:** which of the three questions can the bag answer?


# %%
@jax.jit
def right(namer, images, labels):
    return jnp.stack([jnp.mean(logits.argmax(axis=1) == label)
                      for logits, label in zip(namer(images), labels, strict=True)])  # fmt: skip


namers = {"with positions": learn(1.0), "a bag": learn(0.0)}
lesson.claim(namers["a bag"].places == 0)
scores = {who: np.asarray(right(namer, asked["image"], asked["labels"]))
          for who, namer in namers.items()}  # fmt: skip
lesson.show(draw.accuracies(scores, tasks, [1 / 8, 1 / 3, 1 / 4]))

# %%
with_positions, as_bag = scores.values()
for task, value, low in zip(tasks, with_positions, (0.95, 0.96, 0.97), strict=True):
    lesson.expect(f"{task}, with positions", value, low, 1, trained=True)
for task, value, low, high in zip(tasks, as_bag, (0.93, 0.75, 0.2), (1, 0.96, 0.3), strict=True):
    lesson.expect(f"{task}, a bag", value, low, high, trained=True)

# %% [markdown]
# The bag names the subject as well as the other network: what a thing is shows in its parts. The
# arrangement it can only guess, and no training will ever help: four pictures with the same patches
# get the same answer, so one of four is right.
#
# The position is the surprise. Left and right are half a patch away from the middle, so the squares
# cut the object in other places, and the patches themselves look different. A bag of patches knows
# more than one thinks: make sure that a task needs places before you conclude that positions work.
#
# The other way round: what do the two make of pictures whose patches are all shuffled?

# %%
mixed = shuffle(asked["image"], order)
after = {who: np.asarray(right(namer, mixed, asked["labels"])) for who, namer in namers.items()}
lesson.agree(after["a bag"], scores["a bag"], atol=0.01)
sure = after["with positions"][0]
lesson.expect("subject in shuffled pictures, with positions", sure, 0.4, 0.95, trained=True)

# %% [markdown]
# The bag does not notice. The network with positions was shown whole pictures and has learned to
# rely on where things are.
#
# ## Recap
#
# - An image becomes a sequence: patches, a linear layer, one class token in front.
# - Attention: compare queries with keys, softmax, take the mean of the values by these weights.
# - The root of $d$ keeps the softmax from being sure before it has learned anything.
# - Positions are added to the tokens; without them order is nothing.
# - Heads specialise: one follows the object, another looks past it.
#
# **Pitfalls.** A `reshape` without `transpose` cuts strips, not squares; a softmax over the wrong
# axis still looks like weights; $d$ is the width of one head; reading a map as an explanation.
#
# ## Quiz
#
# 1. How many tokens has an image of 224 x 224 pixels with patches of 32?
#
# <details><summary>Answer</summary> 7 · 7 + 1 = 50, with the class token. Patches of 16 make 197,
# and 15.5 times as many pairs to compare.</details>
#
# 2. All keys are equal. What does each token take home?
#
# <details><summary>Answer</summary> The plain mean of the values, whatever it asks.</details>
#
# 3. Your ViT is as good on shuffled pictures as on whole ones. What would you look at?
#
# <details><summary>Answer</summary> Whether the positions are added at all, and whether the task
# needs them.</details>
#
# 4. Scores have $d = 64$ and no root. How wide do they spread at the start?
#
# <details><summary>Answer</summary> By 8, the root of 64: the softmax sees differences of 8 and
# more, and one token gets nearly everything.</details>
#
# ## References
#
# Vaswani et al.: [Attention Is All You Need](https://arxiv.org/abs/1706.03762), 2017, equation 1.
# Dosovitskiy et al.: [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929), 2020.
#
# **Next:** [04 · Text](04_text.ipynb) feeds sentences into the same machine.

# %%
# The numbers of the quiz.
lesson.claim(ViTConfig(image_size=224, patch=32).tokens == 7 * 7 + 1 == 50)
lesson.claim(ViTConfig(image_size=224, patch=16).tokens == 197)
lesson.agree((197 / 50) ** 2, 15.5, atol=0.05)
alike = attention(q[:1, :4, None], jnp.ones((1, 4, 1, 256)), k[:1, :4, None])
lesson.agree(alike[0, :, 0], jnp.tile(k[0, :4].mean(axis=0), (4, 1)), atol=1e-5)
