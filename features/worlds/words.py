"""The words of the moving-shapes world: what each attribute value and each motion is called."""

from __future__ import annotations

SHAPES = (
    ("circle", "disc", "ball"),
    ("square", "box", "block"),
    ("triangle", "wedge", "pyramid"),
    ("diamond", "rhombus", "lozenge"),
    ("ring", "hoop", "donut"),
    ("star", "asterisk", "sparkle"),
    ("cross", "plus", "crucifix"),
    ("crescent", "moon", "sickle"),
    ("bar", "rectangle", "plank"),
    ("dome", "semicircle", "bowl"),
)
COLOURS = (
    ("red", "crimson", "scarlet"),
    ("green", "emerald", "jade"),
    ("blue", "azure", "cobalt"),
    ("yellow", "golden", "lemon"),
    ("orange", "amber", "tangerine"),
    ("purple", "violet", "plum"),
    ("pink", "rosy", "salmon"),
    ("cyan", "turquoise", "aqua"),
    ("white", "pale", "ivory"),
    ("brown", "chocolate", "tan"),
)
SIZES = (("small", "little", "tiny"), ("medium", "midsize", "regular"), ("large", "big", "huge"))
TEXTURES = (
    ("plain", "solid", "smooth"),
    ("striped", "banded", "lined"),
    ("dotted", "spotted", "speckled"),
    ("outlined", "bordered", "framed"),
)
BACKGROUNDS = (
    ("black", "dark", "unlit"),
    ("grey", "dull", "ashen"),
    ("navy", "indigo", "midnight"),
    ("sandy", "beige", "desert"),
    ("checkered", "chessboard", "tiled"),
    ("gradient", "shaded", "blended"),
    ("grid", "mesh", "lattice"),
    ("noisy", "grainy", "static"),
)
# Three names for each value of each attribute; the encoder met the first most often, the third least.
NAMES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
    "background": BACKGROUNDS,
}

# {other}: a second object, {colour}: the colour at the end. The categories' order is the order of `scene.CATEGORIES`.
VERBS: dict[str, tuple[str, ...]] = {
    "move left": ("moves to the left", "slides leftward", "drifts from right to left", "heads left", "travels west"),
    "move right": (
        "moves to the right",
        "slides rightward",
        "drifts from left to right",
        "heads right",
        "travels east",
    ),
    "move up": ("moves up", "rises", "climbs upward", "floats to the top", "ascends"),
    "move down": ("moves down", "falls", "sinks downward", "drops to the bottom", "descends"),
    "move diagonally": ("moves diagonally", "cuts across", "slants over", "goes obliquely"),
    "circle": ("moves in a circle", "goes round and round", "loops", "circulates", "traces a loop"),
    "zigzag": ("zigzags", "weaves back and forth", "moves in a wavy line", "swerves"),
    "bounce": ("bounces", "hops up and down", "jumps repeatedly", "keeps bouncing like a spring"),
    "grow": ("grows", "gets bigger", "expands", "swells", "inflates"),
    "shrink": ("shrinks", "gets smaller", "contracts", "dwindles", "deflates"),
    "spin": ("spins", "rotates in place", "turns around", "twirls", "whirls"),
    "blink": ("blinks", "flashes on and off", "flickers", "keeps vanishing and returning"),
    "change colour": ("turns {colour}", "changes colour to {colour}", "becomes {colour}", "shifts its hue to {colour}"),
    "fade": ("fades", "dissolves", "changes its opacity", "melts like a ghost"),
    "follow": ("follows {other}", "chases {other}", "trails behind {other}", "pursues {other}"),
    "collide": ("collides with {other}", "bumps into {other}", "crashes into {other}", "hits {other} and rebounds"),
    "pass behind": ("passes behind {other}", "goes behind {other}", "hides behind {other}", "is covered by {other}"),
    "orbit": ("orbits {other}", "revolves around {other}", "circles around {other}", "goes around {other}"),
    "shake": ("shakes", "trembles", "vibrates", "jitters", "quivers"),
    "swap": ("swaps places with {other}", "trades positions with {other}", "switches with {other}"),
}
# What can differ between two videos of one category; the tuple's position is `Scenes.way`.
WAYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "move diagonally": (
        ("toward the upper left",),
        ("toward the upper right",),
        ("toward the lower left",),
        ("toward the lower right",),
    ),
    "circle": (("clockwise",), ("counterclockwise", "anticlockwise")),
    "zigzag": (("horizontally", "sideways"), ("vertically",)),
    "spin": (("clockwise",), ("counterclockwise", "anticlockwise")),
    "fade": (("out", "away"), ("in", "into view")),
    "follow": (("leftward", "to the left"), ("rightward", "to the right")),
    "pass behind": (("leftward", "to the left"), ("rightward", "to the right")),
    "orbit": (("clockwise",), ("counterclockwise", "anticlockwise")),
    "shake": (("horizontally", "sideways"), ("vertically", "up and down")),
}
TEMPOS = (("slowly", "gently", "gradually"), ("quickly", "suddenly", "rapidly"))

NEUTRAL_NOUNS = ("shape", "object", "thing")
BACKDROPS = ("background", "backdrop", "scene")
RELATIONS = ("left of", "right of", "above", "below")
_GRAMMAR = (
    *("a", "an", "the", "one", "there", "is", "that", "which", "and", "with", "on", "over", "against", "in", "near"),
    *("beside", "next", "to", "see", "look", "here", "we", "video", "clip", "showing", "of", "left", "right", "top"),
    *("bottom", "corner", "part", "side", "center", "middle"),
)


def vocabulary() -> tuple[str, ...]:
    """Every word that any caption can hold, sorted; the encoder's table has one row for each."""
    phrases = [*_GRAMMAR, *NEUTRAL_NOUNS, *BACKDROPS, *RELATIONS, *(phrase for group in TEMPOS for phrase in group)]
    phrases += [phrase for group in VERBS.values() for phrase in group]
    phrases += [phrase for ways in WAYS.values() for group in ways for phrase in group]
    phrases += [word for values in NAMES.values() for names in values for word in names]
    return tuple(sorted({word for phrase in phrases for word in phrase.split() if not word.startswith("{")}))
