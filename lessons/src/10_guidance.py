# %% [markdown]
# # 10 · Guidance
#
# **The one idea:** ask the network twice, once with the prompt and once without, and exaggerate the
# difference. The guided denoiser is a denoiser like any other, so every sampler takes it.
#
# | | |
# |---|---|
# | module | [minidiff/guidance.py](../minidiff/guidance.py) |
# | helpers | [diffusion.py](../minidiff/trained/diffusion.py), [judge.py](../minidiff/measure/judge.py) |
# | paper | [Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598) |
# | before this | [09 · U-Net](09_unet.ipynb); [06 · Retrieval](06_retrieval.ipynb) for the last part |
# | minutes | 40 to work through, 2 to run |
# | loads, saves | loads a text-to-image model with its CLIP (reference weights, or yours); saves nothing |

# %%
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from minidiff import checks, guidance, plot
from minidiff.checks.guidance import Clouds
from minidiff.clip import ClipScore
from minidiff.data.factors import COLOURS, FACTORS, SUBJECTS
from minidiff.data.scenes import UNSEEN_PAIRS
from minidiff.guidance import ClassifierFree, ClipX0, DynamicThreshold
from minidiff.lesson import Lesson
from minidiff.measure import compare, judge, showcase
from minidiff.objectives import FromV
from minidiff.plot import guidance as draw
from minidiff.recipes import text_to_image
from minidiff.sampling import ddim_sample
from minidiff.schedules import cosine_schedule
from minidiff.trained import diffusion

lesson = Lesson("10_guidance")
WHOSE = "reference"  # or "mine": the model of `minidiff train text_to_image`
STEPS, COUNT = 12, lesson.pick(smoke=16, cpu=64)  # of DDIM; images in a batch
key = jax.random.key(0)

# %% [markdown]
# ## One noise, many words
#
# This model is the U-Net of lesson 09 with one more input: what CLIP's text tower makes of a
# prompt. Each row below starts from one and the same noise. Only the words change.
#
# **Predict before you run the next cell:** what will the pictures of a row have in common?

# %%
lesson.predict("...")
model = text_to_image.load(lesson.weights("text_to_image", WHOSE))
model = dataclasses.replace(model, steps=STEPS)
prompts = [
    "",
    "a man",
    "a red man",
    "a red star",
    "a red star at night",
    "a blue cat wearing a hat",
]
rows = []
for seed in (1, 2):
    one = jax.random.key(seed)
    made = [diffusion.draw(one, model, 1, prompts=[prompt], scale=1.0) for prompt in prompts]
    rows.append((f"noise {seed}", np.concatenate(made)))
lesson.show(plot.strips(rows, [plot.wrap(prompt, 14) or "no prompt" for prompt in prompts]))

# %% [markdown]
# What the prompt says is there, and what it leaves open is decided by the noise: "a man" wears the
# colour of the unprompted picture beside it and stands in the same snow. Say another colour, and
# only that changes.
#
# ## Two guesses
#
# In training one caption in ten was hidden: the network was shown the empty text "" instead. So one
# network has learned two denoisers, a **conditional** and an **unconditional** one. In code a
# conditional denoiser is a small wrapper, and a sampler sees nothing of it.

# %%
lesson.source(guidance.Conditioned)

# %% [markdown]
# **Classifier-free guidance** uses both. With a condition $c$ (the prompt) and $\varnothing$ (no
# prompt), and a number $s$, the guidance **scale**:
#
# $$\hat\varepsilon = \varepsilon(x_t, t, \varnothing) + s\,\big(\varepsilon(x_t, t, c) -
# \varepsilon(x_t, t, \varnothing)\big)$$
#
# $s = 0$ does not listen, $s = 1$ does as told, $s > 1$ exaggerates. On four numbers:

# %%
unconditional = jnp.array([0.5, 0.0, -1.0, 0.2])
conditional = jnp.array([0.5, 0.4, -0.8, -0.2])
for scale, wanted in ((0, unconditional), (1, conditional), (3, [0.5, 1.2, -0.4, -1.0])):
    guided = unconditional + scale * (conditional - unconditional)
    print(scale, guided)
    lesson.agree(guided, wanted, atol=1e-6)

