"""Guidance: small pytrees that wrap one denoiser into another.

A guided sampler is the plain sampler given a guided denoiser, so nothing here samples or trains.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key, PyTree

from minidiff.errors import InputError
from minidiff.noising import predict_eps, predict_x0, signal_and_noise
from minidiff.schedules import Schedule


@struct.dataclass
class Conditioned:
    """A network that is called as (xt, t, condition), given its condition once and for all."""

    network: object
    condition: object  # a pytree whose arrays have the batch in front

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        return self.network(xt, t, self.condition)


def drop_condition(
    key: Key[Array, ""],
    condition: PyTree[Float[Array, "batch ..."]],
    null: PyTree[Float[Array, "_ ..."]],
    share: float | Float[Array, ""],
) -> PyTree[Float[Array, "batch ..."]]:
    """The condition, but for a random ``share`` of the batch, which gets ``null`` instead.

    Trained so, one network makes both guesses that ``ClassifierFree`` asks for (Ho and Salimans 2022,
    algorithm 1, where share is p_uncond; 0.1 is usual). ``null`` holds one row, or one per sample.
    """
    dropped = jax.random.bernoulli(key, share, jax.tree.leaves(condition)[0].shape[:1])

    def choose(given, null):
        return jnp.where(dropped.reshape(-1, *(1,) * (given.ndim - 1)), null, given)

    return jax.tree.map(choose, condition, null)


@struct.dataclass
class ClassifierFree:
    r"""eps without the condition, plus ``scale`` times what the condition changes.

    eps = eps(xt, t, null) + scale (eps(xt, t, condition) - eps(xt, t, null)): 0 ignores the
    condition, 1 obeys it, more exaggerates it, at the price of variety (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598, equation 6; their w is scale - 1). The network must have been
    trained with the condition now and then replaced by ``null`` (``drop_condition``). Both guesses
    are one call on a batch of twice the size.

    Outside the steps ``first`` to ``last`` the scale is 1: exaggeration near pure noise costs most
    of the variety, near the image it does nothing (Kynkaanniemi et al. 2024,
    https://arxiv.org/abs/2404.07724). InputError if the scale is a negative number.
    """

    network: object
    condition: object  # a pytree whose arrays have the batch in front
    null: object  # like condition
    scale: float | jax.Array = 3.0
    first: int | jax.Array = 0  # t of the last guided step on the way down to the image
    last: int | jax.Array | None = None  # t of the first guided step; None: no end

    def __post_init__(self):
        if isinstance(self.scale, int | float) and self.scale < 0:
            raise InputError(f"the guidance scale must be 0 or more; got {self.scale}")

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        def twice(a, b):
            return jnp.concatenate([a, b])

        both = jax.tree.map(twice, self.condition, self.null)
        eps = self.network(twice(xt, xt), twice(t, t), both).astype(jnp.float32)
        conditional, unconditional = jnp.split(eps, 2)
        guided = t >= self.first if self.last is None else (t >= self.first) & (t <= self.last)
        scale = jnp.where(guided, self.scale, 1.0).reshape(-1, *(1,) * (xt.ndim - 1))
        return unconditional + scale * (conditional - unconditional)


@struct.dataclass
class ClipX0:
    """Keep the predicted image inside the range of real ones.

    The image that the noise guess implies is clipped to [low, high], and the guess is corrected to
    match. Near t = T a small error in eps is a huge one in x0; clipping stops it from being carried
    along (the original DDPM code does the same).
    """

    denoiser: object
    schedule: Schedule
    low: float = -1.0
    high: float = 1.0

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        return _change_x0(self, xt, t, lambda x0: jnp.clip(x0, self.low, self.high))


@struct.dataclass
class Inpaint:
    """Paint only what is not known: the predicted image is ``known`` wherever ``mask`` is 1.

    The noise guess is corrected to match, so every sampler ends on the known pixels to the last
    digit that float32 holds, and paints the others with them in view (Wang et al. 2022,
    https://arxiv.org/abs/2212.00490, equation 13, with the mask as their A). Wrap it around all
    else that changes the predicted image. Between 0 and 1 the mask blends.
    """

    denoiser: object
    schedule: Schedule
    known: jax.Array  # broadcasts against xt; its values where mask is 0 do not matter
    mask: jax.Array  # broadcasts against xt: 1 or True is known, 0 is to be painted

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        known, mask = (
            jnp.broadcast_to(jnp.asarray(a, jnp.float32), xt.shape) for a in (self.known, self.mask)
        )
        return _change_x0(self, xt, t, lambda x0: mask * known + (1 - mask) * x0)


@struct.dataclass
class DynamicThreshold:
    r"""Keep the predicted image in [-1, 1] by shrinking it, where ``ClipX0`` would saturate it.

    In each sample the ``percentile`` of the absolute values, if more than 1, becomes 1: what is
    beyond is clipped, the rest divided by it. Strong guidance then changes the picture and not only
    its contrast (Saharia et al. 2022, https://arxiv.org/abs/2205.11487, section 2.3).
    """

    denoiser: object
    schedule: Schedule
    percentile: float = 0.995  # of a sample's values, 0 to 1

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        def shrink(x0):
            size = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), self.percentile, axis=1)
            most = jnp.maximum(size, 1.0).reshape(-1, *(1,) * (x0.ndim - 1))
            return jnp.clip(x0, -most, most) / most

        return _change_x0(self, xt, t, shrink)


def _change_x0(guided, xt, t, change):
    """The guess of eps that belongs to ``change`` of the predicted image."""
    eps = guided.denoiser(xt, t).astype(jnp.float32)
    x0 = predict_x0(guided.schedule, xt, t, eps)
    return predict_eps(guided.schedule, xt, t, change(x0))


@struct.dataclass
class ClipGuided:
    r"""Follow the gradient of a score of the predicted image, such as CLIP's likeness to a prompt.

    eps - scale sqrt(1 - alpha_bar) grad score(x0(xt)): Bayes' rule for the noise guess, with
    exp(scale score) in the place of the classifier (Dhariwal and Nichol 2021,
    https://arxiv.org/abs/2105.05233, algorithm 2; on the predicted image, so that the score need
    never see noise: Bansal et al. 2023, https://arxiv.org/abs/2302.07121). The gradient goes

    - through the denoiser: exact for a linear score of normal data, and any direction that no
      image could take is damped, as the denoiser damps it;
    - or around it (``through=False``), taking eps as constant, so that the derivative of x0 is
      1 / sqrt(alpha_bar): less work, but it supposes that anything could be under the noise.

    Near pure noise 1 / sqrt(alpha_bar) is 20,000, and what the network's own derivative is wrong
    by, be it rounding, grows as much. So in each sample the change is cut where it would exceed
    ``limit`` times sqrt(1 - alpha_bar) on x0, root mean square; that is also ``limit`` times
    sqrt(alpha_bar) on eps. Then the noise schedule hardly matters. None never cuts.
    """

    denoiser: object
    schedule: Schedule
    score: object  # a pytree called as score(x0) -> (batch,), higher is better
    scale: float | jax.Array
    through: bool = struct.field(pytree_node=False, default=True)
    limit: float | jax.Array | None = 1.0

    def __call__(
        self, xt: Float[Array, " batch *shape"], t: Int[Array, " batch"]
    ) -> Float[Array, " batch *shape"]:
        signal, noise = signal_and_noise(self.schedule, t, xt)
        around = None if self.through else self.denoiser(xt, t).astype(jnp.float32)

        def judge(xt):
            eps = self.denoiser(xt, t).astype(jnp.float32) if self.through else around
            return self.score(predict_x0(self.schedule, xt, t, eps)).sum(), eps

        gradient, eps = jax.grad(judge, has_aux=True)(xt)
        change = self.scale * noise * gradient
        if self.limit is not None:
            axes = tuple(range(1, xt.ndim))
            most = self.limit * signal
            change *= most / jnp.maximum(jnp.sqrt(jnp.mean(change**2, axes, keepdims=True)), most)
        return eps - change
