# %% [markdown]
# # 06 · Retrieval
#
# **The one idea:** once images and sentences are directions in one space, classifying, searching and
# taking differences are all the same thing: looking for the nearest neighbour.
#
# | | |
# |---|---|
# | module | [minidiff/retrieval.py](../minidiff/retrieval.py) |
# | helpers | [encoder.py](../minidiff/trained/encoder.py), [exam.py](../minidiff/measure/exam.py) |
# | paper | [CLIP](https://arxiv.org/abs/2103.00020), section 3 |
# | before this | [05 · CLIP](05_clip.ipynb) |
# | minutes | 35 to work through, 1 to run |
# | loads, saves | loads a trained CLIP (reference weights, or yours); saves nothing |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

from minidiff import checks, plot, retrieval
from minidiff.contrastive import normalize
from minidiff.data.captions import full_caption_words, to_text
from minidiff.data.factors import FACTORS, SUBJECTS
from minidiff.data.scenes import scenes
from minidiff.lesson import Lesson
from minidiff.measure import exam
from minidiff.plot import retrieval as draw
from minidiff.recipes import clip

lesson = Lesson("06_retrieval")
WHOSE = "reference"  # or "mine": the CLIP that you trained in lesson 05

# %% [markdown]
# ## A library without labels
#
# Here are the first of a thousand test scenes, and a CLIP that was trained on other scenes with
# their captions. Nobody ever told it that there are eight subjects, or that it would have to sort
# images.
#
# **Predict before you run on.** You may give this CLIP eight words, one for each subject, and
# nothing else: no example, no training. How many per cent of the thousand will it sort right?
# Chance is 12.5%.

# %%
lesson.predict("...")
encoder = clip.load(lesson.weights("clip", WHOSE))
library = exam.draw(encoder, 1, "test", 1000)
images, factors = library["image"], library["factors"]
embedded = encoder.images(images)  # (1000, 64): what the image tower makes of each
subject = factors[:, 0]  # the right answers, only to count with
lesson.show(plot.contact_sheet(images[:16], title="test scenes"))

# %% [markdown]
# ## Nearest label, in the plane
#
# Suppose embeddings had two numbers. Three labels are three arrows, and each image gets the label
# whose arrow points most nearly its way. Lengths do not count, so everything may be drawn on a
# circle.

# %%
labels = {
    "cat": np.array([1.0, 0.0]),
    "robot": np.array([0.6, 0.8]),
    "star": np.array([-1.0, 0.0]),
}
points = np.array([[2.4, 1.8], [5.0, -1.0], [-0.5, 0.4], [-0.1, -0.5]])
lesson.show(draw.circle(labels, points))

# %% [markdown]
# Image 0 is nearest to *robot*, image 1 to *cat*, image 2 to *star*. Image 3, at the bottom, is far
# from all of them and still gets the colour of one: there is always a nearest label.
#
# To say how sure it is, CLIP turns cosines $s_{ij}$ into probabilities. $e^{\text{log scale}}$ is
# the scale of lesson 05 (a learned number; the temperature is 1 over it), the sum goes over the labels:
#
# $$p_{ij} = \frac{\exp(e^{\text{log scale}}\, s_{ij})}{\sum_k \exp(e^{\text{log scale}}\, s_{ik})}$$
#
# This is the **softmax** of a row. For image 0 the cosines are 0.8, 0.96 and -0.8. With a scale of
# 5 they become 4, 4.8 and -4.

# %%
scaled = np.exp([4.0, 4.8, -4.0])
by_hand = scaled / scaled.sum()
print(by_hand.round(4))
lesson.agree(by_hand, [0.3100, 0.6899, 0.0001], atol=1e-4)

# %% [markdown]
# ### Exercise 6.1 · Classify with words (★, 5 minutes)
#
# Write `my_zero_shot(image_embeddings, labels, log_scale)`: from `(images, embedding)` and
# `(labels, embedding)`, the probabilities `(images, labels)`. The embeddings have any length.
# `normalize` (or `contrastive.cosine_similarity`) is there to help, `checks.zero_shot.hint()` as
# well.


# %%
def my_zero_shot(image_embeddings, labels, log_scale):
    # your code here, in place of the next line
    raise NotImplementedError


checks.zero_shot(my_zero_shot)

# %% [markdown]
# This is the module's version. The name **zero-shot** means: with zero examples.

