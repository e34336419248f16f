"""How well an autoencoder copies pictures, and what its latents are like: numbers for a report."""

import math

import jax
import numpy as np
from jaxtyping import Float, Int

from minidiff import tables, vae
from minidiff.data.factors import FACTORS
from minidiff.measure import metrics
from minidiff.measure.judge import Judge, look

Images = Float[np.ndarray, "n height width channels"]
Latents = Float[np.ndarray, "n h w latent"]

_kl = jax.jit(vae.kl)


def compare(made: Images, real: Images) -> dict:
    """Reconstructions beside their originals, for JSON: PSNR in decibels, SSIM, crispness of both."""
    decibels = metrics.psnr(made, real)
    return {
        "count": len(real),
        "psnr": {"mean": float(decibels.mean()), "worst": float(decibels.min())},
        "ssim": float(metrics.ssim(made, real).mean()),
        "crispness": {"made": metrics.crispness(made), "real": metrics.crispness(real)},
    }


def judged(
    judge: Judge,
    made: Images,
    real: Images,
    factors: Int[np.ndarray, "n factors"],
    others: Images,
) -> dict:
    """What the judge sees in reconstructions of scenes, for JSON.

    Returns:
        accuracy: {"made": the share of reconstructions in which each factor is still there,
            "real": of the scenes themselves}.
        frechet: {"made": the distance of reconstructions to their originals, "floor": of ``others``,
            real scenes too, to the same}. A good copy is far nearer than other scenes are.
    """
    seen = {
        name: look(judge, x) for name, x in (("made", made), ("real", real), ("others", others))
    }
    features = {name: x["features"] for name, x in seen.items()}
    right = {name: metrics.accuracy(seen[name]["factors"], factors) for name in ("made", "real")}
    distance = metrics.frechet_distance
    return {
        "accuracy": {
            name: dict(zip(FACTORS, map(float, shares), strict=True))
            for name, shares in right.items()
        },
        "frechet": {
            "made": distance(features["real"], features["made"]),
            "floor": distance(features["real"], features["others"]),
        },
    }


def latents(mean: Latents) -> dict:
    """What the encoder's means are like, for JSON.

    Returns:
        count: of the images.
        scale: 1 / standard deviation of all numbers together; times it, z has variance 1, which the
            noise of diffusion is made for (Rombach et al. 2022, appendix D.1; 0.18215 there).
        mean, std, kurtosis: of each channel; a Gaussian's kurtosis is 3.

    ValueError where all numbers are the same.
    """
    numbers = np.asarray(mean, np.float64)
    spread = numbers.std()
    if not spread > 0:
        raise ValueError("the encoder gives the same number everywhere: it has no scale")
    centre, std = numbers.mean(axis=(0, 1, 2)), numbers.std(axis=(0, 1, 2))
    fourth = np.mean((numbers - centre) ** 4, axis=(0, 1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        kurtosis = np.where(std > 0, fourth / std**4, 0.0)
    return {
        "count": len(numbers),
        "scale": float(1 / spread),
        "mean": centre.tolist(),
        "std": std.tolist(),
        "kurtosis": kurtosis.tolist(),
    }


def divergence(mean: Latents, log_variance: Latents) -> dict[str, float]:
    """What z tells of an image beyond N(0, I), on average: nats and bits."""
    nats = float(np.mean(_kl(mean, log_variance)))
    return {"nats": nats, "bits": nats / math.log(2)}


def table(report: dict) -> str:
    """The numbers of these functions, under the names ``compare`` ... ``kl`` of a report, as Markdown."""
    sharp, bits = report["crispness"], report["kl"]
    rows = [
        ("PSNR, decibels", f"{report['psnr']['mean']:.2f}", ""),
        ("PSNR of the worst", f"{report['psnr']['worst']:.2f}", ""),
        ("SSIM", f"{report['ssim']:.4f}", "1"),
        ("crispness", f"{sharp['made']:.3f}", f"{sharp['real']:.3f}"),
    ]
    if "judge" in report:
        seen = report["judge"]
        for name in FACTORS:
            shares = (seen["accuracy"][which][name] for which in ("made", "real"))
            rows.append((f"judge: {name}", *(f"{100 * share:.2f}%" for share in shares)))
    parts = [tables.markdown(("", "reconstructions", "originals"), rows, "<>")]
    if "judge" in report:
        far = report["judge"]["frechet"]
        parts.append(
            f"Frechet distance to the originals: {far['made']:.2f}; other real scenes are at "
            f"{far['floor']:.2f}."
        )
    found = report["latents"]
    channels = [
        (str(i), *(f"{value:.2f}" for value in values))
        for i, values in enumerate(zip(found["mean"], found["std"], found["kurtosis"], strict=True))
    ]
    head = ("channel of z", "mean", "std", "kurtosis (Gaussian: 3)")
    parts += [
        tables.markdown(head, channels, "<>"),
        f"Times {found['scale']:.5f}, measured on {found['count']} training images, z has variance 1. "
        f"z tells {bits['nats']:.1f} nats ({bits['bits']:.1f} bits) of an image beyond N(0, I).",
    ]
    return "\n\n".join(parts)
