"""The table from the name of a backward node to its rule, and the only way to ask it.

A rule is a function of the facts of a node. It returns one effect if all outputs share it, else
a tuple with one for each output. A second rule for a name raises on import. The names of Python
functions (`BroadcastBackward`) mean torch's own: a namesake is known by its qualified name.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import TypeVar, Union

from tracer.semantics.effects import Effect, Nothing, Opaque
from tracer.semantics.facts import NodeFacts

__all__ = ["Rule", "custom", "effect_of", "effects_of", "known_names", "opaque", "rule"]

Rule = Callable[[NodeFacts], Union[Effect, tuple[Effect, ...]]]
R = TypeVar("R", bound=Rule)

_RULES: dict[str, Rule] = {}
_CUSTOM: dict[str, Rule] = {}
_REASONS: dict[str, str] = {}


def rule(*names: str) -> Callable[[R], R]:
    """Register a rule for nodes of these names; a string may hold many, with blanks between."""

    def register(function: R) -> R:
        for name in _each(names):
            _claim(name)
            _RULES[name] = function
        return function

    return register


def opaque(reason: str, *names: str) -> None:
    """Say of these names why nothing can be said of them."""
    for name in _each(names):
        _claim(name)
        _REASONS[name] = reason


def custom(*names: str) -> Callable[[R], R]:
    """Register a rule for a Python `autograd.Function` by its qualified name.

    The name is that of the class with its module: "my_package.losses.Focal".

        @custom("my_package.losses.Focal")
        def focal(node: NodeFacts) -> Effect:
            return LossReduction("mean", over=prod(node.sent[0]))
    """

    def register(function: R) -> R:
        for name in names:
            if name in _CUSTOM:
                raise ValueError(f"a second rule for the autograd.Function {name}")
            _CUSTOM[name] = function
        return function

    return register


def known_names() -> dict[str, str]:
    """Every name with a rule or a reason, and which of them: "rule", or the reason itself."""
    return {**dict.fromkeys(_RULES, "rule"), **_REASONS}


def effect_of(node: NodeFacts) -> Effect:
    """The effect that all outputs of the node share; opaque if they differ."""
    found = _consult(node)
    if isinstance(found, Effect):
        return found
    effects = set(effects_of(node)) - {Nothing()}
    if len(effects) > 1:
        return Opaque("the outputs of this node differ")
    return effects.pop() if effects else Nothing()


def effects_of(node: NodeFacts) -> tuple[Effect, ...]:
    """The effect of each output of the node, in the order of `node.sent`.

    Outputs at the end that no gradient left may be missing there.
    """
    found = _consult(node)
    if isinstance(found, Effect):
        found = (found,) * len(node.sent)
    unknown = Opaque(f"{node.name} has more outputs than its rule knows")
    effects = chain(found, repeat(unknown))
    return tuple(
        Nothing() if shape is None else effect
        for effect, shape in zip(effects, node.sent, strict=False)
    )


def _each(names: tuple[str, ...]) -> list[str]:
    return " ".join(names).split()


def _claim(name: str) -> None:
    if name in _RULES or name in _REASONS:
        raise ValueError(f"a second rule for {name}")


def _consult(node: NodeFacts) -> Effect | tuple[Effect, ...]:
    if node.custom in _CUSTOM:
        return _CUSTOM[node.custom](node)
    if node.custom and not node.custom.startswith("torch."):
        return Opaque(f"no rule for the autograd.Function {node.custom}")
    if node.custom.startswith("torch._library."):
        return Opaque("an operator of torch.library, which brings a backward of its own")
    name = plain(node.name)
    if name in _RULES:
        return _RULES[name](node)
    return Opaque(_REASONS.get(name, f"no rule for {node.custom or name}"))


def plain(name: str) -> str:
    """The name without namespace, and without the mark of a copying view: the same mathematics."""
    return name.rpartition("::")[2].removesuffix("_copy")
