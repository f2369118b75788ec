"""What a search draws from, in Hydra's own words: `choice(…)`, `range(…)`, `interval(…)`, `tag(log, interval(…))`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from dress.base.errors import ConfigError, in_one_line
from dress.run.overrides import replacing

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Dimension:
    """A setting that is drawn.

    Attributes:
        name: dotted key.
        argument: the same as Hydra takes it (`++` where it stands in no file).
        text: its range as it was given.
        distribution: Optuna's.
    """

    name: str
    argument: str
    text: str
    distribution: BaseDistribution

    def described(self) -> dict[str, Any]:
        """Its range as plain data: `low`, `high`, `log`, or `choices`."""
        values = vars(self.distribution)
        if "choices" in values:
            return {"choices": list(values["choices"])}
        return {key: values[key] for key in ("low", "high", "log")}


@dataclass(frozen=True)
class Space:
    """What the jobs of a search are given, in order: texts are overrides of all of them."""

    parts: Sequence[Dimension | str]

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """By name."""
        return {part.name: part for part in self.parts if isinstance(part, Dimension)}

    @property
    def fixed(self) -> list[str]:
        """The overrides of all jobs."""
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """As Optuna takes them."""
        return {name: one.distribution for name, one in self.dimensions.items()}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Of the job with these values: a name's number, or one of its choices as it was written."""
        return [part if isinstance(part, str) else f"{part.argument}={values[part.name]}" for part in self.parts]


def parse_space(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader) -> Space:
    """The space of a search.

    Args:
        params: setting to its range, of `hydra.sweeper.params`.
        arguments: what was typed, as Hydra takes it; stands above `params`.
        loader: knows the options of groups, for `glob(…)`.

    Raises:
        ConfigError: nothing is drawn, or a range that is none or cannot be read.
    """
    parser = OverridesParser.create(config_loader=loader)
    typed = parser.parse_overrides(list(arguments))
    keys = {one.key_or_group for one in typed}
    try:
        listed = parser.parse_overrides(replacing([f"{key}={value}" for key, value in params.items()]))
    except HydraException as error:
        raise ConfigError(f"hydra.sweeper.params: {in_one_line(error).partition(' See https')[0]}") from None
    parts = [_part(one) for one in [*(one for one in listed if one.key_or_group not in keys), *typed]]
    space = Space(parts)
    if not space.dimensions:
        raise ConfigError(
            "hydra.sweeper.params: expected settings to search over, e.g. curriculum.stages.dress.lr: "
            "tag(log, interval(1e-4, 1e-2)), got none"
        )
    return space


def _part(override: Override) -> Dimension | str:
    line = str(override.input_line)
    if not override.is_sweep_override():
        return line
    text = line.partition("=")[2]
    try:
        distribution = _distribution(override)
    except ValueError as error:
        raise ConfigError(f"{override.key_or_group}={text}: {in_one_line(error)}") from None
    return Dimension(override.key_or_group, override.get_key_element(), text, distribution)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    log = _log(getattr(value, "tags", set()))
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low), float(high), log=log)
    if isinstance(value, RangeSweep) and isinstance(numbers := value.range(), range) and numbers and numbers.step > 0:
        return IntDistribution(numbers[0], numbers[-1], step=numbers.step, log=log)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _log(tags: set[str]) -> bool:
    if tags - {"log"}:
        raise ValueError(f"expected no tag but log, got {', '.join(sorted(tags))}")
    return "log" in tags
