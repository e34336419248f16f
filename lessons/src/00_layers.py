# %% [markdown]
# # 00 · Layers
#
# **The one idea:** a network is a tree of arrays, and whatever we do with it (run it, compile it, find
# its slopes, draw it at random) is a pure function of that tree.
#
# | | |
# |---|---|
# | module | [minidiff/layers.py](../minidiff/layers.py) |
# | paper | [Layer Normalization](https://arxiv.org/abs/1607.06450) |
# | before this | nothing: you know NumPy, and that gradient descent fits a function |
# | minutes | 40 to read and do; less than one to run |
# | loads, saves | nothing |

# %%
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from minidiff import checks
from minidiff.layers import GroupNorm, LayerNorm, Linear, count_parameters
from minidiff.lesson import Lesson
from minidiff.plot import layers as draw

lesson = Lesson("00_layers")

# %% [markdown]
# ## A curve to follow
#
# Here are 64 points of a wavy curve, and the best straight line through them. A straight line has two
# numbers that you can choose. The small network of this lesson has 97.
#
# **Predict before you run the next cell:** what share of the curve's variance does the straight line
# explain? And what share will 97 numbers explain, after 2000 small steps? Write both down.

# %%
lesson.predict("...")
x = np.linspace(-1, 1, 64)[:, None]
y = np.sin(5 * x) + 0.3 * np.cos(11 * x)  # both (64, 1)


def explained(guess):
    """1: all of the variance; 0: no better than the mean."""
    return 1 - np.mean((np.asarray(guess) - y) ** 2) / np.var(y)


straight = np.polyval(np.polyfit(x[:, 0], y[:, 0], 1), x)
lesson.show(draw.fits(x[:, 0], y[:, 0], {"": {"the best straight line": straight}}))
lesson.outcome(f"{explained(straight):.0%} for the line")

# %% [markdown]
# ## Arrays
#
# `jax.numpy`, written `jnp`, is NumPy with another engine: the same names, on CPU, GPU or TPU. Two
# things differ. Numbers are 32-bit floats. And an array never changes: instead of writing into it you
# ask for a copy with something changed.

# %%
lesson.expect("explained by the line", explained(straight), 0.05, 0.07)
four = jnp.array([1.0, 2.0, 3.0, 4.0])
try:
    four[0] = 9.0
except TypeError:
    print("an array cannot be written into")
changed = four.at[0].set(9.0)
print(four, changed)
lesson.claim(four[0] == 1 and changed[0] == 9 and four.dtype == jnp.float32)

# %% [markdown]
# This sounds like a burden. It is what makes the rest possible: if nothing ever changes behind its
# back, a function's result depends on its arguments alone. Such a function is called **pure**. JAX can
# take a pure function and make another one of it: a compiled one, its slope, one for a whole batch.
#
# ## Keys
#
# NumPy's random numbers come from a generator that remembers how many it has given: not pure. In JAX
# you hold the randomness in your hand. It is called a **key**, and the same key always gives the same
# numbers.
#
# **Predict before you run the next cell:** in each panel, 200 numbers of a second draw stand against
# 200 of a first. What does it look like if both draws use the same key? If the key was split in two?

# %%
lesson.predict("...")
key = jax.random.key(0)
again = [jax.random.normal(key, (200,)) for _ in range(2)]
left, right = jax.random.split(key)
fresh = [jax.random.normal(k, (200,)) for k in (left, right)]
lesson.show(draw.pairs({"the same key twice": again, "two keys made by split": fresh}))

# %% [markdown]
# So a key is used once. If you need more, `jax.random.split(key, n)` makes `n` new ones, and
# `jax.random.fold_in(key, i)` makes the one with number `i`: handy for step `i` of a loop or image `i`
# of a batch, since image 5 gets the same numbers whether 8 or 64 are drawn.

# %%
lesson.claim((again[0] == again[1]).all())
lesson.expect("correlation after split", np.corrcoef(*fresh)[0, 1], -0.2, 0.2)
keys = jax.random.split(key, 3)
numbered = [jax.random.normal(jax.random.fold_in(key, i)) for i in range(8)]
lesson.claim(keys.shape == (3,))
lesson.claim(numbered[5] == jax.random.normal(jax.random.fold_in(key, 5)))
lesson.claim(len({float(number) for number in numbered}) == 8)

