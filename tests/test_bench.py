"""The benchmarks' gate, ratios, comparison and report. Nothing here asserts how long anything took."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minidiff.commands import bench
from minidiff.errors import InputError
from minidiff.measure import results as measured

ROOT = Path(__file__).parents[1]
MACHINE = {"cpu": "Abacus", "cpu_count": 2, "devices": ["cpu"], "python": "3.11.7", "jax": "0.10.2"}


@pytest.fixture(scope="module", autouse=True)
def beside_the_scripts():
    """Scripts import what lies beside them."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def contest(beside_the_scripts):
    import contest

    return contest


def row(*seconds, ours=None):
    import contest

    return contest.summary(list(seconds), list(ours or seconds))


def result(contenders, **machine):
    return {
        "date": "2030-01-02T03:04:05+00:00",
        "command": "python benchmarks/bench_sum.py",
        "title": "Sums.",
        "cores": 2,
        "machine": MACHINE | machine,
        "contenders": contenders,
    }


def results(scale=1.0, **machine):
    """Two contenders of one case; all take ``scale`` times as long."""
    ours = [scale * s for s in (0.001, 0.0011, 0.0012)]
    slow = [2 * s for s in ours]
    found = {"64 numbers": {"ours": row(*ours), "reference": row(*slow, ours=ours)}}
    return {"sum_2_cores": result(found, **machine)}


def write(path, what):
    path.write_text(json.dumps(what))
    return path


def arguments(**given):
    usual = {"names": [], "list": False, "quick": False, "out": "bench.json", "peers": None}
    usual |= {"compare": None, "new": None, "across_machines": False}
    return Namespace(**(usual | given))


# The gate


def wrong_value(x):
    return jnp.sum(x) * 1.001


@jax.custom_vjp
def wrong_gradient(x):
    return jnp.sum(x)


wrong_gradient.defvjp(lambda x: (jnp.sum(x), x), lambda x, g: (1.001 * g * jnp.ones_like(x),))


def case(contest, twin, **settings):
    contestants = {"ours": jnp.sum, "reference": lambda x: x @ jnp.ones_like(x), "twin": twin}
    return contest.Case("sum", contestants, (jnp.arange(1.0, 9.0),), **settings)


def test_a_right_twin_is_timed(contest):
    found = contest.compare(
        case(contest, lambda x: jnp.sum(x[::-1]), gradients=True, flops=8, items=8),
        2,
        {"float32": 1e-6},
    )
    assert list(found) == ["sum, forward", "sum, forward + backward"]
    for rows in found.values():
        assert list(rows) == ["ours", "reference", "twin"]
        assert rows["ours"]["ratio_quartiles"] == [1, 1, 1]
        assert all(len(r["turns_s"]) == 2 and r["compile_s"] > 0 for r in rows.values())
    forward, both = (rows["twin"] for rows in found.values())
    assert forward["gflops"] * forward["quartiles_s"][1] == pytest.approx(8e-9)
    assert both["gflops"] * both["quartiles_s"][1] == pytest.approx(24e-9)
    assert both["ceiling_share"] == pytest.approx(both["gflops"] / 1e-6)
    assert both["per_second"] == pytest.approx(8 / both["quartiles_s"][1])


@pytest.mark.parametrize(
    "twin", [wrong_value, wrong_gradient, lambda x: x, lambda x: x[0] * jnp.nan]
)
def test_a_wrong_twin_is_not(contest, monkeypatch, twin):
    monkeypatch.setattr(contest, "race", lambda *args: pytest.fail("timed"))
    gradients = twin is wrong_gradient
    with pytest.raises(contest.Disagrees, match="sum: twin differs from reference by") as error:
        contest.compare(
            case(contest, twin, gradients=gradients, forward=not gradients), 2, {"float32": 1.0}
        )
    assert "\n" not in str(error.value)


def test_a_wrong_gradient_is_seen_by_the_gradient_alone(contest):
    found = contest.compare(case(contest, wrong_gradient), 2, {"float32": 1.0})
    assert "twin" in found["sum"]


def test_what_cannot_run_here_is_left_out(contest, capsys):
    def elsewhere(x):
        raise NotImplementedError("only on\nother devices")

    found = contest.compare(case(contest, elsewhere), 2, {"float32": 1.0})
    assert list(found["sum"]) == ["ours", "reference"]
    assert capsys.readouterr().err == "sum: twin does not run here: only on other devices\n"


def test_a_carried_state_goes_on_and_leaves_the_first_alone(contest):
    first = {"x": jnp.zeros(3)}
    contestant = contest.carrying(lambda s, by: {"x": s["x"] + by}, first, jnp.ones(3), calls=2)
    contestant.call()
    np.testing.assert_array_equal(contestant.call()["x"], 4 * np.ones(3))
    np.testing.assert_array_equal(first["x"], np.zeros(3))