# %%
lesson.source(retrieval.zero_shot)

# %%
found = retrieval.zero_shot(
    points.astype(np.float32), jnp.float32(list(labels.values())), np.log(5)
)
lesson.agree(found[0], by_hand, atol=1e-4)

# %% [markdown]
# ## A classifier made of sentences
#
# A label is a word, but CLIP was trained on captions. So we put the word into a sentence, a
# **template** such as "a picture of a {}". The mean over several templates is steadier than one.
# `label_embeddings` does that: words in, one direction for each word out.

# %%
lesson.source(retrieval.label_embeddings)

# %%
log_scale = float(encoder.clip.log_scale)
subject_labels = retrieval.label_embeddings(encoder.texts, SUBJECTS, ["a picture of a {}"])
chances = np.asarray(retrieval.zero_shot(embedded, subject_labels, log_scale))
sentences = [f"a picture of a {word}" for word in SUBJECTS]
lesson.show(plot.probabilities(images[:3], sentences, chances[:3]))
right = np.mean(chances.argmax(axis=1) == subject)
lesson.outcome(f"{right:.1%}")
lesson.expect("zero-shot accuracy", right, 0.97, 1.0)
lesson.expect("how sure it is, in the mean", chances.max(axis=1).mean(), 0.95, 1.0)

# %% [markdown]
# Compare with your guess. It is right on nearly all of them, and sure. Matching captions was enough
# to learn what a cat is, because "cat" is in the captions of cats and of nothing else.
#
# The scale makes it sure. With a scale of 1 the same cosines give nearly equal chances, in
# the same order.

# %%
cold = np.asarray(retrieval.zero_shot(embedded, subject_labels, 0.0))  # exp(0) = 1
lesson.claim((cold.argmax(axis=1) == chances.argmax(axis=1)).all())
lesson.expect("scale", np.exp(log_scale), 15, 40)
lesson.expect("how sure it is with a scale of 1", cold.max(axis=1).mean(), 0.15, 0.25)

# %% [markdown]
# ## House, dog, pizza, lamp
#
# **Predict before you run the next cell.** Now the labels are four words that were in no caption.
# What will the probabilities look like: all near 25%, or not?

# %%
lesson.predict("...")
strange = ["house", "dog", "pizza", "lamp"]
print("never seen:", encoder.unfamiliar([*strange, *SUBJECTS]))
strange_labels = retrieval.label_embeddings(encoder.texts, strange)
guesses = np.asarray(retrieval.zero_shot(embedded, strange_labels, log_scale))
lesson.show(plot.probabilities(images[:3], strange, guesses[:3]))
lesson.outcome(f"{guesses.max(axis=1).mean():.0%} for the likeliest word, in the mean")

# %% [markdown]
# It is far from sharing the chances out evenly. A softmax answers "which of *these*?", never "any
# of these?". And a word that it never met still becomes *some* direction: the tokenizer of lesson
# 04 spells it out in pieces. (`encoder.unfamiliar` lists such words.) The same holds for the real
# CLIP: give it four wrong labels and it will pick one. Its authors saw 400 million captions, so its
# vocabulary is larger, but the rule is the same.
#
# ## Search
#
# Turn the question round: which *images* are nearest to one sentence? Now the image library is what
# we look through.
#
# ### Exercise 6.2 · Search (★, 5 minutes)
#
# Write `my_search(queries, items, count)`. It returns two arrays of shape `(queries, count)`: the
# numbers of the items nearest to each query, nearest first, and their cosines. If `count` is more
# than there are items, all of them come back.


# %%
def my_search(queries, items, count):
    # your code here, in place of the next line
    raise NotImplementedError


checks.search(my_search)

# %%
lesson.expect("how sure it is of a wrong label", guesses.max(axis=1).mean(), 0.6, 0.95)
queries = ["a man wearing a hat", "a striped star in the snow", "a small blue robot"]
places, cosines = retrieval.search(encoder.texts(queries), embedded, 5)
rows = [
    (query, images[place], [f"{c:.2f}" for c in line])
    for query, place, line in zip(queries, np.asarray(places), np.asarray(cosines), strict=True)
]
lesson.show(plot.galleries(rows, "found by text (cosine)"))
hats = factors[np.asarray(places[0]), 3] == list(FACTORS["accessory"]).index("hat")
lesson.expect("hats among the first five", hats.mean(), 0.8, 1.0)