# %% [markdown]
# Where the two guesses agree (the first number) the scale does nothing. The paper counts from the
# conditional guess: its $w$ is our $s - 1$. Libraries mean our $s$.
#
# ### Exercise 10.1 · Combine (★, 5 minutes)
#
# Write `my_classifier_free(network, xt, t, condition, null, scale)`: the guided guess of the noise.
# `network(xt, t, condition)` answers with a guess, shaped like `xt`. No `if` on the scale, here or below:
# samplers are compiled, and the checks try that.
# `checks.classifier_free.hint()` helps.


# %%
def my_classifier_free(network, xt, t, condition, null, scale):
    # your code here, in place of the next line
    raise NotImplementedError


checks.classifier_free(my_classifier_free)

# %% [markdown]
# The module's version asks for both guesses in one call, on a batch of twice the size.

# %%
lesson.source(ClassifierFree.__call__)

# %% [markdown]
# ## In the plane
#
# What does exaggeration do to samples? We take points in three clouds, and a denoiser that has
# learned everything there is to learn: for clouds it can be written down. It is told which share of
# the data each cloud has. The prompt is "the first cloud"; no prompt means a third each.
#
# **Predict:** with scale 8, will the samples lie in the first cloud's circle (twice its standard
# deviation)? Will they be spread more or less than with scale 1?

# %%
lesson.predict("...")
angles = np.pi / 2 + np.arange(3) * 2 * np.pi / 3
middles = np.stack([np.cos(angles), np.sin(angles)], axis=1)
spread, points = 0.4, 1000
network = Clouds(cosine_schedule(), jnp.float32(middles), spread)
first = jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (points, 1))
every = jnp.full((points, 3), 1 / 3)
panels = {}
for scale in (0.0, 1.0, 3.0, 8.0):
    denoiser = ClassifierFree(network, first, every, jnp.float32(scale))
    made = ddim_sample(key, denoiser, network.schedule, (points, 2), steps=50)
    panels[f"scale {scale:g}"] = np.asarray(made)
lesson.show(draw.clouds(panels, middles, spread))

# %%
inside = np.mean(np.linalg.norm(panels["scale 8"] - middles[0], axis=1) < 2 * spread)
spreads = [np.std(panels[f"scale {scale}"][:, 1]) for scale in (1, 8)]
lesson.outcome(f"{inside:.0%} in the circle, spread {spreads[1]:.2f} against {spreads[0]:.2f}")
lesson.expect("scale 8: share inside the circle", inside, 0.0, 0.2)
for name, low, high, least, most in (
    ("scale 1", 0.95, 1.1, 0.36, 0.42),
    ("scale 3", 1.4, 1.7, 0.22, 0.28),
    ("scale 8", 1.95, 2.35, 0.16, 0.23),
):
    height = panels[name][:, 1]
    lesson.expect(f"{name}: mean height (the cloud's is 1)", height.mean(), low, high)
    lesson.expect(f"{name}: spread of height (the cloud's is 0.4)", height.std(), least, most)

# %% [markdown]
# Scale 0 draws all three clouds, scale 1 the first one as it is. With 3 and 8 the points become
# narrower and overshoot, away from the other two clouds: at 8 nearly all have left the thick
# circle. The reason is Bayes' rule. The difference of the two guesses points to where the *prompt*
# becomes more likely, given the point: away from everything that could be something else. More than
# certain is what scale 8 asks for. In pictures: typical, exaggerated, all alike.
#
# ## With the model
#
# The same, with prompts that training never saw. Each column is one prompt and one noise.

# %%
scales = lesson.pick(smoke=[0.0, 3.0], cpu=[0.0, 1.0, 3.0, 8.0, 15.0])
captions = compare.captions("scenes", 5, "test", 16, COUNT)
measure = compare.Measure(model, captions, 5)
figure, numbers = compare.by_scale(measure, scales)
lesson.show(figure)

# %% [markdown]
# Look down the columns. Scale 0 pays no attention to the prompts. From 1 on they are met. The
# higher the scale, the harder the colours and the edges, until at 15 pictures come apart.
#
# Two numbers say it. **Faithfulness**: the judge, a classifier of scenes, looks at each picture;
# which share of the prompts is met whole? **Variety**: many pictures of one short prompt, "a cat".
# How varied are the colours, which the prompt leaves open? We count in bits: $n$ equally common
# colours are $\log_2 n$ bits, so all eight are 3 bits, and always the same one is 0.

# %%
short, look = ["a cat", "a robot", "a star", "a man"], judge.load_judge()


def bits(values):
    """The entropy of a list of integers."""
    share = np.bincount(values)[np.bincount(values) > 0] / len(values)
    return float(-np.sum(share * np.log2(share)))


