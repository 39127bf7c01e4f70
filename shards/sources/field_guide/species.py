"""The field guide's species: body plans, plumages and the one or two traits that tell family members apart."""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from shards.errors import UserError

SPECIES_LIMIT = 200
# Chosen once for a first page with traits of every kind; changing it changes every species.
CATALOGUE_SEED = 250
FAMILY_SIZES = (3, 3, 3, 3, 4, 4)
SLOTS = ("beak", "crown", "eye", "breast", "wing", "tail", "belly")
PARTS = ("beak", "crown", "eye", "nape", "throat", "breast", "belly", "back", "wing", "tail", "legs")

RGB = tuple[int, int, int]
INKS: dict[str, RGB] = {
    "black": (28, 27, 30),
    "white": (244, 241, 232),
    "red": (205, 42, 34),
    "yellow": (242, 200, 40),
    "orange": (233, 120, 26),
    "rufous": (163, 74, 34),
    "blue": (48, 98, 190),
    "grey": (112, 116, 122),
}


@dataclass(frozen=True)
class Build:
    """A body plan, in units of the body's length. `raise_` and `pitch` are degrees; `head_at` is the head's centre."""

    nouns: tuple[str, ...]
    beaks: tuple[str, ...]
    plump: float = 0.56
    head: float = 0.21
    head_at: tuple[float, float] = (0.42, -0.27)
    beak: float = 0.24
    tail: float = 0.5
    raise_: float = 0.0
    legs: float = 0.24
    pitch: float = -18.0


@dataclass(frozen=True)
class Palette:
    """A plumage: the colours that all members of a family share."""

    back: RGB
    under: RGB
    wing: RGB
    head: RGB
    legs: RGB = (70, 60, 58)


BUILDS: dict[str, Build] = {
    "finch": Build(
        ("Finch", "Bunting", "Grosbeak", "Siskin", "Linnet", "Seedeater", "Towhee", "Sparrow"),
        ("cone", "hook"),
        plump=0.62,
        head=0.235,
        head_at=(0.40, -0.27),
        beak=0.2,
        tail=0.46,
    ),
    "thrush": Build(
        ("Thrush", "Blackbird", "Robin", "Fieldfare", "Redwing", "Ouzel", "Solitaire", "Catbird"),
        ("needle", "curve", "dagger"),
        plump=0.56,
        legs=0.32,
        pitch=-24.0,
    ),
    "wren": Build(
        ("Wren", "Babbler", "Scrubtit", "Tailorbird", "Cisticola", "Prinia", "Heathwren", "Tapaculo"),
        ("needle", "curve"),
        plump=0.68,
        head=0.225,
        head_at=(0.41, -0.25),
        tail=0.36,
        raise_=42.0,
        pitch=-8.0,
    ),
    "plover": Build(
        ("Plover", "Sandpiper", "Dotterel", "Lapwing", "Stint", "Courser", "Turnstone", "Pratincole"),
        ("needle", "curve", "dagger"),
        plump=0.58,
        head=0.205,
        head_at=(0.47, -0.33),
        tail=0.26,
        legs=0.5,
        pitch=-6.0,
    ),
    "kingfisher": Build(
        ("Kingfisher", "Kookaburra", "Jacamar", "Puffbird", "Motmot", "Tody", "Barbet", "Roller"),
        ("dagger", "hook", "curve"),
        plump=0.58,
        head=0.28,
        head_at=(0.36, -0.33),
        beak=0.36,
        tail=0.32,
        legs=0.14,
        pitch=-38.0,
    ),
    "warbler": Build(
        ("Warbler", "Vireo", "Chat", "Kinglet", "Redstart", "Whistler", "Pipit", "Accentor"),
        ("needle", "cone"),
        plump=0.5,
        head=0.2,
        head_at=(0.41, -0.22),
        beak=0.2,
        tail=0.52,
    ),
    "jay": Build(
        ("Jay", "Magpie", "Treepie", "Nutcracker", "Drongo", "Mockingbird", "Cuckoo", "Thrasher"),
        ("dagger", "hook", "curve"),
        plump=0.52,
        head=0.215,
        beak=0.26,
        tail=0.78,
        pitch=-16.0,
    ),
    "flycatcher": Build(
        ("Flycatcher", "Phoebe", "Kingbird", "Shrike", "Pewee", "Monarch", "Wheatear", "Stonechat"),
        ("hook", "needle"),
        plump=0.54,
        head=0.225,
        head_at=(0.40, -0.28),
        tail=0.54,
        legs=0.18,
        pitch=-44.0,
    ),
}