# %% [markdown]
# ## jit: compile once, run often
#
# `jax.jit(f)` makes a compiled `f`. On the first call JAX runs your Python once with stand-ins for the
# arrays, which have a shape and a type but no numbers. It writes down every operation; that is called
# **tracing**. The list is compiled, and later calls run the compiled program without your Python.
#
# **Predict before you run the next cell:** the function is called four times, on three arrays of 64
# numbers and one of 7. How often is its Python run?

# %%
lesson.predict("...")
traced = []


def wave(x):
    traced.append(x.shape)  # not pure, so that you can see when Python runs
    return jnp.sin(5 * x) + 0.3 * jnp.cos(11 * x)


fast = jax.jit(wave)  # float32 all of them: another type would be traced as well
for points in (jnp.zeros(64), jnp.ones(64), jnp.linspace(0, 1, 64), jnp.ones(7)):
    fast(points)
print("traced for the shapes", traced)
lesson.outcome(f"{len(traced)} times")
print(jax.make_jaxpr(wave)(jnp.ones(7)))  # what was written down

# %% [markdown]
# Twice: once for each new shape. This is why batches in this course have a fixed size. And since a
# stand-in has no numbers, Python cannot decide anything by them: `if x > 0` fails while tracing, and
# `jnp.where(x > 0, ...)` works, one more operation to write down.
#
# Compiling is slow and running is fast. How much slower depends on your machine:


# %%
lesson.claim(traced == [(64,), (7,)])


@jax.jit
def hundred_waves(x):
    for _ in range(100):
        x = jnp.sin(x) + 0.1 * x
    return x


seconds = []
for _ in range(5):
    begun = time.perf_counter()
    hundred_waves(four).block_until_ready()  # JAX does not wait for results unless told
    seconds.append(time.perf_counter() - begun)
power = round(np.log10(seconds[0] / np.median(seconds[1:])))
print(f"the first call took about 10^{power} times as long as a later one")

# %% [markdown]
# ## grad: the slope in every number
#
# `jax.grad(f)` makes the function that computes the slopes of `f`, if `f` returns one number. On our
# four numbers:
#
# $$f(w) = \sum_i w_i^2, \qquad \frac{\partial f}{\partial w_i} = 2 w_i$$

# %%
slopes = jax.grad(lambda w: jnp.sum(w**2))(four)
print(slopes)
lesson.agree(slopes, [2, 4, 6, 8])

# %% [markdown]
# ## vmap: written for one, run for many
#
# Write the function for one example; `jax.vmap` gives it a batch axis. There is no loop: the result is
# one program that works on all of them at once.


# %%
def line(w, x):  # w (2,) and x () -> ()
    return w[0] * x + w[1]


ws = jax.random.normal(left, (5, 2))
many = jax.vmap(line, (0, None))(ws, 0.5)  # along axis 0 of ws; the same x for all
lesson.agree(many, [line(w, 0.5) for w in ws], rtol=1e-6)
print(many.shape)

# %% [markdown]
# ## Trees of arrays
#
# A network has many arrays. JAX takes any nest of dicts, lists and dataclasses, with arrays as leaves,
# wherever it takes an array. It calls such a nest a **pytree**. `jax.tree.map` does something to every
# leaf; `jax.grad` returns a tree of the same form.

# %%
params = {"weight": jnp.array([[2.0]]), "bias": jnp.array([1.0])}
doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
tree_slopes = jax.grad(lambda p: jnp.mean((x @ p["weight"] + p["bias"] - y) ** 2))(params)
print(tree_slopes)
lesson.claim(doubled["bias"] == 2 and tree_slopes.keys() == params.keys())

# %% [markdown]
# ### Exercise 0.1 · One step (★★, 8 minutes)
#
# Write `my_descent_step(params, x, y, rate)`: one step of gradient descent. `params` is a dict with
# `weight` (in, out) and `bias` (out,); the guess is $xW + b$; the loss is the mean of the squared
# errors over all numbers. Every array moves against its slope, times `rate`. Return a dict like
# `params`.
#
# The check below says what it thinks of your function. `checks.descent_step.hint()` prints a hint,
# called again the next one. If you leave an exercise out, the lesson goes on without it.


# %%
def my_descent_step(params, x, y, rate):
    # your code here, in place of the next line
    raise NotImplementedError


checks.descent_step(my_descent_step)

# %% [markdown]
# ## A layer is a dataclass
#
# In minidiff a layer is a frozen dataclass, which `struct.dataclass` makes a pytree. Its arrays are its
# fields. `init` draws them from a key, calling it is a pure function. There is nothing else to it.

