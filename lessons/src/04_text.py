# %% [markdown]
# # 04 · Text
#
# **The one idea:** a sentence is cut into tokens, every token reads what came before it, and the
# last one, which has read everything, becomes the vector of the sentence.
#
# | | |
# |---|---|
# | modules | [tokenizer.py](../minidiff/tokenizer.py), [text.py](../minidiff/text.py) |
# | paper | [byte pairs](https://arxiv.org/abs/1508.07909) |
# | paper | [CLIP](https://arxiv.org/abs/2103.00020), section 2.4 |
# | before this | [03](03_vit.ipynb) for attention, [02](02_contrastive.ipynb) for cosines |
# | minutes | 1 on two cores, without your own |
# | loads | the reference CLIP, or yours |

# %%
from collections import Counter
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, plot, tokenizer
from minidiff.contrastive import cosine_similarity
from minidiff.data.scenes import COLOURS, SceneSource
from minidiff.data.tokens import some_captions
from minidiff.lesson import Lesson
from minidiff.plot import text as draw
from minidiff.recipes import clip as recipe
from minidiff.text import TextConfig, TextTransformer
from minidiff.tokenizer import Tokenizer

lesson = Lesson("04_text")

# %% [markdown]
# ## Which sentences are alike?
#
# A network computes with vectors, so a sentence must become one. The first try: count. One number
# for each word of a list, how often the sentence has it. Then the cosine of two sentences says how
# many words they share: 1 is all of them, 0 is none.
#
# **Predict before you run the next cell.** A hat and a cap are the same thing here. Is "a man with
# a hat" nearer to "a man with a cap" or to "a man with a scarf"? Look for both cells in the
# picture.

# %%
lesson.predict("...")
sentences = ["a man with a hat", "a man with a cap", "a person wearing a hat", "a man with a scarf",
             "a red cat", "a blue cat", "a red kitty",
             "a star at night", "a star in the dark"]  # fmt: skip
word_list = sorted({word for s in sentences for word in s.split()})
counts = np.array([[s.split().count(w) for w in word_list] for s in sentences], np.float32)
counted = np.asarray(cosine_similarity(counts, counts))
lesson.show(draw.matrices([("words in common", counted)], sentences, numbers=True, size=3.4))
lesson.outcome(f"{counted[0, 1]:.2f} to the cap, {counted[0, 3]:.2f} to the scarf")

# %% [markdown]
# Neither: both cells say 0.9. To whoever counts, two words are the same or they are not, and no two
# different words are more alike than any others. The order of the words is lost as well. At the end
# of this lesson we draw this matrix again, with a network that was trained.
#
# ## Cut: letters, words or what is between
#
# First the sentence must be cut into pieces that have numbers, called **tokens**. With one token
# for each letter, a sentence is long and a piece means nothing. With one for each word, a word that
# was not in the list has no number. **Byte pairs** are between. Begin with single letters (bytes,
# to be exact: there are 256, so nothing is unknown). Find the pair of neighbours that occurs most
# often, make it a new symbol, and repeat. A frequent word ends up as one token, a rare one as a
# few.
#
# The last symbol of a word carries the mark `</w>`, so that the `t` which ends a word is another
# one than the `t` within.
#
# ### Exercise 4.1 · Join a pair (★★, 8 minutes)
#
# Write `my_merge_pair(symbols, pair)`: `symbols` is a list of strings such as `["c", "a",
# "t</w>"]`, `pair` a tuple such as `("c", "a")`. Return the new list, `["ca", "t</w>"]`, with every
# occurrence joined, from left to right. `checks.merge_pair.hint()` gives hints, one more at each
# call. Unsolved exercises do no harm: the lesson goes on with minidiff's function.


# %%
def my_merge_pair(symbols, pair):
    # your code here, in place of the next line
    raise NotImplementedError


checks.merge_pair(my_merge_pair)

# %% [markdown]
# With it, the whole of learning is: count the pairs, join the most frequent one everywhere, repeat.
# Here it is on a text of seven words. **Predict** the first pair, before you run the cell.