PALETTES: dict[str, Palette] = {
    "olive": Palette((124, 132, 66), (226, 216, 140), (76, 80, 52), (132, 140, 76)),
    "slate": Palette((104, 120, 140), (226, 228, 228), (62, 70, 86), (120, 136, 156), (60, 60, 66)),
    "umber": Palette((134, 96, 62), (236, 218, 186), (88, 62, 44), (152, 114, 78), (170, 120, 90)),
    "azure": Palette((62, 124, 178), (236, 206, 170), (40, 72, 118), (84, 146, 196), (70, 60, 62)),
    "buff": Palette((188, 152, 104), (244, 232, 208), (112, 84, 60), (204, 172, 126), (180, 120, 80)),
    "ash": Palette((150, 150, 148), (240, 238, 232), (84, 84, 88), (168, 168, 166), (60, 58, 60)),
    "chestnut": Palette((150, 72, 40), (238, 206, 160), (86, 46, 36), (168, 92, 56), (92, 70, 60)),
    "lemon": Palette((170, 164, 58), (244, 226, 108), (84, 86, 52), (190, 182, 76), (90, 80, 60)),
    "teal": Palette((46, 122, 118), (222, 232, 214), (34, 70, 76), (66, 142, 134), (190, 110, 70)),
    "rose": Palette((164, 104, 108), (240, 208, 200), (98, 64, 72), (184, 124, 126), (110, 80, 76)),
}


@dataclass(frozen=True)
class Traits:
    """One species. A slot's value is "<ink> <shape>" (or "plain"); family members share build and palette."""

    name: str
    family: int
    build: str
    palette: str
    beak: str
    crown: str
    eye: str
    breast: str
    wing: str
    tail: str
    belly: str


def look(species: Traits, part: str) -> tuple:
    """Everything that decides how a part is drawn, so that equal looks are drawn alike."""
    palette = PALETTES[species.palette]
    colours = {
        "beak": (), "crown": (palette.head,), "eye": (palette.head,), "nape": (palette.head,),
        "throat": (palette.under,), "breast": (palette.under,), "belly": (palette.under,), "back": (palette.back,),
        "wing": (palette.wing,), "tail": (palette.wing,), "legs": (palette.legs,),
    }  # fmt: skip
    return (species.build, *colours[part], getattr(species, part) if part in SLOTS else "")


def telling_parts(a: Traits, b: Traits) -> list[str]:
    """The parts that tell two species apart: one or two within a family, most parts across families."""
    return [part for part in PARTS if look(a, part) != look(b, part)]


def _pools(build: Build, palette: Palette) -> dict[str, list[str]]:
    """The values every slot can take on this plumage; a marking must stand out from what it lies on."""

    def on(ground: RGB, inks: str, shapes: str) -> list[str]:
        contrast = {ink: sum(abs(a - b) for a, b in zip(INKS[ink], ground, strict=True)) for ink in inks.split()}
        return [f"{ink} {shape}" for shape in shapes.split() for ink in contrast if contrast[ink] > 190]

    return {
        "beak": [f"{ink} {shape}" for shape in build.beaks for ink in ("black", "yellow", "red", "white")],
        "crown": ["plain", *on(palette.head, "black red yellow white rufous blue", "cap crest")],
        "eye": ["plain", *on(palette.head, "black white", "mask brow stripe"), *on(palette.head, "white red", "ring")],
        "breast": [
            "plain", *on(palette.under, "black rufous", "spots streaks band"),
            *on(palette.under, "red orange rufous black blue", "bib"),
        ],
        "wing": ["plain", *on(palette.wing, "white yellow", "bar bars patch"), *on(palette.wing, "red blue", "patch")],
        "tail": [
            *("plain square", "plain fork", "plain wedge", "plain fan"),
            *on(palette.wing, "white rufous", "square fan"),
        ],
        "belly": ["plain", *on(palette.under, "rufous orange red", "vent")],
    }  # fmt: skip


