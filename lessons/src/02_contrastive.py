# %% [markdown]
# # 02 · Pull the diagonal, push the rest
#
# **The one idea:** put images and texts into one space by asking, for a whole batch at once, "which
# text belongs to this image, and which image to this text?"
#
# | | |
# |---|---|
# | module | [minidiff/contrastive.py](../minidiff/contrastive.py) |
# | paper | [CLIP, Radford et al. 2021](https://arxiv.org/abs/2103.00020), figure 3 |
# | before this | [01 · Scenes](01_scenes.ipynb) |
# | minutes | 40 to read and do; less than one to run |
# | loads, saves | loads the reference CLIP for the last figure; saves nothing |

# %%
import math

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, contrastive, plot
from minidiff.clip import CLIP
from minidiff.contrastive import contrastive_loss, cosine_similarity, cross_entropy, siglip_loss
from minidiff.data.scenes import SceneSource
from minidiff.lesson import Lesson
from minidiff.plot import contrastive as draw
from minidiff.recipes import clip
from minidiff.trained.encoder import Encoder

lesson = Lesson("02_contrastive")

# %% [markdown]
# ## Eight pictures, eight captions
#
# Below each picture stands a caption that belongs to another one. **Before you read on:** find the
# right caption for the first picture, and watch yourself doing it.

# %%
source = SceneSource(split="test", batch_size=32)
batch = jax.jit(source.batch)(0)
images, captions = np.asarray(batch["image"]), source.captions(batch)
lesson.show(plot.contact_sheet(images[:8], [captions[(i + 3) % 8] for i in range(8)]))

# %% [markdown]
# You compared one picture with all eight captions, and took the one that fits best. Eight pictures
# make an 8 x 8 table of "how well do they fit". The right answers of a batch in order lie on the
# table's diagonal. A network that fills in this table well has understood something about pictures
# and words.
#
# The plan: every image becomes a vector, every text becomes a vector. Such a vector is called an
# **embedding**. How well an image and a text fit is how well their *directions* agree. Lessons 03
# and 04 build the networks that make the vectors. Here there are none: we move the vectors
# themselves.
#
# Eight pairs in two dimensions. A square is an image, a dot of the same colour is its text, and
# only directions count, so all are drawn on a circle.

# %%
N = 8
start = jax.random.normal(jax.random.key(0), (2, N, 2))  # images, texts
lesson.show(draw.circles([("16 random vectors", np.asarray(start))]))

# %% [markdown]
# **Predict:** we will pull every dot to its square and push it away from all other squares. Draw on
# paper where the sixteen points will end.
#
# ## The cosine
#
# How well two directions agree is the cosine of the angle between them. It is the dot product of
# the two vectors after each is divided by its length:
#
# $$s(u, v) = \frac{u \cdot v}{|u|\,|v|}, \qquad s\big((3, 4), (4, 3)\big) =
# \frac{3 \cdot 4 + 4 \cdot 3}{5 \cdot 5} = \frac{24}{25} = 0.96$$
#
# The same direction gives 1, a right angle 0, the opposite direction -1. Lengths do not matter.

# %%
lesson.predict("...")
u, v = np.array([3.0, 4.0]), np.array([4.0, 3.0])
cosine = u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
found = cosine_similarity(jnp.array([u, 10 * u]), jnp.array([v, -u]))
print(found)  # rows: u and 10 u; columns: v and -u

# %% [markdown]
# ### Exercise 2.1 · All cosines at once (★, 5 minutes)
#
# Write `my_cosine_similarity(image_embeddings, text_embeddings)`: from `(images, width)` and
# `(texts, width)` the table of all cosines, `(images, texts)`. Write with `jnp` for whole arrays, no
# loops: training compiles it (lesson 00), and the checks try that, here and in what follows.


# %%
def my_cosine_similarity(image_embeddings, text_embeddings):
    # your code here, in place of the next line
    raise NotImplementedError


checks.cosine_similarity(my_cosine_similarity)

# %% [markdown]
# ## A multiple-choice question
#
# Two images, two texts, four cosines. Row 0 asks "which text belongs to image 0?". We want an
# answer in probabilities. The **softmax** makes them out of any numbers, which are then called
# **logits**:
#
# $$p_j = \frac{e^{s_j}}{\sum_k e^{s_k}}$$
#
# They are positive and add up to 1. The loss of one question is $-\log$ of the probability that was
# given to the right answer: 0 for a sure right answer, large for a sure wrong one. Its mean over
# the questions is the **cross-entropy**.

