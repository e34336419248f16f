# %% [markdown]
# # 09 · U-Net
#
# **The one idea:** a coarse picture knows *what* is there, a fine picture knows *where*. A U-Net looks
# at both: down to the coarse one, up again, and across by skip connections.
#
# | | |
# |---|---|
# | module | [minidiff/unet.py](../minidiff/unet.py) and its [blocks](../minidiff/blocks.py) |
# | papers | [U-Net](https://arxiv.org/abs/1505.04597); [DDPM](https://arxiv.org/abs/2006.11239), appendix B |
# | before this | [08 · Sampling](08_sampling.ipynb) |
# | minutes | 45 to read and solve, 3 to run |
# | loads, saves | loads the weights of `text_to_image`; saves nothing |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from minidiff import blocks, checks, layouts, noising, plot
from minidiff.data.scenes import SceneSource
from minidiff.guidance import ClipX0
from minidiff.layers import Conv, GroupNorm, count_parameters, time_embedding
from minidiff.lesson import Lesson
from minidiff.measure import metrics
from minidiff.objectives import FromV
from minidiff.plot import unet as draw
from minidiff.plot.noising import lines
from minidiff.recipes import ddpm, text_to_image
from minidiff.sampling import ddim_sample
from minidiff.training.state import TrainState, fit, make_optimizer, make_train_step
from minidiff.unet import UNet

lesson = Lesson("09_unet")
key = jax.random.key(0)

# %% [markdown]
# ## What can be seen from far away
#
# Below are three scenes with a lot of noise ($t = 500$ of the cosine schedule). Then the same noisy
# pictures seen from farther and farther away: each square of four pixels becomes one, their mean.
#
# **Predict before you run the next cell:** what becomes of the noise, what of the picture?

# %%
lesson.predict("...")
config = ddpm.PRESETS[lesson.preset]  # the settings of `minidiff train ddpm`
schedule = config.noise_schedule()
test = jax.jit(SceneSource(split="test", batch_size=256).batch)(0)["image"]
eps = jax.random.normal(key, test.shape)
noisy = noising.add_noise(schedule, test, jnp.full(256, 500), eps)


