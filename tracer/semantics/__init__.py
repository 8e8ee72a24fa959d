"""What a backward node does to the gradient it receives: a table of rules, no torch."""

from tracer.semantics import rules as rules
from tracer.semantics.effects import (
    Averages,
    Broadcasts,
    Contracts,
    Distributes,
    Effect,
    Elementwise,
    Gathers,
    LossReduction,
    Moves,
    Normalises,
    Nothing,
    Opaque,
    Reduces,
    Replicates,
    Scales,
    ScatterAdds,
    Scatters,
    Selects,
    Sums,
)
from tracer.semantics.facts import NodeFacts
from tracer.semantics.registry import custom, effect_of, effects_of, known_names

__all__ = [
    "Averages",
    "Broadcasts",
    "Contracts",
    "Distributes",
    "Effect",
    "Elementwise",
    "Gathers",
    "LossReduction",
    "Moves",
    "NodeFacts",
    "Normalises",
    "Nothing",
    "Opaque",
    "Reduces",
    "Replicates",
    "Scales",
    "ScatterAdds",
    "Scatters",
    "Selects",
    "Sums",
    "custom",
    "effect_of",
    "effects_of",
    "known_names",
]