def variety(scale):
    made = diffusion.draw(key, model, 2 * COUNT, prompts=short, scale=scale, at_once=COUNT)
    seen = judge.look(look, made)["factors"]
    return {name: np.mean([bits(seen[i :: len(short), f]) for i in range(len(short))])
            for f, name in enumerate(FACTORS) if name in ("colour", "background")}  # fmt: skip


lesson.claim(bits([0, 1, 2, 3, 4, 5, 6, 7]) == 3)
varied = [variety(scale) for scale in scales]
faithful = {"test prompts met whole": [found["all"] for found in numbers]}
bits_by_name = {name: [found[name] for found in varied] for name in varied[0]}
panels = [("share", faithful), ("bits of what is left open", bits_by_name)]
lesson.show(plot.curves(panels, scales, "guidance scale"))

# %%
met = dict(zip(scales, faithful["test prompts met whole"], strict=True))
open_bits = dict(zip(scales, bits_by_name["colour"], strict=True))
lesson.expect("prompts met whole, scale 0", met[0.0], 0.0, 0.05)
lesson.expect("prompts met whole, scale 3", met[3.0], 0.9, 1.0)
lesson.expect("bits of colour, scale 0", open_bits[0.0], lesson.pick(smoke=1.5, cpu=2.4), 3.0)
if lesson.preset == "cpu":
    lesson.expect("prompts met whole, scale 1", met[1.0], 0.83, 1.0)
    lesson.expect("prompts met whole, scale 15", met[15.0], 0.6, 0.93)
    lesson.expect("bits of colour, scale 1", open_bits[1.0], 2.4, 3.0)
    lesson.expect("bits of colour, scale 8", open_bits[8.0], 1.4, 2.3)
    lesson.expect("bits of colour, scale 15", open_bits[15.0], 1.0, 2.2)

# %% [markdown]
# Faithfulness rises to about 3 and then falls: pictures that come apart are not recognised any
# more. Beyond 1 variety only falls: at 8 about 1.8 bits of colour are left, as of three or four
# colours instead of eight. So a scale is a bargain. Ours is 3, Stable Diffusion's usual one 7.5.
#
# ## Out of range
#
# Why do the colours get so hard? The exaggerated guess implies an image with values far outside of
# $[-1, 1]$, where no image lies, and the next step starts from there. One remedy, which the model
# above uses already: look at the image that a guess implies, clip it, and return the guess that
# belongs to the clipped image.
#
# ### Exercise 10.2 · Keep in range (★★, 5 minutes)
#
# Write `my_clip_x0(schedule, xt, t, eps)`: the corrected guess. `noising.predict_x0(schedule, xt,
# t, eps)` and `noising.predict_eps(schedule, xt, t, x0)` lead to the image and back.


# %%
def my_clip_x0(schedule, xt, t, eps):
    # your code here, in place of the next line
    raise NotImplementedError


checks.clip_x0(my_clip_x0)

# %% [markdown]
# The module has two remedies. `ClipX0` is yours. `DynamicThreshold` divides an image that is out of
# range as a whole, so that light and dark keep their relation.

# %%
lesson.source(DynamicThreshold)

# %%
eight = ["a red star at night", "a blue cat wearing a hat", "a green man on the beach",
         "a yellow robot in the snow", *short]  # fmt: skip
network, nothing = FromV(model.network, model.schedule), model.condition([""] * 8)
harsh = ClassifierFree(network, model.condition(eight), nothing, jnp.float32(15.0))
denoisers = {
    "as it is": harsh,
    "ClipX0": ClipX0(harsh, model.schedule),
    "Dynamic-\nThreshold": DynamicThreshold(harsh, model.schedule, 0.95),
}
shape = (8, *model.image_shape)
made = {name: np.asarray(ddim_sample(key, denoiser, model.schedule, shape, steps=STEPS))
        for name, denoiser in denoisers.items()}  # fmt: skip
columns = [plot.wrap(prompt, 14) for prompt in eight]
lesson.show(plot.strips(list(made.items()), columns, title="scale 15"))
beyond = {name: np.mean(np.abs(images) > 1 + 1e-4) for name, images in made.items()}
lesson.expect("share of numbers out of range, as it is", beyond["as it is"], 0.08, 0.4)
lesson.expect("share of numbers out of range, clipped", beyond["ClipX0"], 0.0, 1e-3)