# %% [markdown]
# A query may be an image as well: everything lies in one space. Below are the neighbours of three
# scenes; each scene's nearest is itself, with a cosine of 1, and is left out.

# %%
places, _ = retrieval.search(embedded, embedded, 6)
near = np.asarray(places)[:, 1:]
rows = [("an image", images[[i, *near[i]]], ["query", *"12345"]) for i in range(3)]
lesson.show(plot.galleries(rows, "found by image"))
same = {name: np.mean(factors[near, f] == factors[:, f, None]) for f, name in enumerate(FACTORS)}
print({name: round(float(share), 2) for name, share in same.items()})
lesson.expect("neighbours with the same subject", same["subject"], 0.85, 1.0)
lesson.expect("neighbours with the same background", same["background"], 0.45, 0.8)

# %% [markdown]
# CLIP finds subjects more alike than backgrounds. Every caption names the subject, one in five
# leaves the background out, and it learned to care for what captions say.
#
# ## Man with hat, minus man
#
# Here are five men with hats, and the same five without. Subtract the embeddings: what the two sets
# share cancels, and what is left is a direction. Which of the words of all captions points that
# way?
#
# **Predict:** on which place among all words is "hat"? (There is "cap" as well: it means the same.)
#
# ### Exercise 6.3 · Difference (★, 3 minutes)
#
# Write `my_difference(before, after)`: the direction from one set of embeddings, `(n, embedding)`,
# to another, `(m, embedding)`. Make each embedding one long, take the mean of each set, subtract.


# %%
lesson.predict("...")


def my_difference(before, after):
    # your code here, in place of the next line
    raise NotImplementedError


checks.difference(my_difference)

# %%
bare, hatted = exam.draw_dressed(encoder, 0, 5)
words, cosines = exam.name_difference(encoder, bare, hatted)
title = f"man with hat - man, among {len(exam.VOCABULARY)} words"
lesson.show(plot.arithmetic(bare, hatted, words, cosines, title))
result = exam.hat_arithmetic(encoder, 0, count=lesson.pick(smoke=5, cpu=50))
lesson.outcome(f"{words[0]} first, then {words[1]}")
lesson.expect(
    "pairs with hat or cap in first place", np.mean(np.array(result["ranks"]) == 1), 0.9, 1
)
lesson.expect("cosine of the best word", cosines[0], 0.75, 0.95)

# %% [markdown]
# "hat" and "cap" stand far above the rest, and a single pair of images is enough. Look at what is
# *not* there: "man". It was in both sets.
#
# One detail of `rank_words` matters: all words are texts, and texts lie in a cone of their own.
# Even "hat" and "snow" have something in common: being text.

# %%
lesson.source(retrieval.rank_words)

# %%
spelled = normalize(exam.word_embeddings(encoder))
_, raw = exam.name_difference(encoder, bare, hatted, centre=False)
lesson.expect("cosine between two words, in the mean", (spelled @ spelled.T).mean(), 0.4, 0.65)
lesson.expect("cosine of the best word without centring", raw[0], 0.45, 0.7)
texts = encoder.texts(to_text(library["words"]))  # the captions of the library
gap = retrieval.modality_gap(embedded, texts)
lesson.expect("distance between mean image and mean caption", gap, 0.1, 0.5)

# %% [markdown]
# Without taking the words' mean away, the best cosine drops from 0.87 to about 0.6. "hat" still
# wins here, since our CLIP and its world are small. In the real CLIP images and texts lie further
# apart (the **modality gap**), and what all words share can drown what one of them says.
#
# Arithmetic may mix images and words: an image of a bare man, plus "a man wearing a hat" minus "a
# man".

# %%
told = normalize(encoder.texts(["a man wearing a hat", "a man"]))
starts = normalize(encoder.images(bare))
rows, hats = [], {}
for name, query in (("the man", starts), ("plus hat", starts + (told[0] - told[1])[None])):
    places = np.asarray(retrieval.search(query, embedded, 5)[0])
    rows.append((name, images[places[0]], [""] * 5))
    hats[name] = np.mean(factors[places, 3] == 1)
lesson.show(plot.galleries([("the query", bare[:1], [""]), *rows]))
lesson.expect("hats found by the men alone", hats["the man"], 0.0, 0.5)
lesson.expect("hats found by the men plus hat", hats["plus hat"], 0.75, 1.0)