# %%
lesson.agree(cosine, 0.96)
lesson.agree(found, [[0.96, -1], [0.96, -1]], rtol=1e-6)
s = jnp.array([[0.9, 0.1], [0.3, 0.7]])
p = jnp.exp(s) / jnp.exp(s).sum(axis=1, keepdims=True)
print(p)
lesson.agree(p.sum(axis=1), 1)
by_hand = -(jnp.log(p[0, 0]) + jnp.log(p[1, 1])) / 2
lesson.agree(by_hand, cross_entropy(s, jnp.array([0, 1])), rtol=1e-6)
lesson.expect("cross-entropy of the rows", by_hand, 0.442, 0.443)

# %% [markdown]
# ### Exercise 2.2 · Cross-entropy (★★, 5 minutes)
#
# Write `my_cross_entropy(logits, labels)`. Each row of `logits`, `(questions, answers)`, is a
# question, and `labels[i]` is the number of row i's right answer. Return the mean over the rows of
# $-\log p_\text{right}$. One of the check's cases has logits of 100: what is $e^{100}$ in float32?


# %%
def my_cross_entropy(logits, labels):
    # your code here, in place of the next line
    raise NotImplementedError


checks.cross_entropy(my_cross_entropy)

# %% [markdown]
# ## CLIP's loss
#
# Rows are images choosing among texts. Columns are texts choosing among images. CLIP asks both, and
# takes the mean. The right answer of row i, and of column i, is i: the diagonal.
#
# One thing is missing. In row 0 above, cosines of 0.9 and 0.1 gave only 69% to the right answer:
# between -1 and 1 nothing can be sure. So the cosines are multiplied by a **scale** before the
# softmax. It is $e^{\text{log\_scale}}$, with `log_scale` one more trained number. The
# **temperature** that people speak of is 1 / scale.
#
# $$\text{loss} = \tfrac12\,\big(\text{CE}(e^{\text{log\_scale}}\, s) +
# \text{CE}(e^{\text{log\_scale}}\, s^T)\big)$$

# %%
lesson.expect("given to the right answer, scale 1", p[0, 0], 0.68, 0.70)
lesson.expect("the same, scale 10", jax.nn.softmax(10 * s[0])[0], 0.999, 1.0)

# %% [markdown]
# ### Exercise 2.3 · The loss (★★, 8 minutes)
#
# Write `my_contrastive_loss(image_embeddings, text_embeddings, log_scale)`: two arrays `(N, width)`
# whose rows i are a pair, and a number. Return one number. You may use `cosine_similarity` and
# `cross_entropy`, yours or the module's.


# %%
def my_contrastive_loss(image_embeddings, text_embeddings, log_scale):
    # your code here, in place of the next line
    raise NotImplementedError


checks.contrastive_loss(my_contrastive_loss)

# %% [markdown]
# The module's loss, and what it begins with. (The line that starts with @ puts a twin in its place that
# gives the same numbers and never holds the whole matrix.)

# %%
lesson.source(contrastive.pair_logits)
lesson.source(contrastive_loss)

# %% [markdown]
# ## log N: the number to know by heart
#
# What does it cost to know nothing? If all embeddings are the same, every answer gets probability
# $1/N$, and
#
# $$\text{loss} = -\log \tfrac1N = \log N$$
#
# whatever the scale.

# %%
for pairs in (2, 8, 256):
    same = jnp.ones((pairs, 2))
    values = [contrastive_loss(same, same, log_scale) for log_scale in (0.0, 1.0, math.log(100))]
    lesson.agree(values, math.log(pairs), rtol=2e-5)
    print(f"N = {pairs}: log N = {math.log(pairs):.4f}")

# %% [markdown]
# So a loss means nothing without its N: 2.08 is ignorance in a batch of 8, and a good deal of
# knowledge in CLIP's batch of 32,768, where ignorance costs 10.4. And a random start is usually
# *worse* than log N, for it is confident and wrong.
#
# ## Move the points
#
# Plain gradient descent, at scale 5. `jax.value_and_grad` returns the loss and its slopes together.


# %%
def train(loss, params, steps, rate, keep=lambda params: params):
    @jax.jit
    def step(params):
        value, slopes = jax.value_and_grad(loss)(params)
        moved = jax.tree.map(lambda p, slope: p - rate * slope, params, slopes)
        return keep(moved), value

    history = []
    for _ in range(steps):
        moved, value = step(params)
        history.append((params, float(value)))
        params = moved
    return params, history