def test_a_script_ends_with_status_1_and_one_line(contest, monkeypatch, capsys, tmp_path):
    import harness

    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["bench_sum.py", "--turns", "2", "--out", str(out)])
    monkeypatch.setattr(harness, "ceiling", lambda dtype: 1.0)
    monkeypatch.setattr(jax.config, "update", lambda *args: None)  # the tests' cache stays on

    def cases(args):
        yield case(contest, wrong_value)
        yield contest.Case("right", {"ours": jnp.sum, "reference": jnp.sum}, (jnp.ones(3),))

    with pytest.raises(SystemExit) as end:
        harness.main("sum", "Sums.\n\nMore.", cases)
    assert end.value.code == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "sum: sum: twin differs" in told.err
    assert "right" in told.out
    [(key, saved)] = measured.read(out).items()
    assert key.startswith("sum_")
    assert saved["title"] == "Sums."
    assert list(saved["contenders"]) == ["right"]
    assert saved["command"] == "python benchmarks/bench_sum.py --turns 2"
    assert "cache_dir" not in saved["machine"]


def test_ratios_are_taken_turn_by_turn(contest):
    # Every turn is twice ours, while the machine itself became three times slower.
    found = contest.summary([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found["ratio_quartiles"] == [2, 2, 2]
    assert found["quartiles_s"] == [3, 4, 5]
    assert (found["min_s"], found["ratio_of_minima"]) == (2, 2)
    # The ratio of medians would be 1 here.
    assert contest.summary([1.0, 2.0, 30.0], [2.0, 1.0, 10.0])["ratio_quartiles"][1] == 2


# Comparing


def test_compare_tells_ratios_and_what_lies_within_the_spread():
    table = measured.compare(results(), results(scale=0.5))
    lines = [line for line in table.splitlines() if line.startswith("| sum")]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["sum", "64 numbers", "ours", "1.10", "0.550", "0.500", "faster"],
        ["sum", "64 numbers", "reference", "2.20", "1.10", "0.500", "faster"],
    ]
    assert table.endswith("geometric mean of 2: 0.50")
    assert (
        "faster" not in measured.compare(results(), results(scale=0.99)).partition("| benchmark")[2]
    )
    assert "slower" in measured.compare(results(), results(scale=2))


@pytest.mark.parametrize("change", [{"cpu": "Slide rule"}, {"cpu_count": 4}, {"devices": ["H100"]}])
def test_different_machines_are_refused(change):
    with pytest.raises(InputError, match="different machines") as error:
        measured.compare(results(), results(**change))
    assert "\n" not in str(error.value)
    assert "Abacus, 2 cores, cpu" in str(error.value)
    told = measured.compare(results(), results(**change), across_machines=True)
    assert told.startswith("**Different machines**: old Abacus, 2 cores, cpu; new ")


def test_other_numbers_of_cores_have_other_keys_and_are_refused_too():
    new = {"sum_quick_4_cores": results(cpu_count=4)["sum_2_cores"]}
    with pytest.raises(InputError, match="different machines"):
        measured.compare(results(), new)


def test_the_same_machine_is_preferred():
    both = results() | {"sum_1_cores": results(scale=9, cpu_count=1)["sum_2_cores"]}
    assert "0.500" in measured.compare(both, results(scale=0.5))
    quick = {"sum_quick_2_cores": results(scale=0.5)["sum_2_cores"]}
    assert "0.500" in measured.compare(both, quick)


def test_versions_and_ceilings_that_differ_are_told():
    old, new = results(), results(jax="0.12.0")
    old["sum_2_cores"]["ceiling_gflops"] = {"float32": 200.0}
    new["sum_2_cores"]["ceiling_gflops"] = {"float32": 100.0}
    told = measured.compare(old, new).splitlines()
    assert told[0] == "jax: 0.10.2 -> 0.12.0"
    assert "200, now 100 GFLOP/s" in told[1]


def test_nothing_in_common_is_said():
    with pytest.raises(InputError, match="no benchmark in common"):
        measured.compare(results(), {"product_2_cores": results()["sum_2_cores"]})


def test_the_verb_compares_two_files(tmp_path, capsys):
    old, new = write(tmp_path / "old", results()), write(tmp_path / "new", results(scale=2))
    bench.run(arguments(compare=str(old), new=str(new)))
    assert "2.000" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"contenders": {}}}'])
def test_what_is_no_results_file_is_told_in_a_line(tmp_path, text):
    (tmp_path / "old").write_text(text)
    with pytest.raises(InputError, match="holds no results"):
        bench.run(arguments(compare=str(tmp_path / "old")))


def test_results_that_are_committed_can_be_read():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        for found in measured.read(path).values():
            assert "| ours" in measured.report(found) or "| chunked" in measured.report(found)


# The verb

SCRIPT = '''"""Sums, of this and that."""
import json, pathlib, sys
path = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
path.write_text(json.dumps({results!r}))
print(sys.argv[1:])
sys.exit({status})
'''