# %% [markdown]
# ## When there is no word: a few examples
#
# Some classes have no word that CLIP knows. "Creature" (man, robot or cat) and "shape" (the rest)
# are in no caption. But if you have some images that are sorted already, you can fit a small
# classifier to their *embeddings*: **logistic regression**, which gives each class a direction of
# its own and fits it by gradient descent. The towers stay as they are. This is called a **linear
# probe**, or few-shot learning where there are only a few examples.
#
# **Predict:** how many examples of each subject does it take to do as well as the eight words did?
# And if you gave the classifier raw pixels instead of embeddings?

# %%
lesson.predict("...")
some = exam.draw(encoder, 11, "train", 1000)
inputs = {  # (examples to learn from, test scenes)
    "CLIP's embeddings": (normalize(encoder.images(some["image"])), normalize(embedded)),
    "pixels": (some["image"].reshape(1000, -1), images.reshape(1000, -1)),
}
is_shape = np.array([name not in ("man", "robot", "cat") for name in SUBJECTS])
tasks = {
    "eight subjects": (some["factors"][:, 0], subject),
    "creature or shape": (is_shape[some["factors"][:, 0]], is_shape[subject]),
}


def probe(x, y, test_x, test_y, count):
    """Test accuracy after ``count`` examples of each class."""
    chosen = np.concatenate([np.flatnonzero(y == c)[:count] for c in np.unique(y)])
    model = LogisticRegression(C=10.0, max_iter=2000).fit(np.asarray(x)[chosen], y[chosen])
    return float(np.mean(model.predict(np.asarray(test_x)) == test_y))


# %%
counts = [1, 4, 16, 64]
panels = {
    task: {name: [probe(x, y, tx, ty, n) for n in counts] for name, (x, tx) in inputs.items()}
    for task, (y, ty) in tasks.items()
}
pair = retrieval.label_embeddings(encoder.texts, ["creature", "shape"])
words_alone = {
    "eight subjects": float(right),
    "creature or shape": float(np.mean(exam.nearest(embedded, pair) == is_shape[subject])),
}
lesson.show(draw.few_shot(counts, panels, words_alone))

# %%
clip_curve, pixel_curve = panels["eight subjects"].values()
enough = [n for n, score in zip(counts, clip_curve, strict=True) if score >= right - 0.01]
lesson.outcome(f"{min(enough, default='more')} of each; with pixels {pixel_curve[-1]:.0%} after 64")
lesson.expect("subjects, 1 example each", clip_curve[0], 0.5, 0.85)
lesson.expect("subjects, 16 examples each", clip_curve[2], 0.97, 1.0)
lesson.expect("subjects, 64 examples each, pixels", pixel_curve[3], 0.7, 0.92)
lesson.expect("creature or shape, by words", words_alone["creature or shape"], 0.3, 0.75)
creatures = panels["creature or shape"]["CLIP's embeddings"]
lesson.expect("creature or shape, 64 examples", creatures[3], 0.95, 1.0)
always = is_shape[subject].mean()
lesson.expect("creature or shape, always answering shape", always, 0.57, 0.68)

# %% [markdown]
# On the left the words are worth more than four examples of each subject, about as much as sixteen.
# Pixels need many more and do not get there. On the right the words are next to useless: always
# answering "shape" does nearly as well. A few dozen examples settle it. So: words if CLIP knows
# them, examples if not.
#
# ## Where CLIP fails
#
# Two objects side by side: "a red cat to the left of a blue star". Exchange the colours, and every
# word stays the same.
#
# **Predict:** how often does CLIP choose the right one of the two captions? Guessing gives 50%.

# %%
lesson.predict("...")
pairs = jax.jit(scenes, static_argnums=1)(0, "two", jnp.arange(1))
captions = [to_text(full_caption_words(jax.tree.map(lambda x: x[0], s)))
            for s in (pairs, exam.swapped(pairs))]  # fmt: skip
picture = exam.pictures(encoder, pairs)
two = encoder.images(picture), encoder.texts(captions)
lesson.show(plot.probabilities(picture, captions, np.asarray(retrieval.zero_shot(*two, log_scale))))
result = [exam.binding(encoder, seed, 500) for seed in (0, 1)]
lesson.outcome(f"{np.mean(result):.0%}")

