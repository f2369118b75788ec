"""Things that modules offer by name: a world, a rater, an attacker."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name; the module that offers one must have been imported before it is looked up.

    Args:
        what: they are; begins the message about a name that is taken.
        setting: that names one; begins the message about a name that nobody has.
        others: what else the setting takes.
    """

    def __init__(self, what: str, setting: str, others: tuple[str, ...] = ()) -> None:
        self._what, self._setting, self._others = what, setting, others
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Offer a thing under a name.

        Raises:
            ValueError: another one has this name.
        """
        if self._things.setdefault(name, thing) is not thing:
            raise ValueError(f"{self._what} {name}: expected a new name, got that of {self._things[name]!r}")

    def __getitem__(self, name: str) -> T:
        """The thing of this name.

        Raises:
            ValueError: there is none; says which there are.
        """
        if name not in self._things:
            names = ", ".join([*self._others, *sorted(self._things)])
            raise ValueError(f"{self._setting}: expected one of {names}, got {name}")
        return self._things[name]