# %%
lesson.predict("...")
text = "cat cat cat hat hat bat cap"
corpus = Counter(text.split())
spelled = {word: tokenizer.spell(word) for word in corpus}
learned = []
for _ in range(3):
    pairs = Counter()
    for word, times in corpus.items():
        for pair in pairwise(spelled[word]):
            pairs[pair] += times
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))  # the alphabet decides between equals
    spelled = {word: tokenizer.join(symbols, best) for word, symbols in spelled.items()}
    learned.append(best)
    print(f"{pairs[best]} x {' + '.join(best)}:", *map("|".join, spelled.values()))
lesson.outcome(" + ".join(learned[0]))

# %% [markdown]
# After three merges "cat" and "hat" are one token each, while "bat" is `b` and `at`. The list of
# merges, in this order, is all that a tokenizer remembers. To cut a new word it replays them.
#
# Now the same with four thousand captions of scenes. `Tokenizer.learn(captions, size)` stops at
# `size` tokens, or where no pair occurs twice. 514 tokens are there before the first merge: every
# byte, every byte at the end of a word, and two special tokens.

# %%
lesson.claim(learned == [("a", "t</w>"), ("c", "at</w>"), ("h", "at</w>")])
lesson.claim(
    tuple(learned) == tokenizer.learn_merges([text], 3)
)  # the module's, made for many words
lesson.agree(counted[0, 1], 6 / 7, rtol=1e-5)  # hat and cap
lesson.agree(counted[0, 3], 6 / 7, rtol=1e-5)  # hat and scarf
lesson.agree(counted[4, 5], counted[4, 6], rtol=1e-5)  # red, blue; cat, kitty
captions = some_captions(SceneSource())
rows = []
for merges in (0, 20, 60, 510):
    learned = Tokenizer.learn(captions, 514 + merges)
    token_of = {i: token for token, i in learned.vocabulary.items()}
    cut = learned.encode("a kitty wearing spectacles and a zebra")
    rows.append((f"{len(learned.merges)} merges", [token_of[i] for i in cut]))
lesson.show(draw.pieces(rows))
print(learned.size, "tokens;", [len(row) for _, row in rows], "pieces")
lesson.claim([len(row) for _, row in rows] == [32, 24, 20, 11])

# %% [markdown]
# Each box is a token. After 20 merges "wearing", which many captions have, is one token.
# After 187 there is no pair left that occurs twice, so `learn` stops. Every word of the captions is
# whole, and "zebra", which is in none, is spelled out. That is what happens to unknown words: they
# become longer, not impossible. And they come back unharmed:

# %%
for word in ("zebra", "hatless", "naïve"):
    ids = learned.encode(word)
    print(word, "->", [token_of[i] for i in ids], "->", learned.decode(ids))
    lesson.claim(learned.decode(ids) == word and len(ids) > 1)

# %% [markdown]
# (The ï of "naïve" is two bytes, shown by two stand-ins.) A network wants rows of one length. So a
# text becomes: start token, its tokens, end token, then **padding**, zeros that fill the row up.

# %%
ids = learned(["a red cat", "a small red cat wearing a hat"], 10)
print(ids)
lesson.claim(ids[0, 0] == learned.start and ids[0, 4] == learned.end and not ids[0, 5:].any())

# %% [markdown]
# ## Read: only what came before
#
# Each id picks a row of a table of vectors, which is learned. A second table has a vector for each
# place, and the two are added: "cat" as the third token is not the same as "cat" as the fifth. Then
# come the blocks of lesson 03, in which every token looks at the others by attention. One thing is
# new. A token may look at itself and at what came *before* it, not after: the **causal mask**. For
# attention scores $s_{ij}$ of token $i$ looking at token $j$:
#
# $$a_{ij} = \frac{e^{s_{ij}}}{\sum_{k \le i} e^{s_{ik}}} \;\text{ if } j \le i,
# \qquad a_{ij} = 0 \;\text{ if } j > i$$
#
# ### Exercise 4.2 · The mask (★, 3 minutes)
#
# Write `my_causal_mask(length)`: an array `(length, length)` of True and False. Row $i$, column $j$
# is True where token $i$ may look at token $j$.


# %%
def my_causal_mask(length):
    # your code here, in place of the next line
    raise NotImplementedError


checks.causal_mask(my_causal_mask)

# %% [markdown]
# With four tokens that would like everybody equally (all scores 0), each shares its attention among
# those it may see: 1, then halves, thirds, quarters.