# %%
lesson.source(Linear)

# %% [markdown]
# The weights are divided by the root of the number of inputs, so that a sum over many inputs is no
# larger than one input. Out of layers you build a network in the same way:


# %%
@struct.dataclass
class Net:
    first: Linear
    last: Linear

    @classmethod
    def init(cls, key, hidden=32):
        first_key, last_key = jax.random.split(key)
        return cls(Linear.init(first_key, 1, hidden), Linear.init(last_key, hidden, 1))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


net = Net.init(key)
print(jax.tree.map(jnp.shape, net))
lesson.claim(count_parameters(net) == (1 * 32 + 32) + (32 * 1 + 1) == 97)
lesson.claim(count_parameters(Linear.init(key, 100, 50)) == 100 * 50 + 50)

# %% [markdown]
# Why the $\tanh$ between the two? Without it, two layers are $(xW_1 + b_1)W_2 + b_2$, a straight line
# again. With it, each of the 32 hidden numbers is one bend, and the last layer adds up bends.
#
# ## Train it
#
# This is all of training: slopes, a step, again. [optax](https://optax.readthedocs.io) turns slopes into
# steps. Its `adam` gives each number a step length of its own and must remember averages of past
# slopes; `opt_state` holds them, one more tree.

# %%
optimizer = optax.adam(0.01)


def loss(net, x, y):
    return jnp.mean((net(x) - y) ** 2)


@jax.jit
def train_step(net, opt_state):
    slopes = jax.grad(loss)(net, x, y)
    updates, opt_state = optimizer.update(slopes, opt_state)
    return optax.apply_updates(net, updates), opt_state


def train(net, steps):
    opt_state = optimizer.init(net)
    for _ in range(steps):
        net, opt_state = train_step(net, opt_state)
    return net


steps = lesson.pick(smoke=20, cpu=2000)
trained = train(net, steps)
guesses = {f"after {n} steps": train(net, n)(x)[:, 0] for n in (0, min(200, steps))}
guesses[f"after {steps} steps"] = trained(x)[:, 0]
lesson.show(draw.fits(x[:, 0], y[:, 0], {"": guesses}))
lesson.expect("explained by the network", explained(trained(x)), 0.98, 1.0, trained=True)

# %% [markdown]
# The untrained network is nearly flat, 200 steps find the large wave, 2000 the small one
# too. Compare with your guess.
#
# Larger trainings in minidiff use `TrainState` and `make_train_step` of
# [minidiff/training/state.py](../minidiff/training/state.py). They are this loop with the step number
# and a running average of the network in the same tree.
#
# ## Many blocks
#
# The networks to come stack the same block a dozen times. A stack is made without a loop: one function
# that draws one block, `vmap` over the keys. Every array gets one more axis in front.
#
# ### Exercise 0.2 · A key for each block (★★, 5 minutes)
#
# Write `my_block_weights(key, blocks, width)`: make `blocks` keys by `jax.random.split(key, blocks)`,
# draw the weight of `Linear.init(k, width, width)` from each, and return all of them as one array
# `(blocks, width, width)`.


# %%
def my_block_weights(key, blocks, width):
    # your code here, in place of the next line
    raise NotImplementedError


checks.block_weights(my_block_weights)

# %% [markdown]
# What if all blocks are drawn from the same key? It is an easy mistake, and nothing complains. Pass
# numbers of spread 1 through 20 blocks, each of which adds its output to what came in:
#
# $$h \leftarrow h + h W_i$$
#
# $hW_i$ has the spread of $h$, and is independent of it, so the variance doubles with every block:
# after 20 blocks the spread is $\sqrt{2^{20}} = 1024$.
#
# **Predict before you run the next cell:** with 20 *equal* blocks, is it larger, smaller or the same?

# %%
lesson.predict("...")
width, blocks = 256, 20
stack = jax.vmap(lambda k: Linear.init(k, width, width))(jax.random.split(key, blocks))
same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), stack)


def spread_by_depth(stack, norm=lambda h: h):
    h = jax.random.normal(right, (64, width))
    seen = [h.std()]
    for i in range(blocks):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], stack)
        h = h + block(norm(h))
        seen.append(h.std())
    return np.array(seen)


