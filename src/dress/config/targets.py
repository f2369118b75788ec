"""Classes that a configuration names by `_target_`, with their arguments: what may stand there, and building one.

The settings of a `_target_` are plain values. What DRESS itself passes (the parameters, the number of steps, the
folder of the run) is not a setting.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from dress.config.nearest import nearest
from dress.config.types import finite

TARGET = "_target_"
TRUSTED = ("dress", "torch", "transformers", "timm", "open_clip", "lightning")
"""Packages whose classes a file that is read (a run's config.json, a checkpoint, an export) may name."""


def _closed(spec: dict[str, Any]) -> dict[str, Any]:
    """A dotted name and plain arguments; null leaves an argument at the class's own default."""
    name = spec.get(TARGET)
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
        raise ValueError(f"expected {TARGET}: package.module.Class and its arguments, got {name!r:.80}")
    arguments = {key: value for key, value in spec.items() if key != TARGET and value is not None}
    if any(TARGET in mapping for mapping in _mappings(arguments)):
        raise ValueError(f"{name}: expected plain arguments, got one with a {TARGET} of its own")
    return {TARGET: name} | finite(arguments)


Target = Annotated[dict[str, Any], AfterValidator(_closed)]
"""A setting that names a class."""


def changing(default: dict[str, Any]) -> BeforeValidator:
    """Let a setting without `_target_` change the arguments of a default; with one, nothing of the default stays."""

    def upon(spec: Any) -> Any:
        return {**default, **spec} if isinstance(spec, dict) and TARGET not in spec else spec

    return BeforeValidator(upon)


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a plain value, at any depth."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _mappings(inner)


@dataclass(frozen=True)
class Kind:
    """What may stand at a setting.

    Args:
        base: dotted name of the class that it must derive from; a function may stand for a scheduler.
        passed: arguments that DRESS passes, and that are therefore no settings; by name to the setting to use.
        offered: arguments that DRESS passes where they are taken and not set.
        positions: of arguments that DRESS passes without a name.
        more: settings beside the class's own arguments.
    """

    base: str
    passed: Mapping[str, str]
    offered: tuple[str, ...] = ()
    positions: int = 0
    more: tuple[str, ...] = ()


OPTIMIZER = Kind(
    "torch.optim.Optimizer",
    {"params": "curriculum.stages.<stage>.trainable", "lr": "curriculum.stages.<stage>.lr",
     "weight_decay": "curriculum.stages.<stage>.weight_decay"}, positions=1,
)  # fmt: skip
SCHEDULER = Kind(
    "torch.optim.lr_scheduler.LRScheduler",
    {"optimizer": "optimizer", "num_training_steps": "curriculum.stages.<stage>.steps"},
    ("num_warmup_steps", "num_training_steps"), positions=1,
)  # fmt: skip
PROJECTOR = Kind("torch.nn.Module", {}, positions=2)
CALLBACK = Kind("lightning.pytorch.Callback", {})
LOGGER = Kind("lightning.pytorch.loggers.Logger", {}, ("save_dir", "name", "version"), more=("api_key_env",))
WANDB = "lightning.pytorch.loggers.WandbLogger"
WANDB_PASSED = dict.fromkeys(("id", "resume", "mode", "dir", "config", "settings"), "WANDB_MODE, or nothing")
"""Arguments of `wandb.init` that DRESS passes: there is one run for all stages."""
WANDB_SENDS = ("log_model", "log_data")
"""Switches of a wandb logger: the files of artifacts are sent too."""
WANDB_MORE = ("console", *WANDB_SENDS)
"""Settings of a wandb logger that `wandb.init` does not take."""
TRAINER = Kind("lightning.Trainer", {})


def locate(name: str, key: str) -> Any:
    """The class or function of a dotted name; modules in the working directory are found too.

    Raises:
        ValueError: there is none; names the setting and the nearest name.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    module, _, attribute = name.rpartition(".")
    try:
        place = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{key}.{TARGET}: no module {error.name!r} for {name}. Install it, or start from its folder"
        ) from None
    if not hasattr(place, attribute):
        near = nearest(attribute, [public for public in dir(place) if not public.startswith("_")])
        raise ValueError(f"{key}.{TARGET}: {module} has no {attribute!r}.{near}")
    return getattr(place, attribute)


def check_target(spec: Mapping[str, Any], key: str, kind: Kind) -> Any:
    """The class of `spec`, whose name, base and arguments are checked by signature; nothing is built.

    Raises:
        ValueError: no such class, another kind of class, or an argument that it does not take; names the setting.
    """
    name = spec[TARGET]
    factory = locate(name, key)
    base = locate(kind.base, key)
    of_kind = isinstance(factory, type) and issubclass(factory, base)
    if not of_kind and not (kind is SCHEDULER and _is_schedule(factory)):
        raise ValueError(f"{key}.{TARGET}: expected a {kind.base}, got {name}")
    wandb = name == WANDB
    names, any_name = _parameters(locate("wandb.init", key) if wandb else factory, kind.positions)
    passed = WANDB_PASSED if wandb else kind.passed
    for argument in spec.keys() - {TARGET} - set(kind.more) - set(WANDB_MORE if wandb else ()):
        place = f"{key}.{argument}"
        if argument in passed:
            raise ValueError(f"{place}: DRESS passes it; set {passed[argument]}")
        if argument not in names and not any_name:
            raise ValueError(f"{place}: {name} takes no such argument.{nearest(argument, names)}")
    missing = _needed(factory, kind) - spec.keys()
    if missing:
        raise ValueError(f"{key}: {name} needs {', '.join(sorted(missing))}")
    return factory


def build(spec: Mapping[str, Any], key: str, kind: Kind, *positions: Any, **passed: Any) -> Any:
    """What `spec` names, built with its arguments and what DRESS passes.

    Args:
        spec: `_target_` and arguments.
        key: of the setting, for messages.
        kind: what must stand there.
        positions: arguments without a name.
        passed: arguments by name; those of `kind.offered` are left out where they are set or not taken.

    Raises:
        ValueError: as `check_target`, or the class refuses a value.
    """
    factory = check_target(spec, key, kind)
    names, _ = _parameters(factory, kind.positions)
    arguments = {name: value for name, value in spec.items() if name != TARGET and name not in kind.more}
    more = {n: v for n, v in passed.items() if n not in kind.offered or (n in names and n not in arguments)}
    try:
        return factory(*positions, **more, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {spec[TARGET]} refuses its arguments: {error}") from error


def _is_schedule(factory: Any) -> bool:
    """Whether a function makes a scheduler of an optimizer, as those of transformers do."""
    return inspect.isfunction(factory) and next(iter(inspect.signature(factory).parameters), None) == "optimizer"


def _parameters(factory: Callable[..., Any], positions: int) -> tuple[list[str], bool]:
    """Names that may be set, and whether any other may."""
    known = list(inspect.signature(factory).parameters.values())[positions:]
    named = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return named, any(p.kind == p.VAR_KEYWORD for p in known)


def _needed(factory: Callable[..., Any], kind: Kind) -> set[str]:
    """Arguments without a default that DRESS does not pass."""
    known = list(inspect.signature(factory).parameters.values())[kind.positions :]
    named = (p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is p.empty)
    return {p.name for p in named} - kind.passed.keys() - set(kind.offered)


def refuse_untrusted(plain: Any, file: Path, allowed: list[str]) -> None:
    """Let a file that is read name only classes of known packages.

    Args:
        plain: what the file holds.
        file: its name.
        allowed: further packages, which the user trusts (`trust_targets`).

    Raises:
        ValueError: the file names something else; says what to type.
    """
    for name in (str(spec[TARGET]) for spec in _mappings(plain) if TARGET in spec):
        refuse_package(name, file, allowed)
        factory = locate(name, f"{file}")
        home = str(getattr(factory, "__module__", "")).partition(".")[0]
        if not callable(factory) or home not in (*TRUSTED, *allowed):
            raise ValueError(f"{file}: names {name!r:.120}, which is no class of {name.partition('.')[0]}")


def refuse_package(name: str, file: Path, allowed: list[str]) -> None:
    """Let a file that is read name only what is of a known package.

    Raises:
        ValueError: the dotted name begins with another package; says what to type.
    """
    package = name.partition(".")[0]
    if package not in (*TRUSTED, *allowed):
        raise ValueError(
            f"{file}: names {name!r:.120}, and a file that is read may name only classes of {', '.join(TRUSTED)}. "
            f"If you trust that package, say trust_targets=[{package}]"
        )
