# %% [markdown]
# # 08 · Sampling
#
# **The one idea:** to draw, begin with noise and go back in small steps, and after each step add a
# little fresh noise. Leave that out, and nearly all drawings come out the same.
#
# | | |
# |---|---|
# | modules | [minidiff/sampling.py](../minidiff/sampling.py), [minidiff/solvers.py](../minidiff/solvers.py) |
# | papers | [DDPM](https://arxiv.org/abs/2006.11239), [DDIM](https://arxiv.org/abs/2010.02502) |
# | before this | [07 · Noising](07_noising.ipynb) |
# | minutes | 40 to read and solve, 2 to run |
# | loads, saves | loads the weights of `text_to_image`; saves nothing |

# %%
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from minidiff import checks, noising, plot, sampling
from minidiff.lesson import Lesson
from minidiff.plot import sampling as draw
from minidiff.plot.noising import lines
from minidiff.recipes import text_to_image
from minidiff.schedules import Schedule, linear_schedule

lesson = Lesson("08_sampling")
key = jax.random.key(1)

# %% [markdown]
# ## One line of code
#
# Here is a network that was trained as in lesson 07. It looks at a noisy scene and guesses the noise.
# A sampler asks it a hundred times and takes out a little of the noise each time. We let it draw 16
# scenes, twice, from the same noise. In one of the two, *fresh* noise was added after every step.
#
# **Predict before you run the next cell:** which pictures will be cleaner, and which more varied: those
# with noise added at every step, or those without? Write down why.

# %%
lesson.predict("...")
WHOSE = "reference"  # or "mine": your own run of `minidiff train text_to_image`
model = text_to_image.load(lesson.weights("text_to_image", WHOSE))
network = model.denoiser([""] * 16)  # told nothing: lesson 10 gives it words
steps = lesson.pick(smoke=4, cpu=100)


def drawn(inject):
    settings = {"steps": steps, "variance": "small", "inject_noise": inject}
    return sampling.ddpm_sample(key, network, model.schedule, (16, 16, 16, 3), **settings)


panels = [("A", np.asarray(drawn(False))), ("B", np.asarray(drawn(True)))]
lesson.show(plot.side_by_side(panels))

# %% [markdown]
# In A nothing was added, in B noise was. A is crisp, and cleaner than B: adding noise does leave a little
# noise. But A has three or four figures again and again, most on the same meadow. B has cats, stars and
# people, by day and by night. So what the fresh noise brings is variety. Two numbers: how far is each
# picture from the one that is most like it? And how much grain is in them, which we measure by how far
# a pixel is from what its eight neighbours say?


# %%
def to_the_next(images):
    squares = np.square(images[:, None] - images[None]).mean((2, 3, 4))
    return np.sqrt(squares + 10 * np.eye(len(images))).min(axis=1).mean()


def grain(images):
    """The spread of the noise in images, from the median of their second differences."""
    x = np.clip(images, -1, 1)
    for axis in (1, 2):
        x = np.diff(x, 2, axis=axis)
    return np.median(np.abs(x)) / (
        6 * 0.6745
    )  # 6: what such differences make of noise; 0.6745: median


print("grain:", {name: round(float(grain(images)), 3) for name, images in panels})
cleaner = min(panels, key=lambda panel: grain(panel[1]))[0]
varied = max(panels, key=lambda panel: to_the_next(panel[1]))[0]
lesson.outcome(f"{cleaner} is cleaner, {varied} more varied")
lesson.expect("grain, A over B", grain(panels[0][1]) / grain(panels[1][1]), 0.2, 0.7, trained=True)
a, b = (to_the_next(images) for _, images in panels)
lesson.expect("distance to the most similar picture, A over B", a / b, 0.0, 0.4, trained=True)

# %% [markdown]
# ## A denoiser that is never wrong
#
# Is the network to blame? To find out, take data so simple that the best guess can be written down:
# numbers near 1 or near -1, spread 0.1. Many pairs $(x_0, \varepsilon)$ lead to the same $x_t$. The
# best guess of the noise is the mean of $\varepsilon$ over all of them.
#
# For one mode at $m$ with spread $s$, $x_t$ has the mean $\sqrt{\bar\alpha_t}\, m$ and the variance
# $v = \bar\alpha_t s^2 + 1 - \bar\alpha_t$. Of what lies beyond the mean, noise is to blame for its
# share: $\varepsilon \approx \frac{\sqrt{1 - \bar\alpha_t}}{v} (x_t - \sqrt{\bar\alpha_t}\, m)$. With
# several modes each guess counts as much as its mode is likely: a softmax.