# %%
lesson.claim(stack.weight.shape == (blocks, width, width))
norm = LayerNorm.init(width)
curves = {"one key for all": spread_by_depth(same), "a key each": spread_by_depth(stack)}
curves["a key each, LayerNorm"] = spread_by_depth(stack, norm)
lesson.show(draw.spreads(curves, {"1024": 1024.0}))
last = {name: float(curve[-1]) for name, curve in curves.items()}
lesson.outcome(
    f"{last['one key for all']:.0f} with equal blocks, {last['a key each']:.0f} with 20 others"
)
lesson.expect("spread, a key each", last["a key each"], 900, 1150)
lesson.expect("spread, one key for all", last["one key for all"], 2.5e5, 4.5e5)
lesson.expect("spread with LayerNorm", last["a key each, LayerNorm"], 4.3, 4.9)

# %% [markdown]
# Equal blocks all push the same way, and the spread ends hundreds of times larger still. In this
# course a test holds that block weights differ.
#
# But 1024 is no good either: `tanh` of such numbers is flat, so its slope is zero. The green curve
# normalises what each block sees. A block then adds variance 1, whatever came before, and the
# spread is about $\sqrt{1 + 20} = 4.6$.
#
# ## Norms
#
# **LayerNorm** takes each example by itself. It takes the mean of its numbers away, divides by the root
# of their variance, then scales and shifts each channel by numbers that are trained:
#
# $$\frac{x - \text{mean}}{\sqrt{\text{variance} + \epsilon}} \cdot \text{scale} + \text{shift}$$
#
# ### Exercise 0.3 · Normalise (★, 5 minutes)
#
# Write `my_layer_norm(x, scale, shift, eps)`. `x` is `(..., width)`, with any number of axes in front;
# mean and variance are over the last axis.


