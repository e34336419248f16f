"""The benchmarks with peers: what they refuse, in fakes that need no PyTorch, and one run of ours."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("bench_unet_step.py", "bench_clip_step.py", "bench_sampling.py")

# A benchmark whose contenders are fakes. WHAT of a peer's name says in what it is unlike ours.
FAKE = """
import sys
sys.path.insert(0, {folder!r})
from peer_options import parser, settle
from turns import Unlike, compare, work

PEERS = ["twin", "count", "probe", "rises", "nan", "unlike", "absent"]

def build(name):
    losses = iter(range(100, 0, -1))
    def take(steps):
        return next(losses) * (-1.0 if name == "rises" else 1.0)
    facts = {{"parameters": 6 if name == "count" else 5}}
    facts["probe"] = {{"probe": 1.001, "nan": float("nan")}}.get(name, 1.00001)
    if name == "ours":
        machine = {{"cpu": "a CPU", "cpu_count": 1, "backend": "cpu", "devices": ["cpu"]}}
        facts |= {{"machine": machine, "probe": 1.0, "flops_per_step": 7.0}}
    if name == "unlike":
        raise Unlike("other tensors")
    if name == "absent":
        sys.exit("no such module")
    assert not {{"jax", "minidiff", "torch"}} & set(sys.modules)
    return take, facts

made = parser("fake", PEERS, turns=2, steps=3, unit="steps")
args = made.parse_args()
settle(made, args, dict.fromkeys(PEERS, ("json",)), ["twin"])
if args.worker:
    work(lambda: build(args.worker), args.cores)
else:
    compare(args, __file__, "fake", [], {{"batch": 1}})
"""


def run(script, *words, **environment):
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True,
        text=True,
        env={"PATH": "", **environment},
    )


@pytest.fixture
def fake(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text(FAKE.format(folder=str(BENCHMARKS)))
    return path


def test_a_twin_takes_turns_with_ours_and_is_saved(fake, tmp_path):
    out = tmp_path / "out.json"
    out.write_text('{"another": 1}')
    ran = run(fake, "--out", out)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())
    assert results["another"] == 1
    result = results["fake_1_cores"]
    assert (result["steps_per_turn"], list(result["contenders"])) == (3, ["ours", "twin"])
    assert str(tmp_path) not in json.dumps(result)
    for row in result["contenders"].values():
        assert len(row["turns_s"]) == 2
        assert row["gflops"] == pytest.approx(7e-9 / row["quartiles_s"][1])
    ours, twin = (row["turns_s"] for row in result["contenders"].values())
    ratios = sorted(b / a for a, b in zip(ours, twin, strict=True))
    middle = result["contenders"]["twin"]["ratio_quartiles"][1]
    assert middle == pytest.approx(np.mean(ratios))


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("count", "not the same network, so not timed: parameters {'ours': 5, 'count': 6}"),
        ("probe", "at the same weights it gives 1.001, ours 1"),
        ("nan", "at the same weights it gives nan, ours 1"),
        ("unlike", "unlike: not the same network, so not timed: other tensors"),
        ("rises", "rises: the loss does not fall"),
    ],
)
def test_what_is_not_the_same_is_not_timed(fake, tmp_path, peer, message):
    out = tmp_path / "out.json"
    ran = run(fake, "--peers", peer, "--out", out)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert not out.exists()


def test_a_peer_that_cannot_start_is_left_out_and_said_so(fake, tmp_path):
    out = tmp_path / "out.json"
    ran = run(fake, "--peers", "absent", "twin", "--out", out)
    assert ran.returncode == 1
    assert "left out: absent" in ran.stderr
    assert list(json.loads(out.read_text())["fake_1_cores"]["contenders"]) == ["ours", "twin"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--turns", "1"], "'1' is not a whole number of at least 2"),
        (["--peers", "other"], "invalid choice: 'other'"),
        (["--cores", "100000"], "--cores 100000: this process may use"),
        (["--out", "nowhere/out.json"], "there is no folder nowhere"),
        (["--out", __file__], "holds no results of benchmarks"),
        (["--peers-python", "no/such/python"], "no/such/python is no Python that runs"),
        (["--size", "huge"], "huge"),
    ],
)
def test_errors_are_one_line(script, words, message):
    ran = run(BENCHMARKS / script, *words)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


def test_what_an_interpreter_lacks_is_refused_where_it_was_named(fake):
    fake.write_text(fake.read_text().replace('("json",)', '("json", "no_such_module")'))
    ran = run(fake, "--peers", "twin")
    assert ran.returncode == 2
    assert "twin needs no_such_module" in ran.stderr
    ran = run(fake, MINIDIFF_PEERS=sys.executable)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1


def test_other_tensors_are_named(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import turns
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, tmp_path / "weights")
    layer = torch.nn.Linear(2, 3)
    turns.carry_over(layer, tmp_path / "weights")
    assert float(layer.weight.detach().min()) == 1
    with pytest.raises(turns.Unlike, match="12 parameters, ours has 9; they differ in bias"):
        turns.carry_over(torch.nn.Linear(2, 4), tmp_path / "weights")


@pytest.mark.long
def test_ours_alone(tmp_path):
    out = tmp_path / "out.json"
    ran = run(BENCHMARKS / SCRIPTS[1], "--quick", "--peers", "--size", "tiny", "--out", out)
    assert ran.returncode == 0, ran.stderr
    [(key, result)] = json.loads(out.read_text()).items()
    assert key.startswith("clip_step_tiny_")
    assert list(result["contenders"]) == ["ours"]
    ours = result["contenders"]["ours"]
    assert len(ours["turns_s"]) == 3
    assert ours["losses"][-1] < ours["losses"][0]
    assert ours["first_step_s"] > ours["min_s"]
    # At least two for every weight that a token meets, forward and twice backward.
    assert ours["flops_per_step"] > 6 * 16 * 16 * 12 * 16**2