# %%
@struct.dataclass
class Ideal:
    """The best guess of eps, for data drawn from normal modes. It is a denoiser like any network."""

    schedule: Schedule
    modes: jax.Array  # (modes, dimensions)
    std: float

    def __call__(self, xt, t):  # xt: (batch, dimensions)
        signal, noise = noising.signal_and_noise(self.schedule, t, xt)
        variance = (signal * self.std) ** 2 + noise**2
        offset = xt[:, None, :] - signal[..., None] * self.modes[None]
        likely = jax.nn.softmax(-jnp.square(offset).sum(-1) / (2 * variance), axis=1)
        return noise / variance * (likely[..., None] * offset).sum(1)


# %% [markdown]
# Test it by brute force: make 20,000 noisy numbers at $t = 300$, whose noise we know. Each grey point
# is one of them. The curve must run through the middle of the points above each place.

# %%
schedule = linear_schedule()
ideal = Ideal(schedule, jnp.array([[-1.0], [1.0]]), 0.1)
rng = np.random.default_rng(0)
x0 = jnp.float32(rng.choice([-1.0, 1.0], (20_000, 1)) + 0.1 * rng.normal(size=(20_000, 1)))
eps, ts = jnp.float32(rng.normal(size=x0.shape)), jnp.full(20_000, 300)
xt = noising.add_noise(schedule, x0, ts, eps)

places = jnp.linspace(-2.5, 2.5, 101)[:, None]
curve = ideal(places, jnp.full(101, 300))
points = [np.asarray(values)[:1500, 0] for values in (xt, eps)]
lesson.show(draw.best_guess(*points, (places, curve), "$x_t$ at t = 300", "eps", "ideal denoiser"))
for low in (-1.5, -0.5, 0.0, 0.5, 1.5):
    inside = (xt > low - 0.1) & (xt < low + 0.1)
    difference = jnp.mean(eps - ideal(xt, ts), where=inside)
    lesson.claim(abs(float(difference)) < 0.15)

# %% [markdown]
# Two bands, one for each mode. Between them a point may belong to either, and the best guess, a mean,
# lies where there are hardly any points. Keep that in mind.
#
# ## One step back
#
# The last small step multiplied $x_{t-1}$ by $\sqrt{1 - \beta_t}$ and added noise of variance
# $\beta_t$. The *total* noise in $x_t$, $\sqrt{1 - \bar\alpha_t}\,\varepsilon$, has variance
# $1 - \bar\alpha_t$. So of the total, the last step's share is $\beta_t / (1 - \bar\alpha_t)$. Take
# that out, and undo the fading:
#
# $$\text{mean of } x_{t-1} = \frac{1}{\sqrt{1 - \beta_t}}
#   \left(x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\,\varepsilon\right)$$
#
# On four numbers, with $\bar\alpha_0 = 0.64$ and $\bar\alpha_1 = 0.36$, so that the roots are plain:

# %%
short = Schedule.from_beta(np.array([0.36, 0.4375]))
lesson.agree(short.alpha_bar, [0.64, 0.36], rtol=1e-6)
four, noise4 = jnp.array([[1.0, -1.0, 0.5, 0.0]]), jnp.array([[0.8, -0.8, 0.0, 1.6]])
found = (four - 0.4375 / 0.8 * noise4) / 0.75
print(found)
lesson.agree(found, [[0.75, -0.75, 2 / 3, -7 / 6]], rtol=1e-5)

# %% [markdown]
# ### Exercise 8.1 · The mean (★, 5 minutes)
#
# Write `my_reverse_mean(schedule, xt, t, eps)`. `xt` and `eps` are batches of one shape, for instance
# `(batch, 16, 16, 3)`; `t` is `(batch,)`. `noising.at(schedule.beta, t, xt)` picks each image's own
# number. Write with `jnp` for the whole batch, no loops and no `if`, here and below: samplers are
# compiled, and the checks try that. `checks.reverse_mean.hint()` gives hints in steps.


