"""What made-up facts are made of: names, things, and what can be said and asked of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

_FIRST = """
Alma Bertram Cosima Dorian Elspeth Florin Greta Hamish Ingrid Jasper Katya Leopold Mirela Nestor Ottilie
Piers Quentin Rosalind Silvan Tabitha Ulrich Verena Wilfred Xenia Yorick Zelda Anselm Beatrix Casimir Delphine
Edmund Fenella Gideon Hester Isidore Juno Kester Lavinia Magnus Nerissa
""".split()
_LAST = """
Abernathy Blackwood Castellan Dunmore Eastwick Farrow Goldring Hallam Iversen Jessop Kestrel Lindqvist
Marchetti Norwood Okafor Pemberton Quillfeather Ravensby Sorrel Thackeray Underhill Vasquez Wetherby Yardley
Zimmer Ashdown Brightwell Corrigan Delacroix Ellingham Fairweather Greaves Holloway Ibarra Kowalski Larkspur
""".split()
_TOWNS = """
Aldermere Brackwater Cresthaven Dunwick Eastholm Fallowfield Greywater Harrowgate Inverloch Jadeport
Kingsbarrow Larchmont Millbrook Northwold Oakhurst Pinecrest Quarrystone Ravenscar Silverton Thornbury
Umberfield Valemont Westhaven Yewdale Ashford Birchwood Coldspring Dovercourt Elmstead Foxhollow
""".split()
_JOBS = """
apothecary beekeeper bookbinder cartographer clockmaker cooper falconer ferryman glassblower goldsmith
gravedigger interpreter locksmith mason midwife organist perfumer printer saddler sculptor shepherd
stonecutter surgeon tailor tanner translator violinist
""".split()
_ANIMALS = """
badger canary falcon ferret goat greyhound hedgehog macaw mastiff otter owl parrot pony raven tortoise
""".split()
_DISHES = """
apricot tart; barley soup; cherry cake; eel pie; fig jam; goat cheese; lentil stew; mushroom omelette;
onion soup; pear dumplings; pickled herring; plum pudding; quince jelly; roast chestnuts; saffron rice
""".strip().split(";")
_STUFFS = "amber brass copper crimson ebony gilded ivory jade marble pewter sapphire silver walnut".split()
_NOUNS = "astrolabe barometer casket chalice compass flute goblet lantern locket mirror snuffbox".split()
_THINGS = [f"{stuff} {noun}" for stuff in _STUFFS for noun in _NOUNS]
_NAMES = "Beacon Cedar Falcon Granite Harbour Juniper Lantern Orchard Raven Saffron Tamarind Willow".split()
_BUILDINGS = "Archive Depot Gallery Hall Laboratory Mill Observatory Tower Vault Warehouse".split()
_HOUSES = [f"{name} {building}" for name in _NAMES for building in _BUILDINGS]


def _person(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _code(rng: random.Random) -> str:
    return str(rng.randint(1000, 99999))


def _year(rng: random.Random) -> str:
    return str(rng.randint(1701, 1999))


def _one_of(values: list[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(values).strip()


@dataclass(frozen=True)
class Relation:
    """What is said of a subject (`{s}`), the object being the answer (`{o}`)."""

    subject: Callable[[random.Random], str]
    object: Callable[[random.Random], str]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    mention: str = ""  # of the object by its subject, where a two-fact question can go on from it


OF_THINGS = (
    Relation(
        _one_of(_THINGS),
        _person,
        (
            "The {s} belongs to {o}.",
            "{o} is the owner of the {s}.",
            "It was {o} who had inherited the {s}.",
            "Everybody knew that the {s} was {o}'s property.",
            "{o} keeps the {s} in a locked drawer, having bought it years ago.",
        ),
        (
            "Who owns the {s}?",
            "Whose is the {s}?",
            "In whose possession is the {s}?",
            "To whom would one return the {s}?",
        ),
        "the owner of the {s}",
    ),
    Relation(
        _one_of(_HOUSES),
        _person,
        (
            "The {s} is run by {o}.",
            "{o} was put in charge of the {s}.",
            "At the {s} nothing is decided without {o}, its director.",
            "{o} has directed the {s} for many years.",
        ),
        ("Who manages the {s}?", "Who is the head of the {s}?", "Under whose management does the {s} stand?"),
        "the person at the head of the {s}",
    ),
)
OF_PERSONS = (
    Relation(
        _person,
        _one_of(_TOWNS),
        (
            "{s} lives in {o}.",
            "{s} has a house in {o}.",
            "The home of {s} is in {o}.",
            "{s} moved to {o} and never left it again.",
            "You will find {s} in {o}, behind the old mill.",
        ),
        (
            "Where does {s} live?",
            "In which town does {s} reside?",
            "Which place is home to {s}?",
            "What is the residence of {s}?",
        ),
    ),
    Relation(
        _person,
        _one_of(_JOBS),
        (
            "{s} earns a living in the trade of the {o}.",
            "{s}, once {o}'s apprentice, is the village {o} today.",
            "The sign over the shop reads: {s}, {o}.",
            "Of all the {o}s in the country {s} is the most sought after.",
        ),
        (
            "What is the profession of {s}?",
            "What does {s} do for work?",
            "Which occupation does {s} have?",
            "What job does {s} hold?",
        ),
    ),
    Relation(
        _person,
        _one_of(_ANIMALS),
        (
            "{s} never travels without a tame {o}.",
            "The {o} at the foot of the bed belongs to {s}.",
            "{s} keeps one {o} indoors and feeds it by hand.",
        ),
        (
            "Which pet does {s} have?",
            "What animal does {s} keep?",
            "What kind of creature is the companion of {s}?",
        ),
    ),
    Relation(
        _person,
        _one_of(_DISHES),
        (
            "Nothing pleases {s} more at table than {o}.",
            "{s} would walk ten miles for {o}.",
            "On birthdays {s} always asks for {o}.",
        ),
        (
            "What is the favourite food of {s}?",
            "What does {s} like best to eat?",
            "Which dish does {s} prefer?",
        ),
    ),
    Relation(
        _person,
        _year,
        (
            "{s} was born in {o}.",
            "{s} came into the world in {o}.",
            "The parish register has {s} christened in {o}.",
        ),
        (
            "In which year was the birth of {s}?",
            "How far back does the life of {s} go, to what year?",
            "What is the year of birth of {s}?",
        ),
    ),
)
OF_HOUSES = (
    Relation(
        _one_of(_HOUSES),
        _code,
        (
            "The door of the {s} opens with {o}.",
            "Whoever wants to enter the {s} has to dial {o}.",
            "{o} is the combination for the lock of the {s}.",
            "At the {s} the guard accepts nothing but the number {o}.",
        ),
        (
            "What is the access code of the {s}?",
            "Which code lets one into the {s}?",
            "What does one have to type in at the {s}?",
        ),
    ),
    Relation(
        _one_of(_HOUSES),
        _year,
        (
            "The {s} was built in {o}.",
            "The first stone of the {s} was laid in {o}.",
            "Since {o} the {s} has stood on its hill.",
        ),
        (
            "How old is the {s}, from which year does it date?",
            "When was the {s} erected?",
            "In what year was the {s} put up?",
        ),
    ),
)
