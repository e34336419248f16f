"""Results of benchmarks: read, told as tables, compared with older ones.

A results file is JSON: key -> what one benchmark found on one machine, with its date, its command,
versions and device under "machine", and the measured rows under "contenders". A row holds the times
of one contender, in seconds. Nothing here imports JAX.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from minidiff import tables
from minidiff.errors import InputError
from minidiff.files import read_bytes

IDENTITY = ("cpu", "cpu_count", "devices")  # what makes a machine another one
VERSIONS = ("python", "jax", "jaxlib", "flax", "optax", "numpy", "xla_flags")
NUMBER = re.compile(r"[\d.,]*%?(\s\(.*\))?$")  # with quartiles after it, or blank
LEAST, MOST = 1e-12, 1e12  # seconds, or GFLOP/s, that anybody measures
CEILING_DRIFT = 0.1  # a machine whose ceiling moved further was busy, or is another one


def read(path: Path | str) -> dict[str, dict]:
    """A results file. InputError, one line, if it is none."""
    try:
        results = json.loads(read_bytes(path))
        for result in results.values():
            identity(result["machine"]), named(result["machine"])
            ceilings = result.get("ceiling_gflops", {})
            _positive([speed for speed in [ceilings.get("float32")] if speed is not None])
            for _, _, row in rows(result):
                _, _, _ = _positive(row["quartiles_s"])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError):
        raise InputError(f"{path} holds no results of minidiff bench") from None
    return results


def _positive(numbers: list) -> list:
    """Times and speeds as they are. ValueError unless they can be."""
    if not all(type(x) in (int, float) and LEAST < x < MOST for x in numbers):
        raise ValueError("no times")
    return numbers


def rows(result: dict) -> Iterator[tuple[str, str, dict]]:
    """(case, contender, row) of each row; the case is "" where a benchmark has only one."""
    for name, entry in result["contenders"].items():
        if "quartiles_s" in entry:
            yield "", name, entry
        else:
            for contender, row in entry.items():
                yield name, contender, row


def report(result: dict) -> str:
    """The rows of one benchmark as a table; columns that no row fills are left out.

    The ratio is to ours, turn by turn: above 1, the contender takes longer than ours.
    """
    found = list(rows(result))
    columns = [
        ("case", lambda row: ""),
        ("", lambda row: ""),
        ("median, ms", lambda row: milliseconds(row["quartiles_s"][1])),
        ("minimum", lambda row: milliseconds(row["min_s"])),
        ("ratio to ours (quartiles)", _ratio),
        ("first step, s", lambda row: _number(row.get("first_step_s"), ".1f")),
        ("compile, s", lambda row: _number(row.get("compile_s"), ".2f")),
        ("memory, MiB", lambda row: _number(row.get("memory_bytes"), ".1f", 2**20)),
        ("process, MiB", lambda row: _number(row.get("peak_rss_bytes"), ".0f", 2**20)),
        ("GFLOP/s", lambda row: _number(row.get("gflops"), ".1f")),
        ("of ceiling", lambda row: _number(row.get("ceiling_share"), ".0%")),
        ("per second", lambda row: _number(row.get("per_second"), ",.0f")),
    ]
    lines, last = [], None
    for case, name, row in found:
        shown = "" if case == last else case
        lines.append([shown, name, *(show(row) for _, show in columns[2:])])
        last = case
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines)]
    return table([columns[i][0] for i in kept], [[line[i] for i in kept] for line in lines])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: columns of words to the left, those of numbers to the right."""
    numbers = [all(map(NUMBER.match, column)) for column in zip(*rows, strict=True)]
    return tables.markdown(header, rows, "".join("<>"[is_number] for is_number in numbers))


def _ratio(row: dict) -> str:
    low, middle, high = row["ratio_quartiles"]
    return "1" if low == middle == high == 1 else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _number(value: int | float | None, form: str, unit: int = 1) -> str:
    return "" if value is None else format(value / unit, form)


