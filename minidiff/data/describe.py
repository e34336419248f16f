"""What is in a source, in numbers, and what is wrong with it."""

import hashlib
from collections import Counter

import jax
import numpy as np

from minidiff.data.sources import Source, known_problems

ENDLESS_EXAMINED = 512
STREAM_EXAMINED = 10_000
AT_ONCE = 512
IMBALANCE = 10  # a class this many times as frequent as another is worth a remark


def describe(source: Source) -> dict:
    """Statistics of a source, ready for JSON, with remarks under "problems".

    "count" is None for scenes, which never end; "examined" says how many images were looked at:
    all of them, the first 512 scenes, or 10,000 evenly spaced examples of a stream. "range", "mean"
    and "std" (the last two per channel) are those of the float images. "labels" counts images by
    class; for scenes "factors" counts them by factor and value. "captions" counts the images that
    have one.
    """
    count = source.count
    if count is None:
        examined = ENDLESS_EXAMINED
    else:
        examined = count if source.traceable else min(count, STREAM_EXAMINED)
    numbers = np.linspace(0, (count or examined) - 1, examined, dtype=np.int64)
    channels = source.image_shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    low, high, flat, captioned = np.inf, -np.inf, 0, 0
    prints, labels = Counter(), []
    draw = jax.jit(_examples) if source.traceable else _examples
    for start in range(0, examined, AT_ONCE):
        batch = jax.device_get(draw(source, numbers[start : start + AT_ONCE]))
        images = batch["image"]
        pixels = images.reshape(-1, channels).astype(np.float64)
        total, squares = total + pixels.sum(0), squares + (pixels**2).sum(0)
        low, high = min(low, images.min()), max(high, images.max())
        flat += int((np.ptp(images, axis=(1, 2)).max(-1) == 0).sum())
        prints.update(hashlib.sha256(image.tobytes()).digest() for image in images)
        captioned += sum(map(bool, source.captions(batch) or []))
        labels.extend(batch.get("label", batch.get("factors", [])))

    pixels_in_all = examined * source.image_shape[0] * source.image_shape[1]
    mean = total / pixels_in_all
    report = {
        "name": source.name,
        "count": count,
        "examined": examined,
        "image_shape": list(source.image_shape),
        "range": [float(low), float(high)],
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / pixels_in_all - mean**2, 0)).tolist(),
        "captions": captioned,
        **_count_labels(source, labels),
    }
    repeated = examined - len(prints)
    return report | {"problems": _problems(source, report, flat, repeated)}


def _examples(source, numbers):
    return source.examples(numbers)


def _count_labels(source: Source, labels: list) -> dict:
    if not labels:
        return {}
    if np.ndim(labels[0]) == 0:
        names = source.class_names or range(max(labels) + 1)
        tally = Counter(int(label) for label in labels)
        return {"labels": {str(name): tally[number] for number, name in enumerate(names)}}
    columns = zip(source.factors.items(), np.transpose(labels), strict=True)
    return {
        "factors": {
            factor: {value: int((column == number).sum()) for number, value in enumerate(values)}
            for (factor, values), column in columns
        }
    }


def _problems(source: Source, report: dict, flat: int, repeated: int) -> list[str]:
    problems = known_problems(source)
    if report["examined"] < (report["count"] or 0):
        problems.append(f"only {report['examined']} of {report['count']} images were examined")
    low, high = report["range"]
    if not (low >= -1 and high <= 1):  # also where they are not numbers
        problems.append(f"values from {low} to {high} leave [-1, 1]")
    if flat:
        problems.append(f"{flat} image(s) of one flat colour")
    if repeated:
        problems.append(f"{repeated} image(s) are copies of others")
    labels = report.get("labels", {})
    empty = [name for name, number in labels.items() if number == 0]
    if empty:
        problems.append(f"no image of class {', '.join(empty)}")
    present = [number for number in labels.values() if number]
    if present and max(present) >= IMBALANCE * min(present):
        problems.append(f"classes are uneven: from {min(present)} to {max(present)} images")
    return problems