# %%
def my_layer_norm(x, scale, shift, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.layer_norm(my_layer_norm)

# %% [markdown]
# **GroupNorm** does the same to groups of channels, over all pixels of an image. Below are 6 examples
# of 12 channels. Each example is larger than the one above it, and channels 4 to 7 have 10 added.
#
# **Predict before you run the next cell:** which of the two faults does LayerNorm remove? Which does
# GroupNorm, with channels 0 to 3, 4 to 7 and 8 to 11 as groups?

# %%
lesson.predict("...")
size = jnp.arange(1.0, 7.0)[:, None]
h = size * (jax.random.normal(key, (6, 12)) + 10 * (jnp.arange(12) // 4 == 1)[None, :])
by_layer, by_group = LayerNorm.init(12)(h), GroupNorm.init(12, groups=3)(h)
lesson.show(draw.channels({"before": h, "LayerNorm": by_layer, "GroupNorm, 3 groups": by_group}))

# %% [markdown]
# LayerNorm makes the rows alike, but the loud channels stay loud. GroupNorm removes both. Transformers
# (lesson 03) use LayerNorm, the U-Net (lesson 09) GroupNorm. The number of groups is a setting, not a
# number to train: the dataclass marks it `pytree_node=False`, and it is no leaf of the tree.
#
# ## Break it: one key for all hidden numbers
#
# Take 32 hidden units, each with a weight in and a weight out, drawn from a key of its own. Then draw
# all of them from one key, and train both.
#
# **Predict before you run the next cell:** what can the second network draw?


# %%
lesson.predict("...")


def from_keys(keys):
    drawn = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)  # weight in, weight out
    first = Linear(weight=3 * drawn[:, 0][None, :], bias=jnp.zeros(32))
    return Net(first, Linear(weight=drawn[:, 1][:, None] / 32**0.5, bias=jnp.zeros(1)))


own = train(from_keys(jax.random.split(key, 32)), steps)
one = train(from_keys(jnp.broadcast_to(key, (32,))), steps)
panels = {"a key for each unit": {"network": own(x)[:, 0]}, "one key": {"network": one(x)[:, 0]}}
lesson.show(draw.fits(x[:, 0], y[:, 0], panels))

# %% [markdown]
# Equal units get equal slopes, so they take equal steps and stay equal for ever. 32 units can do what
# one can: a single bend. More training does not help. Only randomness breaks the **symmetry**.
#
# ## Break it: a layer that nobody trains
#
# A tutorial on the web once made its layers inside the function that runs the network. 99.7% of its
# parameters never trained. Here is that fault, with a middle layer of 1056 numbers.


# %%
lesson.expect("explained, own keys", explained(own(x)), 0.98, 1.0, trained=True)
lesson.expect("explained, one key", explained(one(x)), -0.1, 0.3, trained=True)
lesson.expect("largest difference of two units", np.ptp(one.first.weight), 0, 1e-3)
lesson.agree(by_layer.mean(axis=1), 0, atol=1e-5)
lesson.agree(by_layer.std(axis=1), 1, atol=1e-3)
lesson.agree(by_group.reshape(6, 3, 4).mean(axis=2), 0, atol=1e-5)
lesson.agree(by_group.reshape(6, 3, 4).std(axis=2), 1, atol=1e-3)
lesson.claim(len(jax.tree.leaves(GroupNorm.init(12, groups=3))) == 2)  # scale and shift


@struct.dataclass
class Forgetful(Net):
    def __call__(self, x):
        middle = Linear.init(jax.random.key(1), 32, 32)  # made anew on every call
        return self.last(jnp.tanh(middle(jnp.tanh(self.first(x)))))


@struct.dataclass
class Deeper(Net):
    middle: Linear

    def __call__(self, x):
        return self.last(jnp.tanh(self.middle(jnp.tanh(self.first(x)))))


forgetful = Forgetful(net.first, net.last)
deeper = Deeper(net.first, net.last, middle=Linear.init(jax.random.key(1), 32, 32))
lesson.agree(forgetful(x), deeper(x))  # they compute the same
print("parameters:", count_parameters(forgetful), "and", count_parameters(deeper))
lesson.claim((count_parameters(forgetful), count_parameters(deeper)) == (97, 97 + 1056))

# %% [markdown]
# The two compute the very same numbers. But the middle layer of the first is in no field, so it is no
# leaf: `grad` does not see it and no step moves it.
#
# **Predict before you run the next cell:** does the loss tell you?

# %%
lesson.predict("...")
fitted = train(forgetful, steps)
slopes = jax.grad(loss)(deeper, x, y)
reached = jax.tree.map(lambda slope: bool(jnp.any(slope != 0)), slopes)
print(reached)

# %%
lesson.expect("explained without the middle", explained(fitted(x)), 0.95, 1.0, trained=True)
lesson.claim(isinstance(slopes, Deeper) and all(jax.tree.leaves(reached)))

# %% [markdown]
# It does not: the layers around the dead one make up for it here, and a large network would merely be
# worse than it should. Two questions find the fault in a second. Is the number of parameters what
# you reckoned? Does every parameter get a slope? minidiff's tests ask both of every network.
#
# ## Recap
#
# - A pure function depends on its arguments alone; that is why JAX can compile, differentiate and
#   batch it.
# - A key is used once. `split` makes more, `fold_in(key, i)` makes the one of number `i`.
# - `jit` traces once for each shape, compiles, and then runs without Python.
# - A network is a frozen dataclass of arrays: a pytree. So are its slopes and the optimizer's memory.
# - Random starts differ from block to block, and norms keep deep stacks at a sane size.
#
# **Pitfalls.** A key used twice; `if` on a traced value; a shape that changes from batch to batch, so
# that every call compiles; a layer made outside the tree.
#
# ## Quiz
#
# 1. You draw noise in a loop with the same key. What do you get?
#
# <details><summary>Answer</summary> The same noise every time. Use fold_in(key, step).</details>
#
# 2. A jitted function prints its argument. How often do you see it?
#
# <details><summary>Answer</summary> Once for each new shape, and you see a stand-in without numbers:
# printing happens while tracing.</details>
#
# 3. `Linear.init(key, 100, 50)` has how many parameters?
#
# <details><summary>Answer</summary> 100 · 50 + 50 = 5050.</details>
#
# 4. All weights of a network start at zero. What is wrong with it?
#
# <details><summary>Answer</summary> The hidden units are all equal, so they get equal slopes and stay
# equal: the symmetry of the one key.</details>
#
# 5. What does `jax.grad(loss)(net, x, y)` return?
#
# <details><summary>Answer</summary> A Net, with a slope in place of every number.</details>
#
# ## References
#
# Ba, Kiros, Hinton: [Layer Normalization](https://arxiv.org/abs/1607.06450), 2016. Wu, He:
# [Group Normalization](https://arxiv.org/abs/1803.08494), 2018. Kingma, Ba:
# [Adam](https://arxiv.org/abs/1412.6980), 2014. The manual of [JAX](https://docs.jax.dev).
#
# **Next:** [01 · Scenes](01_scenes.ipynb), a world to learn from.