@pytest.fixture
def folder(tmp_path):
    """Two benchmarks that need no time; one of them takes peers, one fails."""
    (tmp_path / "scripts").mkdir()
    for name, status in (("sum", 0), ("sampling", 0), ("broken", 1)):
        text = SCRIPT.format(results={f"{name}_2_cores": results()["sum_2_cores"]}, status=status)
        (tmp_path / "scripts" / f"bench_{name}.py").write_text(text)
    return tmp_path / "scripts"


def test_list(folder, capsys):
    bench.run(arguments(list=True), folder)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["broken", "sampling", "sum"]
    assert lines[2].endswith("Sums, of this and that.")


def test_every_script_of_ours_is_listed_with_a_title():
    found = bench.scripts()
    assert {"conv", "attention", "group_norm", "contrastive", "optimizer", "start"} <= set(found)
    assert all(bench.title(path) for path in found.values())
    peers = set(bench.WITH_PEERS) & set(found)
    assert all("peer" in found[name].read_text() for name in peers)


def test_unknown_name(folder):
    with pytest.raises(
        InputError, match="no benchmark 'product': choose from broken, sampling, sum"
    ):
        bench.run(arguments(names=["product"]), folder)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="the benchmarks are not here"):
        bench.run(arguments(), tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"out": "nowhere/b.json"}, "no folder nowhere"),
        ({"peers": "nowhere/python"}, "--peers nowhere/python"),
        ({"compare": "nowhere.json"}, "nowhere.json"),
        ({"new": "b.json"}, "--with NEW needs --compare"),
    ],
)
def test_bad_files_are_told_before_anything_runs(folder, monkeypatch, change, complaint):
    monkeypatch.setattr(bench, "measure", lambda *args: pytest.fail("ran"))
    with pytest.raises(InputError, match=complaint):
        bench.run(arguments(**change), folder)


def test_running_adds_to_the_file_and_hands_on_peers(folder, tmp_path, capfd):
    out = write(tmp_path / "b.json", {"product_2_cores": results()["sum_2_cores"]})
    names = ["sampling", "sum"]
    bench.run(arguments(names=names, out=str(out), quick=True, peers=sys.executable), folder)
    assert list(measured.read(out)) == ["product_2_cores", "sampling_2_cores", "sum_2_cores"]
    told = capfd.readouterr().out
    assert told.count("--peers-python") == 1
    assert told.count("--quick") == 2


def test_without_names_all_run_quickly_and_a_failure_is_a_status(folder, tmp_path, capfd):
    with pytest.raises(SystemExit) as end:
        bench.run(arguments(out=str(tmp_path / "b.json")), folder)
    assert end.value.code == 1
    told = capfd.readouterr()
    assert told.err == "minidiff: failed: broken\n"
    assert told.out.count("--quick") == 3


def test_another_machine_is_refused_before_anything_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *args: pytest.fail("ran"))
    monkeypatch.setattr(bench, "_here", lambda: MACHINE | {"cpu": "Slide rule"})
    old = write(tmp_path / "old.json", results())
    with pytest.raises(InputError, match="different machines"):
        bench.run(arguments(compare=str(old), out=str(tmp_path / "b.json")), folder)


def test_a_run_is_compared(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(bench, "_here", lambda: MACHINE)
    old = write(tmp_path / "old.json", results(scale=2))
    bench.run(arguments(names=["sum"], compare=str(old), out=str(tmp_path / "b.json")), folder)
    assert "geometric mean of 2: 0.50" in capfd.readouterr().out


# The report


def test_a_report_has_tables_a_chart_and_the_notes(beside_the_scripts, tmp_path):
    import report

    (tmp_path / "results").mkdir()
    flat = {"ours": row(1.0, 1.1), "torch": row(1.5, 1.6, ours=(1.0, 1.1)) | {"torch": "9.9"}}
    found = results() | {"unet_step_2_cores": result(flat)}
    write(tmp_path / "results" / "abacus.json", found)
    (tmp_path / "NOTES.md").write_text("What we **found**.\n")
    text = report.write(tmp_path).read_text()
    assert text == report.write(tmp_path).read_text()
    assert "## Abacus, 2 cores, cpu" in text
    assert "### Sum\n\nSums.\n\n`python benchmarks/bench_sum.py`" in text
    assert "2.00 (2.00 to 2.00)" in text
    assert "torch 9.9" in text
    assert "What we **found**." in text
    assert (tmp_path / "results" / "abacus.png").stat().st_size > 1000


def test_a_chart_shows_what_is_not_ours(beside_the_scripts):
    import report

    cases = {
        "8, forward": {"ours": row(1.0, 1.0), "flax": row(3.0, 3.0, ours=(1.0, 1.0))},
        "8, forward + backward": {"ours": row(1.0, 1.0), "flax": row(2.0, 2.0, ours=(1.0, 1.0))},
    }
    axes = report.chart({"sum_2_cores": result(cases)}, "Abacus").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sum, 8: flax"]
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == [2.0]
