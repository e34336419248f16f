# %% [markdown]
# # 07 · Noising
#
# **The one idea:** destroying an image takes a thousand small steps, but one jump does the same, and
# the network learns to predict the *whole* jump.
#
# | | |
# |---|---|
# | module | [minidiff/noising.py](../minidiff/noising.py) |
# | paper | [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), sections 2 and 3 |
# | before this | [06 · Retrieval](06_retrieval.ipynb); for the code alone, [00 · Layers](00_layers.ipynb) |
# | minutes | 60 to read and do, 2 to run |
# | loads, saves | nothing |

# %%
import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, noising, plot
from minidiff.data.scenes import SceneSource
from minidiff.lesson import Lesson
from minidiff.plot import noising as draw
from minidiff.schedules import cosine_schedule, linear_schedule

lesson = Lesson("07_noising")

# %% [markdown]
# ## An image is destroyed
#
# A diffusion model draws by undoing damage. So first we do the damage: we add noise to an image, a
# little at a time, a thousand times. Each number of the image gets its own random number, drawn from
# the normal distribution.
#
# **Predict before you run the next cell.** The strip shows three scenes after 0, 50, 100, ... of 1000
# steps, walked one after the other. After how many can you no longer say what the subject is? Write a
# number in place of the dots.

# %%
lesson.predict("...")
key = jax.random.key(0)
images = jax.jit(SceneSource(batch_size=64).batch)(0)["image"]  # (64, 16, 16, 3) in [-1, 1]
schedule = linear_schedule()  # 1000 steps

shown = [0, 50, 100, 200, 300, 400, 500, 700, 1000]
small_step = jax.jit(noising.noise_step)
x, film = images[:3], [images[:3]]
for t in range(1000):
    fresh = jax.random.normal(jax.random.fold_in(key, t), x.shape)
    x = small_step(schedule, x, jnp.full(3, t), fresh)
    film.append(x)
rows = [("", np.stack([film[n][i] for n in shown])) for i in range(3)]
lesson.show(plot.strips(rows, [f"{n} steps" for n in shown]))

# %% [markdown]
# Most people lose the subject between 200 and 300. Its colour and the background last longer: what is
# large survives longer than what is small. After 1000 nothing is left that you could see. Remember
# this order. A model that runs the film backwards decides the background first and the details last.

# %% [markdown]
# ## One small step
#
# Step $t$ keeps a little less of the image and adds a little noise. How much is told by $\beta_t$
# (beta), a small number between 0 and 1:
#
# $$x_t = \sqrt{1 - \beta_t}\; x_{t-1} + \sqrt{\beta_t}\; \varepsilon_t$$
#
# Why the square roots? Noise is measured by its **variance**, the mean of its square. Multiply a
# number by $a$ and its variance is multiplied by $a^2$. So this step keeps the share $1 - \beta_t$ of
# the variance and adds $\beta_t$. Numbers of variance one keep it: they get noisier, not larger. Our
# scenes have less, 0.3, and rise towards one as they turn into noise.
#
# Here are four numbers instead of an image, and a step that replaces 36% of the variance.

# %%
x = jnp.array([1.0, -1.0, 0.5, 0.0])
eps = jnp.array([0.5, 1.0, -1.0, 2.0])
beta = 0.36
after = jnp.sqrt(1 - beta) * x + jnp.sqrt(beta) * eps
print(after)
lesson.agree(after, [1.1, -0.2, -0.2, 1.2], atol=1e-6)  # 0.8 x + 0.6 eps
lesson.expect("variance of the scenes", images.var(), 0.25, 0.35)
lesson.expect("after 1000 steps", film[-1].var(), 0.93, 1.07)

# %% [markdown]
# ## Two steps are one
#
# Two steps keep $(1 - \beta_1)(1 - \beta_2)$ of the image's variance. The two noises add up as well:
# the sum of two normal random numbers is a normal random number, whose variance is the sum of theirs.
# So there is no need to walk. The share that is left after all the steps up to $t$ has a name:
#
# $$\bar\alpha_t = (1 - \beta_0)(1 - \beta_1) \cdots (1 - \beta_t)$$
#
# In code it is `alpha_bar`. The papers count steps from 1, arrays count from 0: our index `t` is the
# paper's step $t + 1$. So `x0` always means the clean image, and at index 0 one step has been taken.
#
# ### Exercise 7.1 · What is left (★, 3 minutes)
#
# Write `my_alpha_bar(beta)`: from an array of all betas, shape `(T,)`, the array of all
# $\bar\alpha_t$, shape `(T,)`. The check below says what it thinks of your function.
# `checks.alpha_bar.hint()` prints a hint, called again the next one. If you leave an exercise out, the
# lesson goes on with minidiff's own function.


# %%
def my_alpha_bar(beta):
    # your code here, in place of the next line
    raise NotImplementedError