def loss_at_5(points):
    return contrastive_loss(points[0], points[1], math.log(5))


end, history = train(loss_at_5, start, 600, 1.0)
print(f"loss {history[0][1]:.3f} -> {history[-1][1]:.3f}, log N = {math.log(N):.3f}")

# %%
stages = [("start", 0), ("after 10 steps", 10), ("after 600 steps", 599)]
lesson.show(draw.circles([(name, np.asarray(history[i][0])) for name, i in stages]))
lesson.expect("lowest cosine of a pair", jnp.diag(cosine_similarity(*end)).min(), 0.99, 1.0001)

# %% [markdown]
# Every dot has found its square, and the eight pairs stand evenly round the circle. Nobody told
# them which angle to take: the colours' order is an accident of the start, "as far from the others
# as possible" is all that is asked. Here are the same three moments as tables.

# %%
tables = [(name, np.asarray(cosine_similarity(*history[i][0]))) for name, i in stages]
lesson.show(plot.similarity_matrices(tables, "cosines of images (rows) and texts (columns)"))

# %% [markdown]
# The diagonal has become 1. The rest is not -1: in a plane with eight pairs somebody has to be your
# neighbour, at 45°, with a cosine of 0.71. So we can say what the best loss on a circle is:
#
# $$\log \sum_{j=0}^{7} e^{5 (\cos(2\pi j/8) - 1)}$$

# %%
around = np.cos(2 * np.pi * np.arange(N) / N)
best = np.log(np.exp(5 * (around - 1)).sum())
lesson.agree(around[1], 0.7071, atol=1e-4)
lesson.agree(history[-1][1], best, rtol=1e-3)
lesson.expect("the best loss on a circle", best, 0.389, 0.390)

# %% [markdown]
# Descent found it to three digits. In 64 or 512 dimensions there is more room.
#
# ## Pull and push, and the scale
#
# What does the loss want of each cosine? Its slope in $s_{ij}$ says so, and it has a simple form.
# With $P$ the softmax of the rows, $Q$ that of the columns and $I$ the diagonal of ones:
#
# $$\frac{\partial\,\text{loss}}{\partial s} = \frac{\text{scale}}{2N}\,(P + Q - 2I)$$
#
# Descent goes against the slope. Negative on the diagonal means pull, positive elsewhere push, and
# all of it adds up to zero. **Predict:** at the random start, how does the push share itself out
# among the 56 wrong pairs if the scale is 1? If it is 100?


# %%
lesson.predict("...")


def loss_of_cosines(s, scale):
    pairs = jnp.arange(len(s))
    return (cross_entropy(scale * s, pairs) + cross_entropy(scale * s.T, pairs)) / 2


s = cosine_similarity(*start)
slopes = {scale: np.asarray(jax.grad(loss_of_cosines)(s, scale)) for scale in (1.0, 5.0, 100.0)}
p, q = jax.nn.softmax(5 * s, axis=1), jax.nn.softmax(5 * s, axis=0)
lesson.show(draw.slopes([(f"scale {scale:.0f}", slope) for scale, slope in slopes.items()]))

# %%
lesson.agree(slopes[5.0], 5 / (2 * N) * (p + q - 2 * jnp.eye(N)), atol=1e-6)
for scale, slope in slopes.items():
    lesson.agree(slope.sum(), 0, atol=1e-5)
    push = np.sort(slope[~np.eye(N, dtype=bool)])[::-1]
    share = push[:8].sum() / push.sum()
    low, high = {1.0: (0.28, 0.31), 5.0: (0.58, 0.62), 100.0: (0.78, 0.81)}[scale]
    lesson.outcome(f"scale {scale:.0f}: {share:.0%} of the push is on 8 of the 56")
    lesson.expect(f"push on the 8 hardest of 56, scale {scale:.0f}", share, low, high)

# %% [markdown]
# Blue is pull, red is push. With scale 1 every wrong pair is pushed a little. With scale 100 most
# of the push is on the few wrong pairs that look most right, and it is a hundred times as strong:
# read the numbers beside the colours. A small scale can never be satisfied, though, for cosines end
# at 1:

# %%
floors = {scale: np.log(np.exp(scale * (around - 1)).sum()) for scale in (1, 5, 14.3, 100)}
print({scale: round(float(floor), 4) for scale, floor in floors.items()})
lesson.claim(floors[1] > 1.3 and floors[14.3] < 0.04 and floors[100] < 1e-6)

