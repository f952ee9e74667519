"""The knobs of the simulation, their ranges and what they must agree on. The model is written down in `world`."""

from __future__ import annotations

from dataclasses import dataclass

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import FLOATS

_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63),
    "dim": (8, 65536),
    "frames": (1, 4096),
    "latent_dim": (1, 1024),
    "spectrum_exponent": (0, 4),
    "spectrum_knee": (0, 100),
    "agreement": (0, 0.99999),
    "agreement_exponent": (0, 10),
    "category_dimension": (0.1, 1e9),
    "own_angle": (0, 90),
    "common_angle": (0, 90),
    "category_angle": (0, 90),
    "category_flips": (0, 1),
    "category_offset": (0, 10),
    "parts": (1, 256),
    "part_share": (0, 1),
    "part_swing": (0, 1),
    "drift_share": (0, 1),
    "drift_correlation": (0, 1),
    "cut_share": (0, 1),
    "short_share": (0, 1),
    "caption_cover": (0, 1),
    "caption_own_share": (0, 1),
    "word_agreement": (0, 1),
    "function_word_share": (0, 1),
    "frame_cone": (0, 0.99),
    "text_cone": (0, 0.99),
    "gap": (0, 1.4),
    "cone_spread": (0, 1),
    "hubness": (0, 1),
    "norm": (0.01, 1000),
    "word_norm": (0.01, 1000),
    "norm_spread": (0, 0.5),
}


@dataclass(frozen=True)
class SyntheticConfig:
    """The knobs of the simulation; symbols as in the docstring of `features/simulation/world.py`."""

    seed: int = 0
    dim: int = 512  # D
    frames: int = 12  # F, frames kept of a video
    dtype: str = "float16"  # of every feature: float16 or float32
    latent_dim: int = 254  # K at most: how many ways things can differ; never more than (dim - 3) / 2
    spectrum_exponent: float = 0.93  # with which the variance of a direction falls
    spectrum_knee: float = 0.6  # places by which the fall begins late
    agreement: float = 0.925  # correlation of video and text along the first direction
    agreement_exponent: float = 0.82  # of the law by which it falls with the variance; 1: what InfoNCE rests at
    category_dimension: float = 4.5  # C categories leave C^(-2/dimension) of what is shared to the single video
    own_angle: float = 52.0  # degrees between what text and video mean, into directions that only text has
    common_angle: float = 6.0  # degrees inside the directions of both, alike in all categories
    category_angle: float = 6.0  # degrees, another way in each category
    category_flips: float = 0.08  # of text's own directions point the other way in a category
    category_offset: float = 0.2  # by which a category's text is shifted, in deviations of a direction
    parts: int = 4  # P, things seen and done in a video
    part_share: float = 0.05  # of a part's variance, in which it differs from its video
    part_swing: float = 0.8  # 0: a part is equally visible all the time, 1: it comes and goes
    drift_share: float = 0.65  # of what no caption tells that moves from frame to frame: camera, light, background
    drift_correlation: float = 0.9  # from one frame to the next, -> 1: hardly moves
    cut_share: float = 0.3  # of the videos have a scene cut
    short_share: float = 0.02  # of the videos have fewer than F real frames (at least half), so that counts matter
    caption_cover: float = 0.5  # chance that a caption mentions a part (one is always mentioned)
    caption_own_share: float = 0.85  # of what no frame shows in a caption that is not in the video's other captions
    word_agreement: float = 0.5  # of a word with its part, in agreements of a caption
    function_word_share: float = 0.4  # of the words
    frame_cone: float = 0.685  # length of what all unit frames share
    text_cone: float = 0.72  # length of what all unit captions and words share
    gap: float = 0.82  # distance of the two in their own coordinates, at most sqrt(2) of either cone
    cone_spread: float = 0.08  # deviation of the cone from item to item, as a share of it
    hubness: float = 0.028  # deviation, from item to item, along the direction that both modalities share
    norm: float = 10.4  # typical length of a raw frame or caption
    word_norm: float = 24.0  # typical length of a raw word
    norm_spread: float = 0.05  # standard deviation of log length

    def __post_init__(self) -> None:
        for knob, (low, high) in _RANGES.items():
            value = getattr(self, knob)
            if not low <= value <= high:
                raise InputError(f"simulation knob {knob} is {value}; it must lie in {low:g}..{high:g}. Change it")
        if self.dtype not in FLOATS:
            raise InputError(f"simulation knob dtype is {self.dtype!r}; it must be {' or '.join(FLOATS)}. Change it")
        cone = min(self.frame_cone, self.text_cone)
        if self.gap**2 > 2 * cone**2:
            raise InputError(
                f"simulation knob gap is {self.gap:g}; two coordinates of length {cone:g}, the lesser cone, are "
                f"at most {2**0.5 * cone:g} apart. Lower gap or raise the cone"
            )

    @property
    def directions(self) -> int:
        """K: latent directions in use, at most as many as video and text can each have their own of."""
        return min(self.latent_dim, (self.dim - 3) // 2)