# %% [markdown]
# Chance. It knows *that* there is red and blue, cat and star, and not which belongs to which: this
# is the **binding** problem. Its training never needed it, because captions of a single object can
# be told apart by their words alone, in any order. The real CLIP has seen scenes of many objects,
# and [is not much better](https://arxiv.org/abs/2210.01936) at this.
#
# Now ask for a man *without* a hat.

# %%
lesson.expect("right caption, not the one with the colours exchanged", np.mean(result), 0.43, 0.57)
places, _ = retrieval.search(encoder.texts(["a man without a hat"]), embedded, 10)
lesson.show(plot.contact_sheet(images[np.asarray(places[0][:8])], title="a man without a hat"))
hats = np.mean(factors[np.asarray(places[0]), 3] == 1)
lesson.expect("hats among the men without a hat", hats, 0.8, 1.0)

# %% [markdown]
# Everyone wears one. "without" was in no caption, "hat" was.
#
# ## Break it: a template from another world
#
# One template is as good as another, is it not?

# %%
accuracy = {}
for template in ("a {}", "a picture of a {}", "this is definitely a {}"):
    made = retrieval.label_embeddings(encoder.texts, SUBJECTS, [template])
    accuracy[template] = float(np.mean(exam.nearest(embedded, np.asarray(made)) == subject))
print(accuracy)
lesson.expect(
    "accuracy with 'this is definitely a {}'", accuracy["this is definitely a {}"], 0.4, 0.9
)

# %% [markdown]
# It loses about a third of the images. The words are right, but "this is definitely" sounds like no
# caption, and unknown words push every label somewhere else. Templates should sound like the
# captions of the training. For the real CLIP that is "a photo of a {}".
#
# ## Recap
#
# - Zero-shot: sentences are the classes, the nearest one wins, a softmax says how clearly.
# - Search is the same with the roles exchanged; the query may be a text, an image, or a sum of both.
# - A difference of embeddings is a direction that words can name, best if the words' mean is removed.
# - A few examples and a linear probe do what no word can.
#
# **Pitfalls.** Probabilities add up to 1 even if no label fits. Labels and templates must sound
# like training captions. Vectors that were not made one long. Words for things that captions never
# tell apart: who wears what, left or right of what, "without".
#
# ## Quiz
#
# 1. All probabilities of an image are near 1/8. What may be wrong?
#
# <details><summary>Answer</summary> The scale was forgotten: cosines alone are too near each other.
# The order of the labels may still be right.</details>
#
# 2. You want "none of these" as an answer. How?
#
# <details><summary>Answer</summary> Not from the softmax. Look at the cosine itself, or add labels
# for what else there may be.</details>
#
# 3. Man with hat minus man, plus cat: what should a search find?
#
# <details><summary>Answer</summary> Cats with hats.</details>
#
# 4. Why does "man" not name the difference of the men?
#
# <details><summary>Answer</summary> It is in both sets, so it cancels.</details>
#
# 5. Your zero-shot classifier is at chance for "creature" against "shape". Is the image tower blind?
#
# <details><summary>Answer</summary> No: a linear probe on its embeddings gets it right. The text tower
# does not know the words.</details>
#
# ## References
#
# Radford et al.: [CLIP](https://arxiv.org/abs/2103.00020), 2021. Liang et al.: [Mind the
# Gap](https://arxiv.org/abs/2203.02053), 2022. Yuksekgonul et al.: [When and why vision-language
# models behave like bags-of-words](https://arxiv.org/abs/2210.01936), 2022.
#
# **Next:** [07 · Noising](07_noising.ipynb): from understanding images to making them.

# %%
# The third answer of the quiz.
cat = normalize(encoder.texts(["a cat"]))
query = cat + retrieval.difference(encoder.images(bare), encoder.images(hatted))[None]
places = np.asarray(retrieval.search(query, embedded, 10)[0][0])
cats_with_hats = (subject[places] == SUBJECTS.index("cat")) & (factors[places, 3] == 1)
lesson.expect("cats with hats among the first ten", cats_with_hats.mean(), 0.4, 1.0)
plain = np.asarray(retrieval.search(cat, embedded, 10)[0][0])
lesson.expect("hats among the first ten of 'a cat'", np.mean(factors[plain, 3] == 1), 0.0, 0.2)
