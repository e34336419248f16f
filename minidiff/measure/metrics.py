"""How good samples and copies are: numbers from arrays, in double precision, outside any program."""

import numpy as np
from jaxtyping import Bool, Float, Int


def frechet_distance(
    a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]
) -> float:
    r"""|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of Gaussians fitted to two sets of features.

    Heusel et al. 2017 (FID uses the features of an Inception network; here they are the judge's).
    0 for identical sets. It falls as the sets grow, so print the distance between two halves of the
    real data beside it. ValueError unless both sets hold at least 2 rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"needs at least 2 rows of features a side; got {len(a)} and {len(b)}")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (A B)^(1/2) = tr (R B R)^(1/2) with R = A^(1/2): symmetric, so its eigenvalues are real.
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_a))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ np.atleast_2d(cov_b) @ root)
    spread = np.trace(np.atleast_2d(cov_a)) + np.trace(np.atleast_2d(cov_b))
    distance = np.sum((mean_a - mean_b) ** 2) + spread - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    return max(float(distance), 0.0)


def squared_distances(
    a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]
) -> Float[np.ndarray, "n m"]:
    """|a_i - b_j|^2 for all pairs."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.maximum(squares, 0)


def coverage(
    real: Float[np.ndarray, "n features"], made: Float[np.ndarray, "m features"], k: int = 5
) -> float:
    """The share of real points that have a made point nearer than their k-th real neighbour.

    1 where the made images are as varied as the real ones, low where they repeat a few (Naeem et al.
    2020, equation 9). ValueError unless there are more than k real points.
    """
    if len(real) <= k:
        raise ValueError(f"coverage with k={k} needs more than {k} real points; got {len(real)}")
    among = np.sort(squared_distances(real, real), axis=1)[:, k]  # column 0 is the point itself
    return float(np.mean(squared_distances(real, made).min(axis=1) <= among))


def accuracy(
    predicted: Int[np.ndarray, "n factors"], true: Int[np.ndarray, "n factors"]
) -> Float[np.ndarray, " factors"]:
    """The share of rows on which each factor is right."""
    return np.mean(np.asarray(predicted) == np.asarray(true), axis=0)


def recall(
    similarity: Float[np.ndarray, "queries items"],
    relevant: Bool[np.ndarray, "queries items"],
    k: int,
) -> float:
    """The share of queries with a relevant item among their ``k`` most similar ones: recall@k.

    An item that ties with a relevant one stands before it, so that a collapsed encoder, to which all
    things are equal, is not taken for a perfect one. ValueError where a query has nothing relevant.
    """
    similarity, relevant = np.asarray(similarity), np.asarray(relevant)
    if not relevant.any(axis=1).all():
        raise ValueError("every query needs a relevant item")
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    # Not >=: what is no number stands before, too.
    before = np.sum(~(similarity < best) & ~relevant, axis=1)
    return float(np.mean(before < k))


def noise_level(images: Float[np.ndarray, "n height width channels"]) -> float:
    """Standard deviation of white noise in images, by the median of their second differences.

    Flat and evenly shaded parts have none of their own, and a median does not heed edges as long as they
    are few (Donoho and Johnstone 1994: the median of |N(0, s^2)| is 0.6745 s). A classifier's features
    may overlook what this sees.
    """
    images = np.asarray(images, np.float32)
    second = images[:, :, 2:] - 2 * images[:, :, 1:-1] + images[:, :, :-2]
    return float(np.median(np.abs(second)) / (0.6745 * 6**0.5))


Images = Float[np.ndarray, "n height width channels"]
RANGE = 2.0  # of images in [-1, 1]: what PSNR and SSIM call the peak
WINDOW, SIGMA = 11, 1.5  # SSIM's, as published


def psnr(made: Images, real: Images) -> Float[np.ndarray, " n"]:
    r"""10 log10(2^2 / mean (made - real)^2) of each pair of images in [-1, 1], in decibels.

    20 is an error of a tenth of the range. Infinite for equal images. Of many, print the mean.
    """
    error = np.asarray(made, np.float64) - np.asarray(real, np.float64)
    mean = np.square(error).reshape(len(error), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(RANGE**2 / mean)


def ssim(made: Images, real: Images) -> Float[np.ndarray, " n"]:
    r"""How alike the structure of each pair of images in [-1, 1] is; 1 where they are equal.

    Wang et al. 2004, equation 13 (https://doi.org/10.1109/TIP.2003.819861), with their constants and
    their window: 11 x 11, Gaussian, 1.5 pixels wide, laid only where it lies within the image. The mean
    over windows and channels. ValueError for an image smaller than the window.
    """
    if min(real.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM wants sides of {WINDOW} pixels or more; got {real.shape[1:3]}")
    x, y = np.asarray(made, np.float64), np.asarray(real, np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    alike /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return alike.mean(axis=(1, 2, 3))


def _windowed(x: Images) -> np.ndarray:
    """The weighted mean in every window, (n, channels, down, across)."""
    away = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (away / SIGMA) ** 2)
    for side in x.shape[
        1:3
    ]:  # a Gaussian of two numbers is one of the first times one of the second
        band = np.zeros((side - WINDOW + 1, side))
        for start, row in enumerate(band):
            row[start : start + WINDOW] = weights / weights.sum()
        x = np.tensordot(x, band, axes=(1, 1))  # the new side comes last, the other is now axis 1
    return x


def crispness(images: Images) -> float:
    """The 99th percentile of the difference between neighbouring pixels, beside or below each other.

    Of two pixels that of the channel in which they differ most, in images of [-1, 1]: from 0 to 2. It
    tells how sharp the sharpest hundredth of a picture is. Blur lowers it where a mean, of which flat
    parts are most, hardly moves. Print that of real images beside it: of scenes of 64 pixels it is 1.37.
    """
    images = np.asarray(images, np.float32)
    steps = [np.abs(np.diff(images, axis=axis)).max(axis=3).ravel() for axis in (1, 2)]
    return float(np.percentile(np.concatenate(steps), 99))