# %% [markdown]
# Without a remedy a good part of the numbers is out of range, and the picture only shows them cut
# off. Clipped, they end at the edge of the range; `DynamicThreshold` has softer colours. Neither
# mends all that a scale of 15 breaks: use a smaller one.
#
# ## Pairs that were never seen
#
# Training never showed a few pairs of subject and colour, such as a blue man. Each word was seen
# often, though.

# %%
pairs = [f"a {COLOURS[colour]} {SUBJECTS[subject]}" for subject, colour in UNSEEN_PAIRS]
prompts = [pairs[i % 8].replace("a orange", "an orange") for i in range(COUNT)]
made = diffusion.draw(key, model, COUNT, prompts=prompts, scale=3.0)
found = judge.faithfulness(judge.look(look, made)["factors"], prompts)
lesson.show(plot.contact_sheet(made[:8], prompts[:8]))
lesson.expect("subjects of unseen pairs", found["subject"], 0.8, 1.0)
lesson.expect("colours of unseen pairs", found["colour"], 0.85, 1.0)

# %% [markdown]
# The model puts words together that it never saw together, for most of the pairs at least.
#
# ## Negative prompts
#
# Nothing says that the second guess must be told *nothing*. Tell it what you do not want, and the
# same formula leads away from that.
#
# **Predict:** "a cat" with the negative prompt "in the snow": which backgrounds will the cats get? The
# row above has no negative prompt, and begins with the same noise.

# %%
lesson.predict("...")
backgrounds, rows, places = FACTORS["background"], [], {}
for negative in ("", "in the snow", "a red cat"):
    made = diffusion.draw(key, model, COUNT, prompts=["a cat"], negative=negative, scale=3.0)
    seen = judge.look(look, made)["factors"]
    share = {"night": np.mean(seen[:, 2] == backgrounds.index("night")),
             "snow": np.mean(seen[:, 2] == backgrounds.index("snow")),
             "cat": np.mean(seen[:, 0] == SUBJECTS.index("cat"))}  # fmt: skip
    places[negative] = share
    rows.append((f"not: {negative or '-'}", made[:8]))
lesson.show(plot.strips(rows, title="a cat"))
now = places["in the snow"]
lesson.outcome(f"{now['snow']:.0%} in the snow, {now['night']:.0%} at night")

# %%
some = lesson.pick(smoke=0.0, cpu=0.05)
lesson.expect("snow without a negative prompt", places[""]["snow"], some, 0.35)
lesson.expect(
    "snow with 'in the snow' as negative prompt", places["in the snow"]["snow"], 0.0, 0.02
)
lesson.expect("nights without a negative prompt", places[""]["night"], 0.0, 0.2)
lesson.expect("nights with 'in the snow'", places["in the snow"]["night"], 0.35, 1.0)
lesson.expect("cats with 'a red cat' as negative prompt", places["a red cat"]["cat"], 0.2, 0.85)

# %% [markdown]
# There is no snow, where one cat in seven sat in it before. And more than that: two in three have
# gone into the night, where hardly any was. Away from the brightest is towards the darkest. And "not
# a red cat" leads away from cats as well as from red: to turquoise lumps, many of which the judge
# takes for no cat. A negative prompt is a direction, not a filter.
#
# ## Led by CLIP
#
# One last way. Suppose the model had never seen text. CLIP can still say how well the image that a
# guess implies fits a text (lesson 06), and that number has a **gradient**: how to change $x_t$ to
# make it fit better. With a score $f$ of the implied image $\hat x_0(x_t)$,
#
# $$\hat\varepsilon = \varepsilon - s\,\sqrt{1 - \bar\alpha_t}\;\nabla_{x_t} f(\hat x_0(x_t)).$$
#
# The minus sign is there because the noise is what gets *taken away*.
#
# ### Exercise 10.3 · Follow a score (★★★, 10 minutes)
#
# Write `my_score_guided(denoiser, score, schedule, xt, t, scale)`. In the check `xt` is `(batch, 2)`,
# points in the plane. `score(x0)` gives one number for each, `(batch,)`; `denoiser(xt, t)` gives eps.
# Use `jax.grad` on a function of `xt`.


# %%
def my_score_guided(denoiser, score, schedule, xt, t, scale):
    # your code here, in place of the next line
    raise NotImplementedError


checks.score_guided(my_score_guided)

# %% [markdown]
# The score is the cosine of lesson 06. The model below is told nothing: only CLIP knows the prompt.

# %%
lesson.source(ClipScore)