def milliseconds(seconds: int | float) -> str:
    """Three digits that mean something."""
    value = 1000 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def identity(machine: dict) -> tuple:
    """Results with the same one may be compared."""
    return tuple(str(machine[name]) for name in IDENTITY)


def named(machine: dict) -> str:
    """A machine in a few words, such as "AMD EPYC, 2 cores, cpu"."""
    kinds = machine["devices"]
    many = f"{len(kinds)} x " if len(kinds) > 1 else ""
    return f"{machine['cpu']}, {machine['cpu_count']} cores, {many}{kinds[0]}"


def _stem(key: str) -> str:
    """A key without the number of cores, and without whether the run was a quick one."""
    return re.sub(r"_(\d+_cores|gpu|tpu)$", "", key).replace("_quick", "")


def _partner(key: str, new: dict, old: dict[str, dict]) -> dict | None:
    """The older result of the same benchmark: of the same key, else the same machine, else any."""
    alike = [other for other in old if _stem(other) == _stem(key)]
    alike.sort(key=lambda k: (k != key, identity(old[k]["machine"]) != identity(new["machine"])))
    return old[alike[0]] if alike else None


def compare(old: dict[str, dict], new: dict[str, dict], across_machines: bool = False) -> str:
    """The ratio new / old of the medians of every row that both have, as text with a table.

    A ratio below 1 means that the new one is faster. It counts as a change only where the two pairs
    of quartiles lie apart. InputError if the results come from different machines, unless
    ``across_machines``, or if they have no row in common.
    """
    body, ratios, notes, machines = [], [], [], []
    for key, result in new.items():
        before = _partner(key, result, old)
        if before is None:
            continue
        two = (before["machine"], result["machine"])
        if identity(two[0]) != identity(two[1]):
            if not across_machines:
                raise InputError(different(*two))
            machines.append(f"**Different machines**: old {named(two[0])}; new {named(two[1])}.")
        notes += _changes(_stem(key), before, result)
        known = {(case, name): row for case, name, row in rows(before)}
        for case, name, row in rows(result):
            if (case, name) in known:
                earlier = known[case, name]
                body.append((_stem(key), case, name, *_change(earlier, row)))
                ratios.append(row["quartiles_s"][1] / earlier["quartiles_s"][1])
    if not body:
        raise InputError("the two results have no benchmark in common")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    header = ("benchmark", "case", "contender", "old, ms", "new, ms", "new / old", "so it is")
    told = "\n".join(dict.fromkeys([*machines, *notes]))
    legend = (
        "new / old below 1: the new one is faster; blank: within the spread (quartiles overlap)"
    )
    return f"{told}\n{legend}\n{table(header, body)}\ngeometric mean of {len(body)}: {mean:.2f}".strip()


def different(old: dict, new: dict) -> str:
    """The refusal to compare the results of two machines."""
    return (
        f"these are results of different machines: old {named(old)}; new {named(new)}; "
        "--across-machines compares them all the same"
    )


def _changes(name: str, old: dict, new: dict) -> list[str]:
    """What else changed between two results: versions, and how fast the machine itself was."""
    found = []
    for key in VERSIONS:
        before, after = (result["machine"].get(key) for result in (old, new))
        if before != after:
            found.append(f"{key}: {before} -> {after}")
    ceilings = [result.get("ceiling_gflops", {}).get("float32") for result in (old, new)]
    if all(ceilings) and abs(math.log(ceilings[1] / ceilings[0])) > CEILING_DRIFT:
        found.append(
            f"{name}: a float32 matrix product ran at {ceilings[0]:.0f}, now {ceilings[1]:.0f} "
            "GFLOP/s: the machine itself was not as fast both times"
        )
    return found


def _change(old: dict, new: dict) -> tuple[str, str, str, str]:
    (low, middle, high), (new_low, new_middle, new_high) = old["quartiles_s"], new["quartiles_s"]
    verdict = "faster" if new_high < low else "slower" if new_low > high else ""
    ratio = new_middle / middle
    return milliseconds(middle), milliseconds(new_middle), f"{ratio:.3f}", verdict
