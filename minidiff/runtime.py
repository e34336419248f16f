"""What must be settled before JAX starts: an XLA flag for CPUs, and a persistent compile cache.

``import minidiff`` calls :func:`configure`, which writes environment variables and imports nothing
heavy. It fills in defaults only: whatever you set yourself stands. To opt out, set before the start

- ``MINIDIFF_XLA_FLAGS=0``: no flag (one of your own, in ``XLA_FLAGS``, is left as it is),
- ``MINIDIFF_CACHE=0``: no compile cache (one of your own, in ``JAX_COMPILATION_CACHE_DIR``, stays).

Child processes inherit what was set. ``minidiff doctor`` shows what is in effect, by
:func:`describe`. The cache may be deleted at any time; do so when JAX warns "Error reading
persistent compilation cache entry": a run was killed, or the disk full, while it wrote one, and JAX
compiles that program afresh on every start rather than mend it.
"""

import os
import re
import sys

# From 0.10.2 on, jaxlib sends CPU convolutions to YNNPACK, 2 to 4 times slower than Eigen at the
# shapes of our U-Nets. This value keeps matrix products on YNNPACK and gives convolutions back to
# Eigen. It changes nothing on a GPU or TPU.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"
# XLA aborts the process on a flag it does not know, so the flag is set only for releases known to
# accept it: measured on both ends, 0.10.2 and 0.12.0.1. Extend the range after trying a new one.
CPU_FLAG_JAXLIB = ((0, 10, 2), (0, 13))

# JAX's own threshold of one second would leave most of a small model's programs uncached.
MIN_COMPILE_SECONDS = 0.2


# Compiler options of a program that runs a few times: made in half the time, it takes a few times as
# long to run. What draws and examines scenes is such; together these take longer to make than to run.
FEW_RUNS = {"xla_backend_optimization_level": 0}


def configure() -> None:
    """Set the defaults for XLA's flags and JAX's compile cache. Harmless to call again."""
    version = jaxlib_version()
    if os.environ.get("MINIDIFF_XLA_FLAGS") != "0":
        _prefer_eigen_convolutions(version)
    if os.environ.get("MINIDIFF_CACHE") != "0":
        _use_compile_cache(version)


def describe() -> dict:
    """Versions, devices, flags and cache in effect, as ``minidiff doctor`` prints them.

    Starts JAX's backend. ``xla_flags_by_minidiff`` is true when XLA_FLAGS is minidiff's value.
    ``cache_bytes`` is the size of ``cache_dir``, which is None when there is no persistent cache.
    """
    import importlib.metadata
    import platform

    import jax

    cache_dir = jax.config.jax_compilation_cache_dir
    if not jax.config.jax_enable_compilation_cache:
        cache_dir = None
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": jax.default_backend(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "cpu": _cpu_model(),
        "cpu_count": usable_cpus(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "xla_flags_by_minidiff": os.environ.get("XLA_FLAGS") == CPU_FLAG,
        "cache_dir": cache_dir,
        "cache_bytes": _folder_bytes(cache_dir) if cache_dir else 0,
    }


def usable_cpus() -> int:
    """Number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and cpusets
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jaxlib_version() -> str | None:
    """Version of the installed jaxlib, such as "0.10.2", without importing it; None if not found.

    Reads the name of the dist-info folder: importlib.metadata would do the same, and costs more to
    import than all of ``import minidiff``.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            found = re.fullmatch(r"jaxlib-(.+)\.dist-info", name)
            if found:
                return found[1]
    return None


def knows_cpu_flag(version: str | None) -> bool:
    """Whether that jaxlib accepts CPU_FLAG. Suffixes such as ".dev20260101" are not looked at."""
    numbers = re.match(r"\d+(\.\d+)*", version or "")
    if not numbers:
        return False
    first, beyond = CPU_FLAG_JAXLIB
    return first <= tuple(int(n) for n in numbers[0].split(".")) < beyond


def _prefer_eigen_convolutions(version: str | None) -> None:
    # Once the backend runs, XLA has read its flags: too late, and JAX would still put the new
    # value into the keys of its compile cache, under which it would store the wrong programs.
    if "XLA_FLAGS" in os.environ or _backend_started() or not knows_cpu_flag(version):
        return
    os.environ["XLA_FLAGS"] = CPU_FLAG


def _backend_started() -> bool:
    if "jax" not in sys.modules:
        return False
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", None)
    return started() if started else True


def _use_compile_cache(version: str | None) -> None:
    jax = sys.modules.get("jax")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or (jax and jax.config.jax_compilation_cache_dir):
        return
    folder = cache_folder(version)
    if folder is None:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    threshold = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    seconds = os.environ.setdefault(threshold, str(MIN_COMPILE_SECONDS))
    if jax:  # it read its environment when it was imported: tell it
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


def cache_folder(version: str | None) -> str | None:
    """The folder for compiled programs, made if need be; None where it cannot be written.

    JAX's own key of a program covers the program, the jaxlib, XLA_FLAGS and, for the CPU, the
    features that LLVM found. The folder's name covers all but the program once more, with the CPU's
    model: a home folder may be shared by unlike machines, where another CPU's program ends in an
    illegal instruction. It also lets an old jaxlib's programs be deleted as one folder.
    """
    import hashlib

    base = _user_cache()
    if base is None:
        return None
    machine = "\n".join([_cpu_model(), _cpu_features(), os.environ.get("XLA_FLAGS", "")])
    key = hashlib.sha256(machine.encode()).hexdigest()[:16]
    folder = os.path.join(base, "minidiff", "xla", f"jaxlib-{version}-{key}")
    try:
        # Cached programs are executed as they are: nobody else may write here.
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _user_cache() -> str | None:
    """The platform's folder for a user's caches; None without a home."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return base if os.path.isabs(base) else None


def _cpu_model() -> str:
    return _cpuinfo().get("model name") or _processor()


def _cpu_features() -> str:
    info = _cpuinfo()
    return info.get("flags") or info.get("Features") or ""  # x86 or Arm


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry in Linux's /proc/cpuinfo; empty elsewhere."""
    entry = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if not colon and entry:  # the blank line after the first processor
                    break
                entry[name.strip()] = value.strip()
    except OSError:
        pass
    return entry


def _processor() -> str:
    import platform

    return f"{platform.machine()} {platform.processor()}".strip()


def _folder_bytes(folder: str) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(parent, name))
            except OSError:  # another process may be evicting
                continue
    return total