# %%
untaught = dataclasses.replace(model, steps=lesson.pick(smoke=4, cpu=25))
prompts = list(showcase.PROMPTS)
rows, reached = [], {}
for name, scale in (("towards", 300.0), ("no CLIP", 0.0), ("away", -300.0)):
    made, _ = showcase.clip_guided(key, untaught, prompts, scale)
    reached[name] = judge.faithfulness(judge.look(look, made)["factors"], prompts)["colour"]
    rows.append((name, made))
lesson.show(plot.strips(rows, [plot.wrap(prompt, 16) for prompt in prompts]))
lesson.expect("colours, towards the prompt", reached["towards"], 0.6, 1.0, trained=True)
lesson.expect("colours, away from it", reached["away"], 0.0, 0.15, trained=True)

# %% [markdown]
# Colours and places arrive, shapes less clearly than with the model's own text: CLIP looks at whole
# pictures and was never asked where an edge is. And it costs a gradient through two networks at
# each step. That is why nearly everybody guides without a classifier, as at the beginning of this
# lesson.
#
# ## Break it: the wrong order
#
# Exchange the condition and its absence, the most common slip. The network is the same, the sampler too.

# %%
order = {}
for name, one, other in (("right", model.condition(eight), nothing),
                         ("exchanged", nothing, model.condition(eight))):  # fmt: skip
    denoiser = ClipX0(ClassifierFree(network, one, other, jnp.float32(3.0)), model.schedule)
    order[name] = np.asarray(ddim_sample(key, denoiser, model.schedule, shape, steps=STEPS))
lesson.show(plot.strips(list(order.items()), columns))
met = {name: judge.faithfulness(judge.look(look, images)["factors"], eight)["all"]
       for name, images in order.items()}  # fmt: skip
lesson.expect("prompts met, right", met["right"], 0.75, 1.0)
lesson.expect("prompts met, exchanged", met["exchanged"], 0.0, 0.13)

# %% [markdown]
# The prompts became negative prompts: for "a red star at night" you get something blue by day.
# Nothing crashes, and the loss of training knows nothing of it. At scale 1 you would get a model
# that ignores its prompt: a slip that is easily taken for bad training.
#
# ## Recap
#
# - A network that was trained with and without captions is two denoisers; guidance exaggerates what
#   sets them apart.
# - A guided denoiser is a denoiser: no sampler changes.
# - The scale buys faithfulness with variety. Too much of it spoils both.
# - Clip the implied image, or large scales leave the range of images.
# - A score with a gradient, such as CLIP's cosine, can lead a model that was never told anything.
#
# **Pitfalls.** Conditional and unconditional guess exchanged; the paper's $w$ taken for $s$; a
# network that was never trained without captions, so that its unconditional guess is nonsense;
# reading a negative prompt as a filter.
#
# ## Quiz
#
# 1. Conditional and unconditional guess agree. What does a scale of 100 do?
#
# <details><summary>Answer</summary> Nothing: the difference is 0.</details>
#
# 2. What does guidance cost at each step?
#
# <details><summary>Answer</summary> Two guesses instead of one: about twice the time.</details>
#
# 3. You want many different cats. Which scale?
#
# <details><summary>Answer</summary> About 1, and better training rather than more scale.</details>
#
# 4. A paper says $w = 2$. What is our scale?
#
# <details><summary>Answer</summary> 3, if it counts as Ho and Salimans do.</details>
#
# 5. Why can CLIP lead a model on noisy images, although it was trained on clean ones?
#
# <details><summary>Answer</summary> It looks at the implied image, not at the noisy one.</details>
#
# ## References
#
# Ho, Salimans: [Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598), 2022.
# Dhariwal, Nichol: [Diffusion Models Beat GANs](https://arxiv.org/abs/2105.05233), 2021. Saharia et
# al.: [Imagen](https://arxiv.org/abs/2205.11487), 2022, section 2.3. Bansal et al.: [Universal
# Guidance](https://arxiv.org/abs/2302.07121), 2023.
#
# **Next:** this was the last lesson so far. [Draw your own](../README.md): `minidiff sample` takes
# any prompt.

# %%
# The fourth answer of the quiz: the paper's formula with w = 2 is ours with s = 3.
w, given, without = 2.0, jnp.array([0.4, -0.8]), jnp.array([0.0, -1.0])
lesson.agree((1 + w) * given - w * without, without + 3 * (given - without), atol=1e-6)