# %% [markdown]
# With scale 1 the best loss on our circle is 1.32. With 1/0.07 = 14.3, where CLIP starts, it is
# 0.03. A learned scale can begin small and grow as the pairs are found.
#
# ## SigLIP: yes or no
#
# [SigLIP](https://arxiv.org/abs/2303.15343) asks $N^2$ questions instead of $2N$: are image i and
# text j a pair, yes or no? With $z = 1$ on the diagonal, $-1$ elsewhere, and
# $\sigma(x) = 1/(1 + e^{-x})$:
#
# $$\text{loss} = -\frac1N \sum_{ij} \log
# \sigma\big(z_{ij}\,(\text{scale} \cdot s_{ij} + \text{bias})\big)$$
#
# No answer depends on the rest of the batch. Look at the pull on pair 0, times N, in batches of 2,
# 4 and 8 pairs:


# %%
def siglip_of_cosines(s):
    z = 2 * jnp.eye(len(s)) - 1
    return -jax.nn.log_sigmoid(z * (10 * s - 10)).sum() / len(s)


def pull(loss, n):
    return n * float(jax.grad(loss)(s[:n, :n])[0, 0])


pulls = [pull(siglip_of_cosines, n) for n in (2, 4, 8)]
clip_pulls = [pull(lambda s: loss_of_cosines(s, 10.0), n) for n in (2, 4, 8)]
print("SigLIP", np.round(pulls, 3), "CLIP", np.round(clip_pulls, 3))
lesson.agree(pulls, pulls[0], rtol=1e-5)
lesson.claim(max(clip_pulls) - min(clip_pulls) > 0.1)


# %%
def siglip(points):
    return siglip_loss(points[0], points[1], math.log(10), -10.0)


lesson.agree(siglip(start), siglip_of_cosines(s), rtol=1e-5)
yes_no, siglip_history = train(siglip, start, 1000, 0.3)
panels = [("CLIP's loss", np.asarray(end)), ("SigLIP's loss", np.asarray(yes_no))]
lesson.show(draw.circles(panels))
best_siglip = np.logaddexp(0, 10 * around[1:] - 10).sum() + np.log(2)
lesson.agree(siglip_history[-1][1], best_siglip, rtol=1e-2)

# %% [markdown]
# SigLIP's pull stays; CLIP's changes with the company. Both end evenly spaced, here with two
# neighbours exchanged. Since SigLIP's terms are separate, a batch can be split over many devices
# without any of them seeing all of it.
#
# ## Break it: let the scale run
#
# Now `log_scale` is trained too, from a scale of 14.3, as in CLIP. We do it twice: once freely, and
# once bringing the scale back into [1, 100] after each step, by `clamp_log_scale`. (The paper keeps it
# below 100 only; the lower bound is OpenCLIP's.)


# %%
def learned(params):
    return contrastive_loss(params["points"][0], params["points"][1], params["log_scale"])


def clamped(params):
    return {**params, "log_scale": contrastive.clamp_log_scale(params["log_scale"])}


begin = {"points": start, "log_scale": jnp.float32(contrastive.LOG_SCALE_INIT)}
free_end, free = train(learned, begin, 300, 1.0)
kept_end, kept = train(learned, begin, 300, 1.0, keep=clamped)
print(f"free: {free[0][1]:.4f} -> {free[-1][1]:.4f}")

# %% [markdown]
# The free run's loss fell from 14.8 to 2.0794. **Before you run the next cell:** did it learn?

# %%
lesson.predict("...")
runs = {
    name: ([value for _, value in run], [np.exp(params["log_scale"]) for params, _ in run])
    for name, run in (("free", free), ("clamped", kept))
}
lesson.show(draw.losses(runs, math.log(N), "log 8"))
lesson.outcome(f"a loss of {free[-1][1]:.4f}, where guessing costs log {N} = {math.log(N):.4f}")

# %% [markdown]
# It learned nothing: 2.0794 is $\log 8$. The random start was confidently wrong, and the quickest
# way to be less wrong is to be less confident. The first step took the scale to 0.00001. Then all
# logits are 0, all slopes are 0, and nothing moves again. The curve fell nicely; only the dotted
# line tells. The clamped run was stopped at scale 1, sorted its pairs, and became confident after.
#
# Its scale is still rising: once all pairs are found, more confidence always lowers the loss. That
# is what the upper bound of 100 is for. A loss stuck at log N has other causes too: captions in
# another order than the images, or a text network that reads only blanks, so that all texts look
# alike.
#
# ## The same table, for real
#
# The 32 pictures and captions of a test batch, in 64 dimensions: a CLIP with random weights, and
# the reference CLIP that lesson 05 trains.