# %%
def my_reverse_mean(schedule, xt, t, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.reverse_mean(my_reverse_mean)

# %% [markdown]
# ## Why a mean is not enough
#
# Is the mean of $x_{t-1}$ a good $x_{t-1}$? Look at pairs. We noise the same data in ten large steps,
# so that one step can be seen, and plot $x_1$ against $x_2$.

# %%
ten = linear_schedule(10, 0.05, 0.4)
before = noising.add_noise(ten, x0, jnp.full(20_000, 1), eps)
fresh = jnp.float32(rng.normal(size=x0.shape))
now = noising.noise_step(ten, before, jnp.full(20_000, 2), fresh)

twos, knows = jnp.full(101, 2), Ideal(ten, ideal.modes, 0.1)
mean = sampling.reverse_mean(ten, places, twos, knows(places, twos))
points = [np.asarray(values)[:1500, 0] for values in (now, before)]
lesson.show(draw.best_guess(*points, (places, mean), "$x_2$", "$x_1$", "mean of $x_1$"))

twos = jnp.full(20_000, 2)
beyond = before - sampling.reverse_mean(ten, now, twos, knows(now, twos))
small, large = (float(sampling.reverse_variance(ten, twos[:1], v)[0]) for v in ("small", "large"))
print(f"variance around the curve {beyond.var():.3f}, small {small:.3f}, large (beta) {large:.3f}")
lesson.claim(small < float(beyond.var()) < large)

# %% [markdown]
# The curve is right, and no point has to be on it: from one $x_2$ many $x_1$ are possible. Whoever
# moves to the curve moves to the middle of what is possible. A thousand times in a row, that is the
# average of averages. To land where the *points* are, add noise as wide as their spread around the
# curve. Its variance lies between two values: $\beta_t$, the **large** one, and
# $\beta_t \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}$, the **small** one, which is right if all data
# are a single point. The last step, $t = 0$, ends at the image itself: no noise there.
#
# ### Exercise 8.2 · The step (★★, 7 minutes)
#
# Write `my_reverse_step(schedule, xt, t, eps, noise)`: the mean and, with the large variance, `noise`,
# which is standard normal and shaped like `xt`, `(batch, 16, 16, 3)` for instance. Each image has its own
# `t`, and where `t = 0` no noise is added. You may call
# `sampling.reverse_mean`.


# %%
def my_reverse_step(schedule, xt, t, eps, noise):
    # your code here, in place of the next line
    raise NotImplementedError


checks.reverse_step(my_reverse_step)

# %% [markdown]
# The module's step. A DDPM sampler is this and a loop.

# %%
lesson.source(sampling.reverse_step)


# %%
def walk_back(step, denoiser, count=1000):
    """All x_t of ``count`` numbers on their way from noise: (1001, count)."""

    @jax.jit
    def one(xt, t, k):
        noise = sampling.sample_noise(key, xt.shape, 0, k)  # sample i has a key of its own
        return step(schedule, xt, t, denoiser(xt, t), noise)

    path = [sampling.sample_noise(key, (count, 1), 0, 0)]
    for k, t in enumerate(range(999, -1, -1), start=1):
        path.append(one(path[-1], jnp.full(count, t), k))
    return np.stack(path)[..., 0]


def only_the_mean(schedule, xt, t, eps, noise):
    return sampling.reverse_mean(schedule, xt, t, eps)


# %% [markdown]
# **Predict before you run the next cell.** Both panels begin with the same 1000 numbers; 24 ways are
# drawn. The denoiser is ideal, so nothing is wrong with it. What will the right panel look like?

# %%
lesson.predict("...")
with_noise, without = walk_back(sampling.reverse_step, ideal), walk_back(only_the_mean, ideal)
lesson.show(draw.ways([("with fresh noise", with_noise), ("without", without)]))
ours = sampling.ddpm_sample(key, ideal, schedule, (1000, 1))  # the module's sampler

# %% [markdown]
# On the left the ways tremble, part, and end with the spread of the data: 0.1. On the right they are
# smooth, crowd together near 0 first and part late, and the modes are an eighth as wide. With data
# from the standard normal distribution it can be said exactly. The best guess is then
# $\varepsilon = \sqrt{1 - \bar\alpha_t}\, x_t$, and the mean becomes $\sqrt{1 - \beta_t}\, x_t$: every
# step shrinks $x$. A thousand of them leave $\sqrt{\bar\alpha_{999}}$ of it.

# %%
lesson.expect("spread of the modes, with", np.abs(with_noise[-1]).std(), 0.093, 0.107)
lesson.expect("spread of the modes, without", np.abs(without[-1]).std(), 0.009, 0.015)
lesson.agree(ours[:, 0], with_noise[-1], atol=1e-4)
unit = Ideal(schedule, jnp.zeros((1, 1)), 1.0)
shrunk = walk_back(only_the_mean, unit, count=100)
lesson.agree(shrunk[-1] / shrunk[0], schedule.alpha_bar[-1] ** 0.5, rtol=1e-3)
lesson.expect("what is left of x", shrunk[-1, 0] / shrunk[0, 0], 0.00634, 0.00637)

# %% [markdown]
# ## Without noise, and yet right: DDIM
#
# A sampler called DDIM adds no noise either, and it works. So "DDPM without its noise" must be
# something else. The figure shows how: the data are the single point 0, so all that is in $x_t$ is
# noise, and its amount can be measured. The schedule says how much there should be. As above, sampling
# begins on the left.

# %%
dot = Ideal(schedule, jnp.zeros((1, 1)), 0.0)
amounts = {"the schedule": np.sqrt(1 - np.asarray(schedule.alpha_bar)[::-1][::20])}
for name, sample, settings in (
    ("DDPM", sampling.ddpm_sample, {}),
    ("DDPM without its noise", sampling.ddpm_sample, {"inject_noise": False}),
    ("DDIM", sampling.ddim_sample, {"steps": 1000}),
):
    _, seen = sample(key, dot, schedule, (2000, 1), every=20, **settings)
    amounts[name] = np.asarray(seen.xt).std((1, 2))
left = np.arange(1000, 0, -20)
lesson.show(lines(left, amounts, "steps left", "noise in $x_t$ (spread)", backwards=True))
at_700 = {name: float(values[15]) for name, values in amounts.items()}
lesson.expect("700 left: the schedule's", at_700["the schedule"], 0.99, 1.0)
lesson.expect("700 left: DDIM", at_700["DDIM"], 0.94, 1.06)
lesson.expect("700 left: DDPM without its noise", at_700["DDPM without its noise"], 0.06, 0.08)

# %% [markdown]
# DDPM's mean takes out *more* noise than one step put in, for it reckons with the fresh noise that
# comes after it. Leave that out, and $x_t$ holds far less noise than the denoiser is told by $t$. With
# 700 steps left, 7% of it.
#
# DDIM does another step. It splits $x_t$ into the foreseen image and the noise, and mixes them anew,
# as much of each as the schedule says at the next index:
#
# $$x_{\text{next}} = \sqrt{\bar\alpha_{\text{next}}}\;\hat{x}_0
#   + \sqrt{1 - \bar\alpha_{\text{next}}}\;\varepsilon, \qquad
#   \hat{x}_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\,\varepsilon}{\sqrt{\bar\alpha_t}}$$
#
# Nothing says that the next index must be $t - 1$. DDIM may leap, and that makes it fast.
#
# ### Exercise 8.3 · DDIM's jump (★★, 7 minutes)
#
# Write `my_ddim_jump(schedule, xt, t, t_next, eps)`. `t` and `t_next` are `(batch,)`, `xt` and `eps`
# batches of images. An entry of -1
# in `t_next` means the image itself, where no noise is left: $\bar\alpha$ is 1 there. Functions of
# `noising` may help.


# %%
def my_ddim_jump(schedule, xt, t, t_next, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.ddim_jump(my_ddim_jump)

# %% [markdown]
# Now all three in the plane. The data are 40 small clouds along a spiral (red crosses). A thousand
# points each.
#
# **Predict before you run the next cell:** how many of the 40 clouds will the middle panel find?

# %%
lesson.predict("...")
turn = np.linspace(0.15, 1, 40)
modes = 1.6 * turn[:, None] * np.stack([np.cos(11 * turn), np.sin(11 * turn)], axis=1)
spiral = Ideal(schedule, jnp.float32(modes), 0.04)


def nearest(points):
    """The distance of each point from its nearest mode, and how many modes have a point."""
    apart = np.linalg.norm(np.asarray(points)[:, None] - modes[None], axis=-1)
    return apart.min(axis=1), len(set(apart.argmin(axis=1)))


shape = (1000, 2)
made = {
    "DDPM": sampling.ddpm_sample(key, spiral, schedule, shape),
    "DDPM without its noise": sampling.ddpm_sample(
        key, spiral, schedule, shape, inject_noise=False
    ),
    "DDIM, 100 steps": sampling.ddim_sample(key, spiral, schedule, shape, steps=100),
}
lesson.show(draw.plane([(name, np.asarray(points)) for name, points in made.items()], modes))
modes_found = {name: nearest(points)[1] for name, points in made.items()}
print("clouds found:", modes_found)
lesson.outcome(f"{modes_found['DDPM without its noise']} of {len(modes)}")

# %% [markdown]
# One. All thousand points end in the same cloud, near the middle of the data, and as sharply as you like.
# So it was with the few figures of panel A.
#
# ## Fewer steps, and the same seed
#
# DDIM makes no random choice, so the starting noise alone decides the picture. Below, each column has
# its own start. `eta` brings fresh noise back into DDIM: 0 is none, 1 as much as DDPM has.

# %%
lesson.claim(modes_found == {"DDPM": 40, "DDPM without its noise": 1, "DDIM, 100 steps": 40})
counts = lesson.pick(smoke=(2, 4, 5), cpu=(10, 20, 50))
some, schedule16 = model.denoiser([""] * 8), model.schedule
ddim = {}
for count in counts:
    for eta in (0.0, 1.0):
        settings = {"steps": count, "eta": eta}
        ddim[count, eta] = sampling.ddim_sample(key, some, schedule16, (8, 16, 16, 3), **settings)
order = [*((count, 0.0) for count in counts), (counts[0], 1.0), (counts[2], 1.0)]
rows = [(f"{count} steps\neta {eta:g}", np.asarray(ddim[count, eta])) for count, eta in order]
lesson.show(plot.strips(rows))


# %%
def apart(one, other):
    return float(jnp.sqrt(jnp.mean(jnp.square(ddim[one] - ddim[other]))))


same = apart((counts[1], 0.0), (counts[2], 0.0))
other = apart((counts[1], 1.0), (counts[2], 1.0))
lesson.expect("20 and 50 steps, eta 0, over eta 1", same / other, 0.0, 0.5, trained=True)
again = sampling.ddim_sample(key, some, schedule16, (8, 16, 16, 3), steps=counts[0], eta=0.0)
lesson.agree(again, ddim[counts[0], 0.0])  # the same key, the same picture
grains = [float(grain(np.asarray(ddim[count, 0.0]))) for count in counts]
print("grain:", {count: round(value, 3) for count, value in zip(counts, grains, strict=True)})
lesson.expect("grain, 50 steps over 10", grains[2] / grains[0], 1.0, 1.6, trained=True)

# %% [markdown]
# The first three rows show the same pictures, column by column: ten steps settle them. Fifty do not make
# them cleaner: this network leaves a little grain, and more of it in more steps, as the numbers above
# say. The last two rows began with the same noise as well, but the fresh noise led them
# elsewhere, and elsewhere again with another number of steps.
#
# ## Which variance
#
# Over 1000 steps large and small hardly differ. In fewer, longer steps they do. Here is the spread of
# the spiral's clouds, which is 0.04 in the data. `leading` steps are those of the DDIM paper, the
# multiples of $1000 / 100$, and the last one is at $t = 0$.

# %%
table = {}
for count in (1000, 100):
    for name, sample, settings in (
        ("large", sampling.ddpm_sample, {"variance": "large"}),
        ("small", sampling.ddpm_sample, {"variance": "small"}),
        ("DDIM", sampling.ddim_sample, {}),
    ):
        settings |= {"steps": count, "spacing": "leading"}
        distance, _ = nearest(sample(key, spiral, schedule, shape, **settings))
        table[count, name] = float(np.sqrt(np.mean(distance**2) / 2))
        print(f"{count:4} steps, {name:5}: {table[count, name]:.3f}")
lesson.expect("1000 steps, large over small", table[1000, "large"] / table[1000, "small"], 1.0, 1.2)
lesson.expect("100 steps, large over small", table[100, "large"] / table[100, "small"], 1.4, 1.9)

# %% [markdown]
# With 100 steps the large variance leaves noise that nobody takes out again. Rule of thumb: large for
# the full schedule, small or DDIM for fewer steps.
#
# ## Break it: noise on the last step
#
# A fault found in popular code: the fresh noise is added at $t = 0$, too. It is only
# $\sqrt{\beta_0} = 0.01$, which no eye sees. How would you catch it? With data that are a single point:
# every sample must come back exactly.


# %%
def noise_always(schedule, xt, t, eps, noise):
    std = jnp.sqrt(noising.at(schedule.beta, t, xt))
    return sampling.reverse_mean(schedule, xt, t, eps) + std * noise


point = Ideal(schedule, jnp.array([[0.7]]), 0.0)
right, faulty = (walk_back(step, point)[-1] for step in (sampling.reverse_step, noise_always))
lesson.show(
    lines(np.arange(100), {"fault": faulty[:100], "right": right[:100]}, "sample", "its value")
)
lesson.agree(right, 0.7, atol=1e-5)
lesson.expect("spread with the fault", faulty.std(), 0.0093, 0.0107)

# %% [markdown]
# The right step gives a straight line at 0.7, the fault a trembling one with spread 0.01. Tests with
# data whose answer is known are worth more than looking at pictures.
#
# ## Other solvers
#
# If the steps of DDIM get ever smaller, the way becomes a curve, and $\varepsilon$ says where it leads.
# Divide $x_t$ by $\sqrt{\bar\alpha_t}$, call that $y$, and measure the way by
# $\sigma = \sqrt{(1 - \bar\alpha) / \bar\alpha}$: then $dy / d\sigma = \varepsilon$. That is an
# ordinary differential equation (ODE), and DDIM is the simplest way to follow one: Euler's, straight on
# along the slope. Better solvers look at the slope twice (Heun) or remember the last guess (DPM-Solver++).
# For one normal mode the exact end is known: the distance from the mode shrinks by
# $s / \sqrt{s^2 + \sigma^2}$.

# %%
from minidiff.schedules import sigmas
from minidiff.solvers import ode_sample

normal = Ideal(schedule, jnp.array([[0.7]]), 0.2)
farthest = float(sigmas(schedule, np.array([999]))[0])
y = sampling.sample_noise(key, (500, 1), 0, 0) * np.sqrt(1 + farthest**2)
exact = 0.7 + (y - 0.7) * 0.2 / np.sqrt(0.2**2 + farthest**2)
counts, errors = (10, 20, 40, 80), {}
for method in ("euler", "heun", "dpm++"):
    ends = [ode_sample(key, normal, schedule, (500, 1), method=method, steps=n) for n in counts]
    errors[method] = [float(jnp.sqrt(jnp.mean((end - exact) ** 2))) for end in ends]
lesson.show(lines(counts, errors, "steps", "error of the end", log=True))
euler = sampling.ddim_sample(key, normal, schedule, (500, 1), steps=20)
same = ode_sample(key, normal, schedule, (500, 1), method="euler", steps=20)
lesson.agree(euler, same, atol=1e-3)
lesson.expect(
    "80 steps, Euler's error over DPM-Solver++'s", errors["euler"][-1] / errors["dpm++"][-1], 4, 7
)

# %% [markdown]
# Euler's error halves when the steps double; the other two fall faster. Heun asks the denoiser twice
# in each step, so its curve is dearer than it looks.
#
# ## Recap
#
# - A reverse step is a mean, which takes out the last step's share of the noise, and fresh noise.
# - Without fresh noise DDPM falls together to a few clean results, however good the denoiser is.
# - DDIM with eta = 0 adds none either, but keeps as much noise in $x_t$ as the schedule says. The start
#   decides the picture, and it can leap.
# - At $t = 0$ nothing is added.
#
# **Pitfalls.** Noise on the last step; a variance where a standard deviation is meant; `alpha_bar[-1]`,
# which Python takes for the last entry; the large variance with few steps.
#
# ## Quiz
#
# 1. All pictures of your sampler are clean and look alike. Which line do you look at first?
#
# <details><summary>Answer</summary> The one that adds the fresh noise: is it there, and is it the root
# of the variance?</details>
#
# 2. You run DDIM with eta = 0 twice with the same key, in 20 steps and in 50. Same picture?
#
# <details><summary>Answer</summary> Nearly: the same start leads to the same picture, up to the error
# of the longer steps.</details>
#
# 3. Data from N(0, 1), ten steps of beta = 0.19 each, only the mean. What is left of x = 1?
#
# <details><summary>Answer</summary> Each step multiplies by the root of 0.81, which is 0.9. Ten of them
# leave 0.35.</details>
#
# 4. Why can the fault of the last step not be seen in the pictures?
#
# <details><summary>Answer</summary> Its spread is 0.01 where pixels run from -1 to 1: about one of 256
# shades.</details>
#
# ## References
#
# Ho, Jain, Abbeel: [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), 2020,
# algorithm 2. Song, Meng, Ermon: [Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502),
# 2020. Karras et al.: [Elucidating the Design Space](https://arxiv.org/abs/2206.00364), 2022. Lu et al.:
# [DPM-Solver++](https://arxiv.org/abs/2211.01095), 2022.
#
# **Next:** [09 · U-Net](09_unet.ipynb) opens the black box that guessed the noise.

# %%
# The numbers of the quiz.
lesson.claim(round(0.81**0.5, 6) == 0.9)
lesson.claim(round(0.9**10, 2) == 0.35)
lesson.claim(round(0.01 / (2 / 255), 1) == 1.3)