checks.alpha_bar(my_alpha_bar)

# %% [markdown]
# ## One jump
#
# With $\bar\alpha_t$ the whole way from the image to step $t$ is one line. $\varepsilon$ is now the
# **total noise**, everything that was added on the way:
#
# $$x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\; \varepsilon$$
#
# ### Exercise 7.2 · Jump (★, 5 minutes)
#
# Write `my_add_noise(schedule, x0, t, eps)`. `x0` and `eps` are batches of images, for instance
# `(batch, 16, 16, 3)`, and `t` is one integer for each image, `(batch,)`. `schedule.alpha_bar` is the
# array of exercise 7.1. A factor that belongs to image 2 must meet image 2 only: give it the shape
# `(batch, 1, 1, 1)`, or let `noising.at(schedule.alpha_bar, t, x0)` do it. Write with `jnp` for the whole
# batch, no loops and no `if`: training compiles it (lesson 00), and the check tries that.


# %%
def my_add_noise(schedule, x0, t, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.add_noise(my_add_noise)

# %% [markdown]
# This is the module's version. It is what every training step of every diffusion model calls.

# %%
lesson.source(noising.add_noise)

# %% [markdown]
# Does the jump really do what a thousand steps do? Take 20,000 numbers that are all 0.7, walk 300
# steps with fresh noise each, and compare: the mean must be $0.7\sqrt{\bar\alpha_{299}}$ and the
# variance $1 - \bar\alpha_{299}$.

# %%
walked = jnp.full((20_000, 1), 0.7)
for i in range(300):
    fresh = jax.random.normal(jax.random.fold_in(key, i), walked.shape)
    walked = small_step(schedule, walked, jnp.full(20_000, i), fresh)

share = float(schedule.alpha_bar[299])
print(f"left of the variance: {share:.3f}")
lesson.expect(
    "mean after 300 steps, less the jump's", walked.mean() - 0.7 * share**0.5, -0.02, 0.02
)
lesson.expect("variance after 300 steps, over the jump's", walked.var() / (1 - share), 0.97, 1.03)

# %% [markdown]
# ## Schedules
#
# The list of all betas is the **schedule**. The linear one of the DDPM paper lets $\beta$ rise from
# 0.0001 to 0.02; the cosine one of [Nichol and Dhariwal](https://arxiv.org/abs/2102.09672) is made so
# that $\bar\alpha$ falls gently. The question is how long the image stays half visible: that is where
# a network has something to learn.

# %%
curves = {"linear": linear_schedule().alpha_bar, "cosine": cosine_schedule().alpha_bar}
lesson.show(draw.lines(np.arange(1000), curves, "t", r"$\bar\alpha_t$", level=0.5))
half = {name: int(np.argmax(np.asarray(curve) < 0.5)) for name, curve in curves.items()}
print("half of the variance is gone at t =", half)
lesson.claim(half == {"linear": 259, "cosine": 496})
lesson.claim(all(float(curve[-1]) < 1e-4 for curve in curves.values()))  # both end in noise

# %% [markdown]
# The linear schedule has lost half of the variance at $t = 259$, the cosine at 496: on small images
# the linear one spends most of its steps on what is noise already.
#
# ## One arrow or a hundred
#
# The network will be shown $x_t$ and asked about the noise in it. But which noise: the last small
# step's, or the total? Both can be guessed, but not equally well. A random walk shows why. Start at
# $x_0$, drawn from the standard normal distribution, and take 100 steps of spread 0.3.

# %%
steps, spread = 100, 0.3
start_key, walk_key = jax.random.split(jax.random.key(7))
start = jax.random.normal(start_key, (4000, 1, 2))
small = spread * jax.random.normal(walk_key, (4000, steps, 2))
paths = np.asarray(jnp.concatenate([start, start + jnp.cumsum(small, axis=1)], axis=1))
lesson.show(draw.walk(paths[1]))

# %% [markdown]
# You are told where a walk ended, at the red point, and nothing else.
#
# **Predict before you run the next cell:** how well can you guess the orange arrow, from beginning to
# end? How well the last small grey one? Say it as $R^2$, the share of the variance that the best
# guess explains: 1 is perfect, 0 is no better than not looking.

# %%
lesson.predict("...")
end = paths[:, -1, 0]  # one coordinate is enough
targets = {"the total": end - paths[:, 0, 0], "the last step": end - paths[:, -2, 0]}
r2 = [float(np.corrcoef(end, target)[0, 1] ** 2) for target in targets.values()]
lesson.show(draw.explained(end, targets, r2))
lesson.outcome(f"{r2[0]:.2f} for the total, {r2[1]:.3f} for the last step")

# %% [markdown]
# The end says nearly everything about the total and next to nothing about the last step. The exact
# numbers are a line of arithmetic. After $n$ steps of variance 0.09 the end has variance $1 + 0.09\,n$.
# Of that the total contributes $0.09\,n$, which at $n = 100$ is 9 of 10, and one step 0.09 of 10.

# %%
lesson.expect("explained of the total", r2[0], 0.88, 0.92)
lesson.expect("explained of one step", r2[1], 0.0, 0.03)
n = np.arange(1, 201)
whole = 1 + n * spread**2
curves = {"the total": n * spread**2 / whole, "the last step": spread**2 / whole}
lesson.show(draw.lines(n, curves, "steps of the walk", "R² of the best guess"))
lesson.agree([curve[99] for curve in curves.values()], [0.9, 0.009])
slopes = [np.dot(end, target) / np.dot(end, end) for target in targets.values()]
lesson.expect("best guess of the total, over the end", slopes[0], 0.88, 0.92)
lesson.expect("best guess of the last step, over the end", slopes[1], 0.004, 0.014)

# %% [markdown]
# Yet the two best guesses are one. From the end all steps look alike, so the best guess of the last one
# is the best guess of the total over 100: the same answer, a hundred times fainter, under as much chance
# as before. So it is for images, where shares of variance take the place of counts:
#
# $$\text{best guess of the last step's noise} = \sqrt{\tfrac{\beta_t}{1 - \bar\alpha_t}} \;
#   \times \text{best guess of the total noise}$$
#
# ## The total noise gives the image back
#
# Who asks for the total has less to do afterwards, too. If you know the total noise you know the
# image: take the noise away and undo the fading.
#
# ### Exercise 7.3 · Undo (★★, 5 minutes)
#
# Write `my_predict_x0(schedule, xt, t, eps)`: the image that `xt` came from, if `eps` is the total
# noise in it. Solve the equation of the jump for $x_0$. Shapes are those of exercise 7.2.


# %%
def my_predict_x0(schedule, xt, t, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.predict_x0(my_predict_x0)

# %% [markdown]
# ## Train both and see
#
# Now a small U-Net, the network that lesson 09 builds. Here it is a black box `unet(xt, t)` that
# returns something of the shape of `xt`. We train it twice on scenes, with all the same settings:
# once on the total noise (`noise_loss`), once on the noise of the last small step
# (`single_step_loss`). Both losses are the mean squared error, and a network that always answers 0
# has a loss of 1, because the noise has variance 1.

# %%
lesson.source(noising.noise_loss)

# %%
from minidiff.training.state import TrainState, fit, make_optimizer, make_train_step
from minidiff.unet import UNet, UNetConfig

until = lesson.pick(smoke=20, cpu=300)
config = UNetConfig(channels=(32, 64), attention=(), patch=2)
quick = {"xla_backend_optimization_level": 0}  # it runs once: compile fast, not well
start_net = jax.jit(UNet.init, static_argnums=1, compiler_options=quick)(key, config)


def learn(loss):
    optimizer = make_optimizer(until, 2e-3, warmup=20)
    state = TrainState.init(jax.tree.map(jnp.copy, start_net), optimizer)  # it is overwritten
    train_step = make_train_step(
        lambda k, unet, batch: loss(k, unet, schedule, batch["image"]),
        optimizer, ema_decay=0.9, steps=10,
    )  # fmt: skip
    losses = []
    for trained, metrics in fit(key, state, SceneSource(batch_size=64), train_step, until):
        losses.append(float(metrics["loss"].mean()))
    return trained.ema, losses


# %%
on_total, total_losses = learn(noising.noise_loss)
on_step, step_losses = learn(noising.single_step_loss)
curves = {"on the total noise": total_losses, "on the last small step": step_losses}
steps_taken = 10 * np.arange(1, len(total_losses) + 1)
lesson.show(draw.lines(steps_taken, curves, "training step", "loss", level=1.0))
lesson.expect("last loss on the total noise", total_losses[-1], 0.09, 0.16, trained=True)
lesson.expect("last loss on one step", step_losses[-1], 0.96, 1.02, trained=True)

# %% [markdown]
# One curve falls, the other stays at the dotted line. That does not say that nothing is learned: even
# the best guess of one step would hardly move it. Give both networks the same noisy scenes and ask for
# the image, by `predict_x0`. The second has guessed the last step, so its guess is faint; the last row
# multiplies it by $\sqrt{(1 - \bar\alpha_t) / \beta_t}$, to make a guess of the total of it.

# %%
t = jnp.full(8, 150)
x0, eps = images[:8], jax.random.normal(jax.random.key(3), (8, 16, 16, 3))
xt = noising.add_noise(schedule, x0, t, eps)
guess_noise = jax.jit(lambda unet, xt, t: unet(xt, t))
guesses = {"total": guess_noise(on_total, xt, t), "step": guess_noise(on_step, xt, t)}
share = noising.at(schedule.beta / (1 - schedule.alpha_bar), t, xt)
guesses["step,\nrescaled"] = guesses["step"] / jnp.sqrt(share)
rows = [("image", x0), ("at t = 150", xt)]
rows += [
    (f"by the {name}", noising.predict_x0(schedule, xt, t, guess))
    for name, guess in guesses.items()
]
lesson.show(plot.strips([(name, np.asarray(row)) for name, row in rows]))
error = {name: float(jnp.mean((noising.predict_x0(schedule, xt, t, guess) - x0) ** 2))
         for name, guess in guesses.items()}  # fmt: skip
print({name.replace("\n", " "): round(value, 3) for name, value in error.items()})
ratio = error["step"] / error["total"]
again = error["step,\nrescaled"] / error["total"]
lesson.expect("error of the image, by the step over by the total", ratio, 3.5, 8, trained=True)
lesson.expect("the same, by the step rescaled", again, 1.3, 3.0, trained=True)

# %% [markdown]
# The network that learned the total gives the scenes back, blurred and with a little grain: it has
# trained for a minute. The other leaves the noise where it was, until its guess is made as strong as a
# total: then scenes appear. It has learned the same thing, from far fainter lessons, and less well in
# the same time. That is the reason to ask for the total.
#
# ## Break it: forget a square root
#
# A widely read implementation of diffusion once shipped with the square root over
# $1 - \bar\alpha_t$ missing. Nothing crashes. What does it do to the variance of $x_t$? Compute it for
# numbers $x_0$ of variance 1: it is $\bar\alpha_t + (1 - \bar\alpha_t)$ if it is right, and
# $\bar\alpha_t + (1 - \bar\alpha_t)^2$ with the fault.

# %%
share = np.asarray(schedule.alpha_bar)
curves = {"right": share + (1 - share), "without the root": share + (1 - share) ** 2}
lesson.show(draw.lines(np.arange(1000), curves, "t", "variance of $x_t$"))
lowest = int(np.argmin(curves["without the root"]))
lesson.expect("t where most is missing", lowest, 257, 259)
lesson.expect("variance there", curves["without the root"][lowest], 0.75, 0.7501)

# %% [markdown]
# A quarter of the variance is missing in the middle of the way, and only there: beginning and end
# are right, so a glance at either finds nothing. The network trains without complaint, on noisy
# images that are too quiet, and the sampler of the next lesson, whose equations assume the right
# amount, then shows it images that it never saw.
#
# ## Recap
#
# - A small step keeps $1 - \beta_t$ of the variance and adds $\beta_t$ of noise.
# - All steps up to $t$ are one jump: $x_t = \sqrt{\bar\alpha_t} x_0 + \sqrt{1-\bar\alpha_t}
#   \varepsilon$.
# - The network is asked for the **total** noise: the best guess of the last small step is the same
#   answer, but so faint that it takes far longer to learn.
# - Who knows the total noise knows the image.
#
# **Pitfalls.** Variances or their roots mixed up; $\beta$ used where $\bar\alpha$ is meant; images in
# [0, 1] instead of [-1, 1], so that signal and noise have unlike sizes; `t` counted from 1.
#
# ## Quiz
#
# 1. A loss on the total noise stays at 1.0. What has the network learned?
#
# <details><summary>Answer</summary> Nothing: always answering 0 gives 1.0, the variance of the
# noise.</details>
#
# 2. Two steps with beta = 0.5 each. How much of the image's variance is left?
#
# <details><summary>Answer</summary> 0.5 · 0.5 = 0.25.</details>
#
# 3. Your `add_noise` is right at t = 0 and at t = 999. Is it right?
#
# <details><summary>Answer</summary> Not proven: with the root forgotten both ends are right and the
# middle lacks a quarter of the variance.</details>
#
# 4. Why does predicting $x_0$ at $t = 999$ go wrong even with a good network?
#
# <details><summary>Answer</summary> It divides by the root of alpha_bar, which is 0.006 there: an
# error of 0.01 in the noise becomes an error of about 1.6 in the image.</details>
#
# ## References
#
# Ho, Jain, Abbeel: [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), 2020,
# equations 2, 4 and 14. Nichol, Dhariwal: [Improved DDPM](https://arxiv.org/abs/2102.09672), 2021.
#
# **Next:** [08 · Sampling](08_sampling.ipynb) runs the film backwards.

# %%
# The numbers of the quiz.
lesson.claim(0.5 * 0.5 == 0.25)
lesson.expect("root of the last alpha_bar", schedule.alpha_bar[-1] ** 0.5, 0.006, 0.0065)
lesson.expect("an error of 0.01 becomes", 0.01 / schedule.alpha_bar[-1] ** 0.5, 1.5, 1.7)