# %%
lesson.expect("loss of the free run", free[-1][1], math.log(N) - 1e-3, math.log(N) + 1e-3)
lesson.expect("its scale", np.exp(free_end["log_scale"]), 0, 1e-3)
lesson.expect("loss of the clamped run", kept[-1][1], 0, 0.01)
lesson.expect("its scale", np.exp(kept_end["log_scale"]), 30, 100)
WHOSE = "reference"  # or "mine": trained by lesson 05
encoder = clip.load(lesson.weights("clip", WHOSE))
untrained = jax.jit(CLIP.init, static_argnums=1)(jax.random.key(0), encoder.clip.config)
tables, losses = [], []
for name, model in (("random weights", untrained), ("trained", encoder.clip)):
    reader = Encoder(model, encoder.tokenizer)
    vectors = reader.images(images), reader.texts(captions)
    tables.append((name, np.asarray(cosine_similarity(*map(jnp.asarray, vectors)))))
    losses.append(float(contrastive_loss(*map(jnp.asarray, vectors), model.log_scale)))
lesson.show(plot.similarity_matrices(tables, "32 test scenes and their captions"))
print(f"log 32 = {math.log(32):.3f}")
lesson.expect("loss with random weights", losses[0], 3.4, 5.5)
lesson.expect("loss of the trained CLIP", losses[1], 0.0, 0.3)
wrong = np.where(np.eye(32, dtype=bool), -1, tables[1][1])
image, text = np.unravel_index(np.argmax(wrong), wrong.shape)
print(f"hardest: {captions[image]!r} and {captions[text]!r}")

# %% [markdown]
# The random network's columns are stripes: whatever the picture, it likes the same captions. The
# trained one has a bright diagonal. The brightest cells beside it are pairs that share much; the
# hardest two captions are printed above.
#
# ## Recap
#
# - An embedding is a vector whose direction counts; a cosine compares two of them.
# - CLIP's loss is the cross-entropy of the rows and of the columns, with the diagonal as answers.
# - Knowing nothing costs log N. Draw that line beside every contrastive loss.
# - The scale decides how sure a cosine can make the model, and which wrong pairs are pushed.
# - SigLIP judges each pair by itself.
#
# **Pitfalls.** Embeddings not normalised; `log_scale` used as if it were the scale; one direction
# of the cross-entropy forgotten; a scale without bounds; images and captions shuffled apart.
#
# ## Quiz
#
# 1. N = 256, and the loss has fallen from 9 to 5.545. How well is it going?
#
# <details><summary>Answer</summary> Not at all: log 256 = 5.545.</details>
#
# 2. You double the length of every image embedding. What happens to the loss?
#
# <details><summary>Answer</summary> Nothing: vectors are normalised first.</details>
#
# 3. Two of the 32 captions in a batch are word for word the same. Can the loss reach 0?
#
# <details><summary>Answer</summary> No. Both texts have the same embedding, so each of the two
# images gives at most 1/2 to its own, and costs log 2. The two texts ask alike questions: what their
# two answers leave each other adds up to 2 log 2 together, at best. So of the 64 questions these 4
# cost at least 4 log 2 between them: 4 log 2 / 64 = 0.043 remains.</details>
#
# 4. Why is the best loss on the circle lower for 4 pairs than for 8?
#
# <details><summary>Answer</summary> Neighbours are 90° apart in place of 45°, and there are fewer
# wrong answers.</details>
#
# ## References
#
# Radford et al.: [CLIP](https://arxiv.org/abs/2103.00020), 2021, section 2.3. Zhai et al.:
# [SigLIP](https://arxiv.org/abs/2303.15343), 2023.
#
# **Next:** [03 · ViT](03_vit.ipynb) turns an image into a vector.

# %%
# The numbers of the quiz.
lesson.agree(math.log(256), 5.545, atol=1e-3)
lesson.agree(math.log(32_768), 10.4, atol=0.01)
longer = start.at[0].multiply(2.0)
lesson.agree(loss_at_5(longer), loss_at_5(start), rtol=1e-5)
twins = jnp.eye(32).at[1].set(jnp.eye(32)[0])
value = contrastive_loss(twins, twins, math.log(100))
lesson.agree(value, 4 * np.log(2) / 64, rtol=1e-3)
quarter = np.cos(np.pi / 2 * np.arange(4))
lesson.claim(np.log(np.exp(5 * (quarter - 1)).sum()) < best)
