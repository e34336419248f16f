"""scikit-learn's 1,797 handwritten digits: small, real, and there without a network."""

import numpy as np

from minidiff.data.arrays import ArraySource, Facts
from minidiff.data.sources import DEFAULT_SIZE, check_split

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_FRACTION = 0.2


def digits_source(
    rest: str = "", *, seed: int, split: str, size: int | None, batch_size: int
) -> ArraySource:
    """The digits, 8x8 grey, enlarged to ``size`` (bilinear).

    A fifth of them, the same in every run, is the "test" split. ``rest`` is empty: there is nothing
    to choose.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    check_split("digits", split)
    size = size or DEFAULT_SIZE
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    first_test = round(len(order) * (1 - TEST_FRACTION))
    chosen = order[first_test:] if split == "test" else order[:first_test]

    grey = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)  # 17 shades, 0 to 16
    if size != grey.shape[1]:
        bilinear = Image.Resampling.BILINEAR
        grey = np.stack(
            [np.asarray(Image.fromarray(x).resize((size,) * 2, bilinear)) for x in grey]
        )
    labels = digits.target[chosen]
    facts = Facts(
        captions=tuple(f"the digit {NAMES[label]}" for label in labels), class_names=NAMES
    )
    return ArraySource.init(
        "digits", grey[..., None], labels, seed=seed, batch_size=batch_size, facts=facts
    )