def halved(x):
    batch, side, _, channels = x.shape
    return x.reshape(batch, side // 2, 2, side // 2, 2, channels).mean(axis=(2, 4))


def ladder(x):
    return [x, halved(x), halved(halved(x)), halved(halved(halved(x)))]


rows = []
for i in (0, 1, 2):
    seen = [np.asarray(x[i]).repeat(2**n, 0).repeat(2**n, 1) for n, x in enumerate(ladder(noisy))]
    rows.append(("", np.stack([np.asarray(test[i]), *seen])))
lesson.show(plot.strips(rows, ["scene", "16 x 16", "8 x 8", "4 x 4", "2 x 2"]))
spreads = [float(x.std()) for x in ladder(eps)]
print("spread of the noise:", np.round(spreads, 3))

# %% [markdown]
# Each halving halves the noise: the mean of four independent numbers has half their spread. At 4 x 4
# you can tell the background, and where something stands, which at 16 x 16 you could hardly. But the
# edges are gone, and the noise of each single pixel, which the network has to name, is gone too.
#
# So a U-Net goes **down** a ladder of resolutions (here convolutions learn what to keep, instead of a
# plain mean), and **up** again. On the way up each level gets two things: what comes from below,
# doubled in size, and a **skip**: its own features from the way down, with all their detail. They are
# put side by side as channels.
#
# ### Exercise 9.1 · Where coarse meets fine (★, 5 minutes)
#
# Write `my_join_skip(x, skip)`. `x` is `(batch, side, side, channels)`, `skip` is `(batch, 2 * side,
# 2 * side, more)`. Repeat each pixel of `x` in a square of four; then the channels of `skip` follow
# those of `x`.


# %%
def my_join_skip(x, skip):
    # your code here, in place of the next line
    raise NotImplementedError


checks.join_skip(my_join_skip)

# %% [markdown]
# ## The block
#
# Every stage is a **ResBlock**: two convolutions, and a shortcut that adds the input to the result. At
# the start the second convolution is nearly zero, so a block begins as "change nothing". In the middle
# it is told the time.

# %%
lesson.agree(spreads, [1, 0.5, 0.25, 0.125], rtol=0.03)
lesson.source(blocks.ResBlock.__call__)

# %% [markdown]
# `norm1` and `norm2` are **group normalisation**. The channels of an image are split into groups of
# neighbours; in each image and each group the numbers are shifted and scaled to mean 0 and variance 1:
#
# $$\frac{x - \text{mean}}{\sqrt{\text{variance} + 0.00001}}$$
#
# That keeps sizes in check at every depth, and no image depends on the others of its batch.
#
# ### Exercise 9.2 · Group normalisation (★★, 8 minutes)
#
# Write `my_normalize_groups(x, groups)` for `x` of shape `(batch, height, width, channels)`.


# %%
def my_normalize_groups(x, groups):
    # your code here, in place of the next line
    raise NotImplementedError


checks.normalize_groups(my_normalize_groups)

# %% [markdown]
# ## How the time enters
#
# The same network serves all 1000 steps, so it must be told $t$. One number would be too coarse a
# hint. It is turned into 32 waves of different lengths, like the hands of a clock.

# %%
t = np.arange(0, 1000, 5)
told = np.asarray(time_embedding(jnp.asarray(t), 32))
lesson.show(draw.waves(told, t, compared=[100, 500]))
lesson.agree(np.square(told).sum(axis=1), 16, rtol=1e-5)  # 16 times sin² + cos²

# %% [markdown]
# Left: fast waves tell neighbours apart, slow ones early from late. Right: every $t$ is like itself and
# somewhat like its neighbours, and unlike the rest. Two linear layers turn this into the vector `time`
# that every ResBlock adds to its features.
#
# ## The whole network
#
# One bar per stage, from the noisy image on the left to the guess on the right. Its height is the side
# of the image, the number above it the channels. Grey lines are skips. First ours.

# %%
mine = config.unet((16, 16, 3))
rows = layouts.describe(mine, 16)
lesson.show(draw.ladder(rows, mine.attention, "the network of this lesson"))
print(layouts.table(mine, 16))

# %% [markdown]
# Four pixels are folded into one position at the entrance (`patch=2`), so the finest level is 8 x 8.
# After the blocks at 4 x 4 comes **attention** (lesson 03): every position looks at every other. The
# coarse level is where most of the parameters are, and where they are cheap to use.
#
# And this is Stable Diffusion 1, by the same code ([layouts](../minidiff/layouts.py)). Only shapes are
# computed: nothing is allocated.

# %%
stable = layouts.LAYOUTS["stable-diffusion-1"]
rows = layouts.describe(stable, 64)
lesson.show(draw.ladder(rows, stable.attention, "Stable Diffusion 1: 12 + 1 + 12"))
print("\n".join(layouts.table(stable, 64).splitlines()[-2:]))

# %% [markdown]
# The 12 input blocks are the first convolution, 8 ResBlocks and 3 halvings. The 12 output blocks are 12
# ResBlocks; the 3 doublings belong to the blocks before them.
#
# ### Exercise 9.3 · Count (★, 4 minutes)
#
# Write `my_count_resblocks(levels, blocks)`: all ResBlocks of a U-Net with so many levels and so many
# blocks per level on the way down. On the way up every level has one more, because the entrance of
# each level is kept as a skip as well. The middle is ResBlock, attention, ResBlock.


# %%
def my_count_resblocks(levels, blocks):
    # your code here, in place of the next line
    raise NotImplementedError


checks.count_resblocks(my_count_resblocks)

# %% [markdown]
# A summary that is often quoted, of the [ControlNet paper](https://arxiv.org/abs/2302.05543), says: of
# the 25 blocks 8 are down- or up-sampling convolutions, and the other 17 contain 4 ResNet layers and 2
# vision transformers *each*. That would be 68 and 34. It mixes two ways of counting, blocks and whole
# levels. The table counts what is there.

# %%
counts = layouts.count_blocks(stable)
lesson.claim((counts["input"], counts["middle"], counts["output"]) == (12, 1, 12))
lesson.claim((counts["resblocks"], counts["attention"]) == (22, 16))
lesson.claim((17 * 4, 17 * 2) == (68, 34))
lesson.claim(len(stable.channels) * (2 * stable.blocks + 1) + 2 == counts["resblocks"])

# %% [markdown]
# ## Train it
#
# The loss is that of lesson 07, with three refinements of minidiff's recipe. The network predicts $v$,
# a mixture of noise and image from which both can be had (`FromV` turns it into a guess of the noise).
# `weight` makes the error on the noise an error on $v$, and `draw_steps` draws middle $t$ more often.
# Muon is an optimizer that learns more from each image than plain gradient descent.

# %%
until = lesson.pick(smoke=4, cpu=400)
weight = config.step_weight()


def loss(key, network, batch):
    denoiser = FromV(network, schedule)
    return noising.noise_loss(key, denoiser, schedule, batch["image"], weight, config.draw_steps)


def learn(network, until):
    optimizer = make_optimizer(until, config.learning_rate, kind=config.optimizer, warmup=30)
    begun = jax.jit(TrainState.init, static_argnums=1)(network, optimizer)
    step = make_train_step(loss, optimizer, ema_decay=0.95, steps=lesson.pick(smoke=2, cpu=25))
    losses = []
    for state, seen in fit(key, begun, SceneSource(batch_size=64), step, until):
        losses.append(float(seen["loss"].mean()))
    return state.ema, losses  # ema: the running average of the weights


# %%
quick = {"xla_backend_optimization_level": 0}  # it runs once: compile fast, not well
start = jax.jit(UNet.init, static_argnums=1, compiler_options=quick)(key, mine)
unet, losses = learn(start, until)
when = np.linspace(0, until, len(losses) + 1)[1:]
lesson.show(lines(when, {"loss": losses}, "step", "loss on v", log=True))
lesson.expect("last loss", losses[-1], 0.1, 0.25, trained=True)

# %% [markdown]
# Did everything learn? Compare each array of weights with where it began. One kind may stay: the bias
# of the attention's keys adds the same to all scores of a query, and softmax takes that away again.

# %%
moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), unet, start)
names = {
    jax.tree_util.keystr(path): size for path, size in jax.tree_util.tree_leaves_with_path(moved)
}
still = [name for name, size in names.items() if size < 1e-6 and ".key.bias" not in name]
print(f"{len(names)} arrays, {count_parameters(unet):,} numbers; not moved: {still}")
lesson.claim(still == [])

