"""What the simulated tasks are about: ledgers, inventories, sensor logs and the like.

Owns the vocabulary only; what is done with it is in `operations`, `sources` and `figures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Columns(NamedTuple):
    """The column names of a theme's table, in the order in which a row is written."""

    key: str
    group: str
    state: str
    when: str
    amount: str


@dataclass(frozen=True, slots=True)
class Theme:
    """One kind of table that tasks ask about.

    `noun` and `letter` make the reference ("ledger K-0042"). A row in the state `bad` does not count. `clock` tells
    whether `when` is a time of day instead of a date. One `unit` converts into a whole number of `other`.
    """

    noun: str
    letter: str
    places: tuple[str, ...]
    item: str
    items: str
    prefix: str
    columns: Columns
    groups: tuple[str, ...]
    good: str
    bad: str
    clock: bool
    unit: str
    units: str
    other: str
    amounts: tuple[int, int]


THEMES: tuple[Theme, ...] = (
    Theme(
        noun="ledger",
        letter="K",
        places=("the Norwood workshop", "Pell & Daughters", "the rowing club"),
        item="entry",
        items="entries",
        prefix="e",
        columns=Columns("entry", "account", "status", "date", "cents"),
        groups=("rent", "tools", "travel", "fuel", "repairs", "postage"),
        good="booked",
        bad="void",
        clock=False,
        unit="cent",
        units="cents",
        other="tokens",
        amounts=(115, 9800),
    ),
    Theme(
        noun="inventory",
        letter="V",
        places=("the Eastgate depot", "the museum shop", "hall 4"),
        item="line",
        items="lines",
        prefix="n",
        columns=Columns("line", "section", "condition", "counted", "pieces"),
        groups=("bolts", "hinges", "lamps", "cables", "valves", "filters"),
        good="sound",
        bad="scrapped",
        clock=False,
        unit="piece",
        units="pieces",
        other="grams",
        amounts=(12, 640),
    ),
    Theme(
        noun="sensor log",
        letter="S",
        places=("the Aldermoor weir", "pump house 2", "the greenhouse"),
        item="reading",
        items="readings",
        prefix="r",
        columns=Columns("reading", "station", "flag", "time", "ticks"),
        groups=("north", "south", "intake", "outlet", "bypass"),
        good="ok",
        bad="faulty",
        clock=True,
        unit="tick",
        units="ticks",
        other="millilitres",
        amounts=(31, 977),
    ),
    Theme(
        noun="timetable",
        letter="T",
        places=("the harbour line", "the valley buses", "the airport shuttle"),
        item="trip",
        items="trips",
        prefix="t",
        columns=Columns("trip", "line", "state", "departs", "passengers"),
        groups=("red", "blue", "green", "amber", "violet"),
        good="ran",
        bad="cancelled",
        clock=True,
        unit="passenger",
        units="passengers",
        other="fare points",
        amounts=(8, 214),
    ),
    Theme(
        noun="order book",
        letter="O",
        places=("Marlow Seeds", "the print works", "the cheese counter"),
        item="order",
        items="orders",
        prefix="o",
        columns=Columns("order", "region", "payment", "placed", "boxes"),
        groups=("coast", "hills", "city", "islands", "border"),
        good="paid",
        bad="refunded",
        clock=False,
        unit="box",
        units="boxes",
        other="jars",
        amounts=(2, 130),
    ),
    Theme(
        noun="catch register",
        letter="C",
        places=("Sandhaven harbour", "the cooperative", "the lake wardens"),
        item="haul",
        items="hauls",
        prefix="h",
        columns=Columns("haul", "boat", "result", "landed", "kilos"),
        groups=("Petrel", "Osprey", "Heron", "Tern", "Skua"),
        good="kept",
        bad="returned",
        clock=False,
        unit="kilo",
        units="kilos",
        other="ration marks",
        amounts=(14, 520),
    ),
    Theme(
        noun="loan register",
        letter="L",
        places=("the Ashby library", "the school library", "the tool library"),
        item="loan",
        items="loans",
        prefix="a",
        columns=Columns("loan", "branch", "state", "lent", "days"),
        groups=("central", "riverside", "market", "station", "chapel"),
        good="closed",
        bad="waived",
        clock=False,
        unit="day",
        units="days",
        other="pennies",
        amounts=(3, 88),
    ),
    Theme(
        noun="harvest sheet",
        letter="H",
        places=("Brook Farm", "the hill orchard", "the estate"),
        item="crate",
        items="crates",
        prefix="c",
        columns=Columns("crate", "field", "grade", "picked", "apples"),
        groups=("upper", "lower", "brook", "lane", "quarry"),
        good="clean",
        bad="spoiled",
        clock=False,
        unit="apple",
        units="apples",
        other="grams",
        amounts=(40, 365),
    ),
)