# %%
mask = TextTransformer.mask(jnp.zeros((1, 4), int))[0, 0]
shares = jax.nn.softmax(jnp.where(mask, 0.0, -jnp.inf), axis=1)
lesson.agree(shares[2], [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)
print(np.round(np.asarray(shares), 2))

# %% [markdown]
# Now a trained one: the text tower of the reference CLIP, which lesson 05 is about. Set `WHOSE` to
# "mine" once you have trained one by `minidiff train clip --preset cpu --out runs/clip`.

# %%
WHOSE = "reference"  # or "mine"
encoder = recipe.load(lesson.weights("clip", WHOSE))
tower, words = encoder.clip.text, encoder.tokenizer
sentence = "a small red cat wearing a hat"
ids = jnp.asarray(words([sentence], 9))
stages = jax.jit(lambda tower, ids: tower.stages(ids))(tower, ids)
panels = [("mask", tower.mask(ids)[0, 0])]
panels += [(f"attention, layer {i + 1}", stages[f"attention.{i}"][0].mean(0)) for i in range(2)]
lesson.show(draw.matrices([(name, np.asarray(values)) for name, values in panels],
                          ["start", *sentence.split(), "end"], size=3))  # fmt: skip
for name, values in panels[1:]:
    lesson.claim(not np.triu(values, k=1).any())  # nothing from what comes later
    lesson.agree(values.sum(1), 1, rtol=1e-5)  # each row shares out 1
last_rows = [np.argsort(-np.asarray(values[-1])) for _, values in panels[1:]]
if WHOSE == "reference":
    lesson.claim(last_rows[0][0] == 7 and set(last_rows[1][:2]) == {3, 4})  # hat; red and cat

# %% [markdown]
# A row is a token that looks, a column what it looks at, bright is much (the mean over four heads).
# Above the diagonal all is black, in both layers. Follow the last row, the end token: in layer 1 it
# looks at "hat" most, in layer 2 at "red" and "cat". It gathers what a caption can be about, and
# hardly heeds "a" and "wearing".
#
# If no token sees what comes after it, then changing a later word must not change anything before.
# We exchange the fourth word and compare the states of all tokens.

# %%
read = jax.jit(lambda tower, ids: tower.states(ids))
one = read(tower, jnp.asarray(words(["a small red cat wearing a hat"], 9)))
other = read(tower, jnp.asarray(words(["a small red star wearing a hat"], 9)))
change = np.abs(one - other).max(axis=2)[0]
print("largest change of each token's state:", np.round(change, 2))
lesson.claim((change[:4] == 0).all())  # start, a, small, red: not by a single bit
lesson.claim((change[4:] > 0.1).all())

# %% [markdown]
# ## Pool: one vector at the end
#
# We have a vector for each token and want one for the sentence. The end token is the only one that
# has seen every word. So its state is taken, which is called pooling. Padding comes after it, and
# what comes after cannot matter: no other precaution is needed.
#
# ### Exercise 4.3 · Pool (★★, 6 minutes)
#
# Write `my_pool_at_end(states, ids, end)`: `states` is `(batch, length, width)`, `ids` is `(batch,
# length)`, `end` the id of the end token. Return `(batch, width)`, for each row the state at its
# first end token.


# %%
def my_pool_at_end(states, ids, end):
    # your code here, in place of the next line
    raise NotImplementedError


checks.pool_at_end(my_pool_at_end)

# %% [markdown]
# Here is the whole tower, as it runs in the module.

# %%
lesson.source(TextTransformer.__call__)
lesson.source(TextTransformer.states)
lesson.source(TextTransformer.pool)

# %% [markdown]
# Padding must not change the vector. We give the same sentence with 1, 5 and 9 zeros behind it.
# Beside it, a fault: pool at the *last position* of the row, which is what `states[:, -1]` would
# do.

# %%
at_end, at_last = [], []
for context in (8, 12, 16):
    ids = jnp.asarray(words(["a man with a hat"], context))
    states = read(tower, ids)
    at_end.append(tower.pool(states, ids)[0])
    at_last.append(states[0, -1])
lesson.agree(at_end[1], at_end[0], atol=1e-4)
lesson.agree(at_end[2], at_end[0], atol=1e-4)
moved = np.abs(at_last[2] - at_last[0]).max()
lesson.expect("the fault: change by 8 more zeros", moved, 0.1, 10)

# %% [markdown]
# ## Which sentences are alike? Again
#
# This tower has learned from pictures: captions of the same scene were pulled together.
# **Predict:** which of the cells that said 0.9 or 0.7 rise to 1, and which fall?

# %%
lesson.predict("...")
embeddings = encoder.texts(sentences)
trained = np.asarray(cosine_similarity(embeddings, embeddings))
panels = [("words in common", counted), ("trained", trained)]
lesson.show(draw.matrices(panels, sentences, numbers=True, size=3.2))
synonyms = [trained[0, 1], trained[0, 2], trained[4, 6], trained[7, 8]]

# %% [markdown]
# Hat and cap are one thing now, hat and scarf two. A kitty is a cat, and "at night" is "in the
# dark", two phrases without a common word. Nobody gave the network a dictionary: both words stood
# under the same pictures, and that was enough.
#
# Colours are not just different, some are nearer than others:

# %%
lesson.expect("least cosine of synonyms", min(synonyms), 0.93, 1)
lesson.expect("hat and scarf", trained[0, 3], 0, 0.7)
lesson.expect("red and blue cat", trained[4, 5], -0.2, 0.6)
cats = encoder.texts([f"a {colour} cat" for colour in COLOURS])
colours = np.asarray(cosine_similarity(cats, cats))
lesson.show(draw.matrices([("a ... cat", colours)], COLOURS, numbers=True, size=3))
steps = np.abs(np.arange(8)[:, None] - np.arange(8)[None, :])
apart = np.minimum(steps, 8 - steps)  # round the circle of colours, from pink back to red
lesson.expect("mean cosine of neighbours", colours[apart == 1].mean(), 0.35, 0.7)
lesson.expect("mean cosine of the others", colours[apart > 1].mean(), 0.1, 0.4)

# %% [markdown]
# The colours stand in the order of the rainbow. Beside the diagonal, and in the corners where pink
# meets red, the cells are brighter than elsewhere on the average: the pictures taught that too.
#
# ## Break it: pool at the last position
#
# The fault from above, on all sentences. It does not crash. Look at what is lost.


# %%
def at_the_last(texts):
    states = read(tower, jnp.asarray(words(texts, encoder.context)))
    return encoder.clip.text_projection(states[:, -1])


faulty = np.asarray(cosine_similarity(at_the_last(sentences), at_the_last(sentences)))
print(f"hat and scarf: {trained[0, 3]:.2f} at the end token, {faulty[0, 3]:.2f} at the last place")
lesson.expect("hat and scarf with the fault", faulty[0, 3], 0.75, 1)

# %% [markdown]
# A padding token was never asked to gather anything. It has kept that there is a man, and hardly
# what he wears. A network *trained* with the fault might learn to live with it, until someone
# changes the length of the rows.
#
# ## Break it: take away the order
#
# "A red cat to the left of a blue box" and "a blue box to the left of a red cat" have the same
# words. Can a tower tell which thing is named first? We train three small ones to say it, on
# captions of two objects, with a linear layer from the pooled vector to 8 subjects:
#
# - with places and mask, as above;
# - with the mask alone: no places are added;
# - with neither.
#
# **Predict** how often each is right. (There are always two subjects in the caption.)

# %%
lesson.predict("...")
from minidiff.layers import Linear
from minidiff.training.state import TrainState, fit, make_optimizer, make_train_step

pairs_of = SceneSource(batch_size=128, split="two").tokenized(learned)
config = TextConfig(vocabulary=learned.size, context=pairs_of.tokens.context, width=64, layers=2,
                    heads=4, end=learned.end)  # fmt: skip


def init(key, places, causal):  # 1 or 0 each; not trained, so that one program serves all three
    keys = jax.random.split(key)
    tower, head = TextTransformer.init(keys[0], config), Linear.init(keys[1], 64, 8)
    return {"tower": tower, "head": head, "switches": jnp.array([places, causal])}


def first_subject(model, ids):  # (batch, 8) logits
    tower, switches = model["tower"], jax.lax.stop_gradient(model["switches"])
    x = tower.tokens[ids] + switches[0] * tower.positions[None, : ids.shape[1]]
    states = tower.norm_out(tower.transformer(x, tower.mask(ids) | (switches[1] == 0)))
    return model["head"](tower.pool(states, ids))


def loss(key, model, batch):
    log_chances = jax.nn.log_softmax(first_subject(model, batch["ids"]))
    return -jnp.mean(log_chances[jnp.arange(128), batch["factors"][:, 0]])


# %%
until = lesson.pick(smoke=10, cpu=100)
optimizer = make_optimizer(until, 3e-3, warmup=10)
train_step = make_train_step(loss, optimizer, ema_decay=0.5, steps=5)
start, logits = jax.jit(init), jax.jit(first_subject)
test = jax.jit(pairs_of.batch)(10_000)  # far beyond what is trained on


def learn(places, causal):
    began = TrainState.init(start(jax.random.key(0), places, causal), optimizer)
    losses = []
    for state, metrics in fit(jax.random.key(1), began, pairs_of, train_step, until):
        losses.append(float(metrics["loss"].mean()))
    right = logits(state.ema, test["ids"]).argmax(axis=1) == test["factors"][:, 0]
    return losses, float(right.mean())


# %%
found = {"places and mask": learn(1.0, 1.0), "mask alone": learn(0.0, 1.0),
         "neither": learn(0.0, 0.0)}  # fmt: skip
losses = {name: curve for name, (curve, _) in found.items()}
losses["log 2"] = [np.log(2)] * len(losses["neither"])
lesson.show(plot.curves([("loss", losses)], np.arange(5, until + 1, 5), "step"))
right = {name: share for name, (_, share) in found.items()}
lesson.outcome(", ".join(f"{share:.0%} with {name}" for name, share in right.items()))
lesson.expect("right with places and mask", right["places and mask"], 0.98, 1, trained=True)
lesson.expect("right with the mask alone", right["mask alone"], 0.98, 1, trained=True)
lesson.expect("right with neither", right["neither"], 0.35, 0.65, trained=True)

# %% [markdown]
# With places every caption is right. Without both, the tower sees a bag of words: it knows which
# two subjects there are, and tosses a coin. Its loss sinks towards $\log 2 = 0.69$, the loss of a
# fair coin, and can get no lower. The surprise is the middle one. The mask alone is enough, because
# it makes the first subject special: when its token looks back, no other subject is there.
#
# ## Recap
#
# - Byte pairs: the most frequent neighbours become one token. Frequent words are whole, and nothing
#   is unknown.
# - A causal mask lets a token see itself and what came before it. Changing a later word leaves
#   earlier states as they were.
# - The end token has read all: its state is the vector of the sentence, and padding cannot touch
#   it.
# - Trained beside pictures, synonyms fall together and colours stand apart.
#
# **Pitfalls.** Pooling at the last position; taking the largest id for the end token where it is
# not; a tokenizer and a tower that do not belong together: every id is legal and means something
# else; a text longer than the context, which is cut without a word (`encoder.cut` tells).
#
# ## Quiz
#
# 1. A tokenizer met "hat" often and "hatless" never. How many tokens is "hatless"?
#
# <details><summary>Answer</summary> Several, down to its letters where nothing was merged. Here
# five. "hat</w>" is none of them: it carries the end of the word.</details>
#
# 2. You exchange the first word of a caption. Which states change?
#
# <details><summary>Answer</summary> That word's and all that come after it. Only the start token's
# stays.</details>
#
# 3. Why the end token, and not the start token, as the image encoder does?
#
# <details><summary>Answer</summary> With the causal mask the start token sees only itself: it is
# the same vector for every sentence.</details>
#
# 4. May a network without a mask pool at the end token?
#
# <details><summary>Answer</summary> Yes, but then it sees the padding too, and the vector changes
# with the length of the row, unless the padding is masked.</details>
#
# ## References
#
# Sennrich, Haddow, Birch: [Neural Machine Translation of Rare Words with Subword
# Units](https://arxiv.org/abs/1508.07909), 2016, algorithm 1. Radford et al.: [Learning
# Transferable Visual Models from Natural Language Supervision](https://arxiv.org/abs/2103.00020),
# 2021, section 2.4.
#
# **Next:** [05 · CLIP](05_clip.ipynb) trains this tower together with one for images.

# %%
# The claims of the quiz.
lesson.claim(len(learned.encode("hatless")) == 5)
starts = read(tower, jnp.asarray(words(sentences, 9)))[:, 0]
lesson.agree(starts, np.tile(starts[:1], (len(sentences), 1)), atol=1e-5)
