"""What real CLIP features measure, statistic by statistic, and what it may mean where others lie elsewhere.

`coco`: the first 500 images of COCO val2017 with one caption each, OpenAI ViT-B/16, released with "Mind the Gap" (Liang
et al. 2022, MIT). What one picture with one caption cannot tell was measured elsewhere, with OpenAI ViT-B/32: frames on
two released clips (v-iashin/video_features and showlab/UniVTG, both MIT), words on the token states of UniVTG's query,
captions of one image on Flickr8k, where five people describe each. Lengths are those of raw features over all sets;
words may be token states as they come (about 24) or, as `features extract` stores them, projected like captions.
`low` and `high` bound what five such sets measured, and what a simulation has to keep to. Shares, ranks, hub and R2
depend on the number of pairs: all are those of 500.
"""

from __future__ import annotations

from typing import NamedTuple

COMPARABLE = 400  # pairs, from which on a store is held against these numbers


class Known(NamedTuple):
    """A statistic of real CLIP: its value on COCO (None: one picture cannot tell), its bounds, and likely causes."""

    name: str
    label: str
    coco: float | None
    low: float
    high: float
    below: str
    above: str


_MISPAIRED = "texts are joined to the wrong videos, or one side was taken before its projection"
_ISOTROPIC = "noise that is alike in all directions: random features, an untrained tower or a broken read"
_NARROW = "few kinds of video, an encoder of few directions, or copies of the same items"
_CENTRED = "a mean was subtracted, or the encoder is no CLIP"
_ONE_SIDE = "features taken before the projection, or whitened, or of an encoder that is no CLIP"
_SPREAD = "features whitened or normalised by coordinate"

KNOWN = (
    Known(
        "matched",
        "cosine of a text and its own video",
        0.310,
        0.27,
        0.34,
        _MISPAIRED,
        "an encoder trained further on such pairs",
    ),
    Known(
        "unmatched",
        "cosine of a text and another video",
        0.162,
        0.13,
        0.19,
        _CENTRED,
        "both sides share a mean: one tower for both, or before its projection",
    ),
    Known("unmatched_deviation", "its deviation", 0.048, 0.04, 0.055, _ISOTROPIC, _CENTRED),
    Known("centred_unmatched_deviation", "the same, centred: deviation", 0.092, 0.08, 0.105, _ISOTROPIC, _NARROW),
    Known(
        "gap",
        "distance of the two means",
        0.851,
        0.78,
        0.92,
        _CENTRED,
        "the two sides come from different encoders or projections",
    ),
    Known("cone_video", "length of the mean, video", 0.730, 0.68, 0.78, _CENTRED, _ONE_SIDE),
    Known("cone_text", "length of the mean, text", 0.718, 0.68, 0.78, _CENTRED, _ONE_SIDE),
    Known("rogue_video", "share of two coordinates in it, video", 0.766, 0.5, 0.9, _SPREAD, _ONE_SIDE),
    Known("rogue_text", "share of two coordinates in it, text", 0.712, 0.5, 0.9, _SPREAD, _ONE_SIDE),
    Known("hub_video", "hubness: deviation over videos", 0.015, 0.010, 0.025, "scores centred by video", _NARROW),
    Known("hub_text", "hubness: deviation over texts", 0.020, 0.010, 0.025, "scores centred by text", _NARROW),
    Known(
        "rsa",
        "agreement on what is alike (RSA)",
        0.605,
        0.45,
        0.70,
        f"{_MISPAIRED}; or {_ISOTROPIC}",
        "text and video are copies of one thing",
    ),
    Known(
        "r2",
        "text's variance that video predicts (R2)",
        0.275,
        0.20,
        0.40,
        f"{_MISPAIRED}; or {_ISOTROPIC}",
        "text and video are copies of one thing, or categories that all captions name",
    ),
    Known("rank_video", "effective rank, video", 104.6, 85, 125, _NARROW, _ISOTROPIC),
    Known("share_1_video", "share of the first direction, video", 0.097, 0.037, 0.157, _ISOTROPIC, _NARROW),
    Known("share_5_video", "of the first 5, video", 0.269, 0.209, 0.329, _ISOTROPIC, _NARROW),
    Known("share_10_video", "of the first 10, video", 0.387, 0.327, 0.447, _ISOTROPIC, _NARROW),
    Known("share_50_video", "of the first 50, video", 0.701, 0.641, 0.761, _ISOTROPIC, _NARROW),
    Known("share_100_video", "of the first 100, video", 0.843, 0.783, 0.903, _ISOTROPIC, _NARROW),
    Known("rank_text", "effective rank, text", 96.9, 85, 125, _NARROW, _ISOTROPIC),
    Known("share_1_text", "share of the first direction, text", 0.099, 0.039, 0.159, _ISOTROPIC, _NARROW),
    Known("share_5_text", "of the first 5, text", 0.265, 0.205, 0.325, _ISOTROPIC, _NARROW),
    Known("share_10_text", "of the first 10, text", 0.386, 0.326, 0.446, _ISOTROPIC, _NARROW),
    Known("share_50_text", "of the first 50, text", 0.728, 0.668, 0.788, _ISOTROPIC, _NARROW),
    Known("share_100_text", "of the first 100, text", 0.872, 0.812, 0.932, _ISOTROPIC, _NARROW),
    Known(
        "frames_one_video",
        "cosine of two frames of a video",
        None,
        0.80,
        0.93,
        "frames of several videos in one row, or cut at random",
        "a still picture, or the same frame again",
    ),
    Known("frames_two_videos", "cosine of frames of two videos", None, 0.30, 0.50, _CENTRED, _NARROW),
    Known(
        "captions_one_video",
        "cosine of two captions of a video",
        None,
        0.70,
        0.85,
        "captions joined to the wrong videos",
        "captions repeated with few changes",
    ),
    Known(
        "words_one_caption",
        "cosine of two words of a caption",
        None,
        0.30,
        0.60,
        "words of several captions mixed, or bare embeddings of words",
        "pooled features in place of token outputs, or padding counted as words",
    ),
    Known(
        "frame_norm",
        "median length of a raw frame",
        None,
        8.5,
        12.6,
        "frames normalised before they are averaged",
        "features before the projection",
    ),
    Known(
        "caption_norm",
        "median length of a raw caption",
        None,
        9.5,
        11.5,
        "captions normalised, which no score minds",
        "features before the projection",
    ),
    Known(
        "word_norm",
        "median length of a raw word",
        None,
        8.5,
        28.0,
        "words normalised, which no score minds",
        "features before the last layer norm",
    ),
)
