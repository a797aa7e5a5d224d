"""Documents and questions of which dense search and sparse search each miss a half.

The simulator's dense vectors compare parts of words, its sparse ones whole words. So a question with other forms of a
document's words is found by dense vectors only. A part number in a long document is found by sparse vectors only: the
short documents with similar numbers are nearer by their parts.
"""

from __future__ import annotations

_FACTS = [
    ("Hydroelectric turbines electrify mountainous villages.", "turbine electrification mountain village"),
    ("Migratory swallows crossed Mediterranean islands.", "migration swallow crossing island"),
    ("Glaciologists measured retreating icefields.", "glaciology measurement retreat icefield"),
    ("Volcanologists monitored smoking craters.", "volcanology monitoring smoke crater"),
    ("Beekeepers harvested chestnut honeycombs.", "beekeeping harvest chestnuts honeycomb"),
    ("Watchmakers repaired antique chronometers.", "watchmaking repairs antiques chronometer"),
    ("Shipbuilders riveted reinforced hulls.", "shipbuilding rivet reinforcement hull"),
    ("Botanists catalogued carnivorous orchids.", "botany catalogue carnivore orchid"),
    ("Cartographers surveyed uninhabited archipelagos.", "cartography survey habitation archipelago"),
    ("Astronomers photographed elliptical galaxies.", "astronomy photograph ellipse galaxy"),
    ("Glassblowers decorated translucent goblets.", "glassblowing decoration translucence goblet"),
    ("Engravers polished copperplate etchings.", "engraving polish copperplates etching"),
]
_NUMBERS = (
    "qx4100", "zk4137", "vj4174", "wq4211", "xr4248", "jz4285", "kq4322", "vx4359", "qj4396", "zw4433", "xk4470",
    "jq4507",
)  # fmt: skip
_MANUAL = (
    "Before each season the service team drains the pump, cleans every filter, inspects both seals for cracks, "
    "tightens the mounting bolts in a crosswise sequence, records the pressure at idle and under load, and orders part "
    "{number} whenever the bearing shows play, noise or discolouration beyond the limits of the safety handbook."
)
_LABELS = ("Spare {0}a {0}b.", "Label {0}c {0}d.", "Bin {0}e {0}f.", "Rack {0}g {0}h.")

DOCUMENTS = [
    *(fact for fact, _ in _FACTS),
    *(_MANUAL.format(number=number) for number in _NUMBERS),
    *(label.format(number) for number in _NUMBERS for label in _LABELS),
]
"""72 short and long texts."""
QUESTIONS = [
    *((question, fact) for fact, question in _FACTS),
    *((number, _MANUAL.format(number=number)) for number in _NUMBERS),
]
"""24 questions, each with the document that answers it."""