def _adjective(slot: str, value: str, instead_of: str) -> str:
    """What a bird is called for one trait, e.g. ("wing", "white bars") -> "Double-barred"."""
    ink, _, shape = value.partition(" ")
    colour = ink.capitalize()
    if slot == "beak":
        shapes = {"cone": "Thick", "hook": "Hook", "needle": "Fine", "curve": "Curve", "dagger": "Dagger"}
        return f"{colour if instead_of.split()[0] != ink else shapes[shape]}-billed"
    if slot == "tail":
        shapes = {"square": "Square", "fork": "Fork", "wedge": "Long", "fan": "Fan"}
        return f"{colour if ink not in ('plain', instead_of.split()[0]) else shapes[shape]}-tailed"
    if value == "plain":
        ends = {"crown": "headed", "eye": "faced", "breast": "breasted", "wing": "winged", "belly": "bellied"}
        return f"Plain-{ends[slot]}"
    return {
        "cap": f"{colour}-capped", "crest": f"{colour}-crested", "mask": f"{colour}-masked", "brow": f"{colour}-browed",
        "stripe": f"{colour}-lored", "ring": f"{colour}-eyed", "spots": f"{colour}-spotted",
        "streaks": f"{colour}-streaked", "band": f"{colour}-collared", "bib": f"{colour}-breasted",
        "bar": "Bar-winged", "bars": "Double-barred", "patch": f"{colour}-winged", "vent": f"{colour}-bellied",
    }[shape]  # fmt: skip


def _family(number: int, size: int) -> list[Traits]:
    """A family: every member is one or two of two slots away from every other."""
    build_name = list(BUILDS)[number % len(BUILDS)]
    palette_name = list(PALETTES)[(3 * (number % len(BUILDS)) + number // len(BUILDS)) % len(PALETTES)]
    build = BUILDS[build_name]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((CATALOGUE_SEED, number))))

    def pick(choices: list[str]) -> str:
        return choices[int(rng.random() * len(choices))]

    pools = _pools(build, PALETTES[palette_name])
    # Mostly plain birds, so that the traits that vary are not lost among the family's own markings.
    shared = {slot: pools[slot][0] if rng.random() < 0.6 else pick(pools[slot]) for slot in SLOTS}
    first = pick(list(SLOTS))
    second = pick([slot for slot in SLOTS if slot != first])
    other = {slot: pick([value for value in pools[slot] if value != shared[slot]]) for slot in (first, second)}
    calls = {slot: _adjective(slot, other[slot], shared[slot]) for slot in other}
    names = (pick(["Common", "Northern", "Eastern"]), calls[first], calls[second], pick(["Hill", "Marsh", "Coast"]))
    changes: tuple[tuple[str, ...], ...] = ((), (first,), (second,), (first, second))
    noun = build.nouns[number // len(BUILDS)]
    return [
        Traits(f"{name} {noun}", number, build_name, palette_name, **(shared | {slot: other[slot] for slot in change}))
        for name, change in list(zip(names, changes, strict=True))[:size]
    ]


@lru_cache
def catalogue(count: int) -> tuple[Traits, ...]:
    """The first `count` species; more species never change the earlier ones. Raises UserError outside 2..200."""
    if not 2 <= count <= SPECIES_LIMIT:
        raise UserError(f"field_guide: species={count} is outside 2..{SPECIES_LIMIT}")
    species: list[Traits] = []
    family = 0
    while len(species) < count:
        species += _family(family, FAMILY_SIZES[family % len(FAMILY_SIZES)])
        family += 1
    chosen = tuple(species[:count])
    drawn = {tuple(look(bird, part) for part in PARTS) for bird in chosen}
    assert len(drawn) == len({bird.name for bird in chosen}) == count, "two species would look or be called the same"
    return chosen


def describe(species: Traits) -> dict[str, str | int]:
    """A species' traits for the manifest."""
    return asdict(species)