# %% [markdown]
# ## A filmstrip
#
# Sample as in lesson 08. Upper row: $x_t$. Lower row: the image $\hat{x}_0$ that the network foresees
# from it.


# %%
def denoiser_of(network):
    return ClipX0(FromV(network, schedule), schedule)  # foreseen images are kept within [-1, 1]


steps = lesson.pick(smoke=10, cpu=50)
settings = {"steps": steps, "every": steps // 10}
made, film = ddim_sample(key, denoiser_of(unet), schedule, (16, 16, 16, 3), **settings)
rows = []
for i in (0, 1):
    rows += [("$x_t$", np.asarray(film.xt[:, i])), ("foreseen", np.asarray(film.x0[:, i]))]
lesson.show(plot.strips(rows, [f"t = {t}" for t in film.t.tolist()]))

# %% [markdown]
# Read it from left to right: first a tint and a horizon, then a blob in the right place, at last its
# edges. Coarse before fine, as in lesson 07.
#
# Now beside a network of the same kind that learned nearly four times as long. Real scenes are flat, so
# noise that is left in a picture can be measured.

# %%
WHOSE = "reference"  # or "mine": your own run of `minidiff train text_to_image`
model = text_to_image.load(lesson.weights("text_to_image", WHOSE))
shape = (16, 16, 16, 3)
theirs = ddim_sample(key, model.denoiser([""] * 16), model.schedule, shape, steps=steps)
panels = [(f"{until} steps of training", made), ("reference", theirs), ("real scenes", test[:16])]
lesson.show(plot.side_by_side([(name, np.asarray(images)) for name, images in panels]))
level = {name: metrics.noise_level(np.asarray(images)) for name, images in panels}
for name, value in level.items():
    print(f"noise left, {name}: {value:.3f}")
ratio = level[panels[0][0]] / level["reference"]
lesson.expect("noise left, this lesson's over the reference's", ratio, 0.8, 3.0, trained=True)

# %% [markdown]
# ## Where is it easy, where hard?
#
# One loss is a mean over all $t$. Take it apart: the error of the guessed noise, and the error of the
# image that follows from it, at 20 values of $t$ on 256 test scenes.
#
# **Predict before you run the next cell:** at which end is the noise harder to guess, near the image
# ($t$ small) or near pure noise ($t$ large)? And the image?


# %%
lesson.predict("...")


@jax.jit
def errors(network, t, told):
    """Mean squared error of the noise and of the image at step t, for a network that is told another."""
    ts, told = jnp.full(256, t), jnp.full(256, told)
    xt = noising.add_noise(schedule, test, ts, eps)
    guess = FromV(network, schedule)(xt, told)
    x0 = noising.predict_x0(schedule, xt, told, guess)
    return jnp.mean((guess - eps) ** 2), jnp.mean((x0 - test) ** 2)


def by_t(network):
    return np.array([errors(network, t, t) for t in asked])


asked = np.arange(25, 1000, 50)
whole = by_t(unet)
both = {"of the noise": whole[:, 0], "of the image": whole[:, 1]}
lesson.show(lines(asked, both, "t", "mean squared error", log=True))
worst = {name: asked[values.argmax()] for name, values in both.items()}
lesson.outcome(", ".join(f"the error {name} is largest at t = {t}" for name, t in worst.items()))

# %% [markdown]
# The two lines cross. Near the image there is little noise, hard to tell from the picture, and no harm
# if you err. Near pure noise, $x_t$ *is* the noise, so naming it is easy, and the image is anyone's
# guess. A small loss on the noise says little at large $t$. We come back to this.
#
# Does the network listen to the time? Show it $t = 300$ and tell it something else.

# %%
lesson.expect("noise, t = 25 over t = 975", whole[0, 0] / whole[-1, 0], 10, 1e5, trained=True)
lesson.expect("image, t = 975 over t = 25", whole[-1, 1] / whole[0, 1], 10, 1e4, trained=True)
lies = np.arange(0, 1000, 50)
heard = np.array([float(errors(unet, 300, lie)[0]) for lie in lies])
lesson.show(
    lines(lies, {"shown t = 300": heard}, "the t that it is told", "error of the noise", log=True)
)
lesson.expect("best where it is told", lies[heard.argmin()], 250, 350, trained=True)

# %% [markdown]
# The error is least where it is told the truth. A sampler that passes the wrong `t` fails like this.
#
# ## Break it: cut the skips
#
# A block is anything that is called as `block(x, time)`. So put each block of the way up into a wrapper
# that zeroes the channels of the skip, which come after the block's own. Level 0 is the coarse one.


# %%
@struct.dataclass
class Cut:
    block: blocks.ResBlock
    own: int = struct.field(pytree_node=False)  # channels that come from below

    def __call__(self, x, time):
        return self.block(x.at[..., self.own :].set(0.0), time)


def cut(unet, levels):
    """The network with all skips into these levels of the way up cut."""
    own, up = unet.config.channels[-1], []
    for n, level in enumerate(unet.up):
        changed = []
        for block in level.blocks:
            changed.append(Cut(block, own) if n in levels else block)
            own = block.conv2.weight.shape[-1]  # what it hands on
        up.append(level.replace(blocks=tuple(changed)))
    return unet.replace(up=tuple(up))


# %%
@jax.jit
def foreseen(network, xt, t):
    return noising.predict_x0(schedule, xt, t, denoiser_of(network)(xt, t))


networks = {
    "whole": unet,
    "coarse skips cut": cut(unet, [0]),
    "fine skips cut": cut(unet, [1]),
}
at = 250
xt = noising.add_noise(schedule, test[:8], jnp.full(8, at), eps[:8])
rows = [("scene", np.asarray(test[:8])), (f"t = {at}", np.asarray(xt))]
for name, network in networks.items():
    rows.append(
        (name.replace(" skips", "\nskips"), np.asarray(foreseen(network, xt, jnp.full(8, at))))
    )
lesson.show(plot.strips(rows))
damage = {name: by_t(network)[:, 0] for name, network in networks.items()}
lesson.show(lines(asked, damage, "t", "error of the noise", log=True))
for name, low in (("coarse skips cut", 1.1), ("fine skips cut", 2.5)):
    ratio = damage[name].mean() / damage["whole"].mean()
    lesson.expect(f"mean error, {name} over whole", ratio, low, 4 * low, trained=True)

# %% [markdown]
# Without the fine skips the noise stays in the picture: the network still sees what is there, but no
# longer where each pixel's noise is. The error is several times larger, except near pure noise. The
# coarse skips are missed less: what comes from below knows nearly the same. Mind that this is damage to
# a network that relies on its skips; one that had been trained without them would have adapted.
#
# ## Break it again: layers in a closure
#
# A widely copied U-Net tutorial made its layers inside functions, where the optimizer could not see
# them: 99.7% of its numbers never learned. In JAX the same happens to whatever a network uses but
# does not hold as a field. Here only the first and the last layer are fields.

# %%
body = jax.tree.map(jnp.copy, start)


@struct.dataclass
class Closed:
    conv_in: Conv
    norm_out: GroupNorm
    conv_out: Conv

    def __call__(self, xt, t):  # `body` comes from outside: no gradient, no learning
        return body.replace(**{name: getattr(self, name) for name in vars(self)})(xt, t)


closed = Closed(start.conv_in, start.norm_out, start.conv_out)
share = count_parameters(closed) / count_parameters(start)
lesson.expect("share of the numbers that can learn", share, 0.005, 0.0055, trained=True)
half_blind, closed_losses = learn(closed, until // 2)

# %%
blind = by_t(half_blind)
curves = {"all can learn": whole[:, 0], f"{share:.1%} can": blind[:, 0]}
lesson.show(lines(asked, curves, "t", "error of the noise", log=True))
ratio = closed_losses[-1] / losses[len(closed_losses) - 1]  # after as many steps
lesson.expect("its loss over the other's", ratio, 1.2, 5, trained=True)
lesson.expect("its mean error of the noise", blind[:, 0].mean(), 0.15, 0.4, trained=True)
noise16 = ddim_sample(key, denoiser_of(half_blind), schedule, shape, steps=steps)
pictures = [("all can learn", np.asarray(made)), (f"{share:.1%} can", np.asarray(noise16))]
lesson.show(plot.side_by_side(pictures))
level["blind"] = metrics.noise_level(np.asarray(noise16))
lesson.expect(
    "noise left, over all can learn", level["blind"] / level[panels[0][0]], 1.3, 4, trained=True
)

# %% [markdown]
# Always answering 0 has an error of 1, so an error of a quarter looks as if much had been learned, and
# it falls with $t$ just as it should: at large $t$, $x_t$ is nearly the noise itself and needs only be
# copied. But its pictures are smears in which nothing can be named. "The loss is low" is no proof. The
# test above, whether every array has moved, finds the fault at once.
#
# ## Recap
#
# - Coarse levels see what is there, since averaging kills noise. Skips carry where.
# - Every ResBlock is told the time, as waves.
# - Ours and Stable Diffusion's are one code with other numbers: 12 + 1 + 12 blocks, 22 ResBlocks, 16
#   transformer blocks.
# - The noise is easy to guess at large $t$, the image at small $t$: look at the loss by $t$.
#
# **Pitfalls.** Layers that are no fields; a wrong `t` told when sampling; skips joined in the wrong
# order; images whose side cannot be halved at every level.
#
# ## Quiz
#
# 1. Averaging squares of 4 x 4 pixels: what is left of noise of spread 1?
#
# <details><summary>Answer</summary> A quarter: the mean of 16 independent numbers.</details>
#
# 2. A network that always answers `x_t` itself: at which $t$ is its error on the noise small?
#
# <details><summary>Answer</summary> At large t, where x_t is nearly nothing but noise.</details>
#
# 3. A U-Net has 3 levels with 2 blocks each. How many ResBlocks?
#
# <details><summary>Answer</summary> 6 down, 2 in the middle, 9 up: 17.</details>
#
# 4. The loss is low, the samples are noise. What do you look at?
#
# <details><summary>Answer</summary> The loss by t; whether every array of weights moves; whether the
# sampler tells the network the right t and uses the schedule of training.</details>
#
# ## References
#
# Ronneberger, Fischer, Brox: [U-Net](https://arxiv.org/abs/1505.04597), 2015. Ho, Jain, Abbeel:
# [DDPM](https://arxiv.org/abs/2006.11239), 2020. Wu, He: [Group Normalization](https://arxiv.org/abs/1803.08494),
# 2018. Rombach et al.: [Latent Diffusion](https://arxiv.org/abs/2112.10752), 2022.
#
# **Next:** [10 · Guidance](10_guidance.ipynb) tells the network what to draw.

# %%
# The numbers of the quiz.
lesson.claim(16**-0.5 == 0.25)
lesson.claim(3 * 2 + 2 + 3 * (2 + 1) == 17)
near = float(jnp.mean((noising.add_noise(schedule, test, jnp.full(256, 950), eps) - eps) ** 2))
lesson.expect("error of answering x_t at t = 950", near, 0.0, 0.01)
