"""Simulated features that lie in their space as CLIP's do: the model, and what all items of one simulation share.

Axes: N videos, P parts, F frames, M captions, L words of a caption, K latent directions, D feature dimensions, C
categories; B videos or captions, T words of a block, X rows of any kind. Every g is a standard Gaussian of its own,
unit(x) = x / |x|, the other names are knobs of `SyntheticConfig`. No number from this model says anything about real
videos.

Spectrum. Everything that differs, differs along K directions whose variances fall as a power, as those of CLIP do:
    variance_k = (k + spectrum_knee)^-spectrum_exponent / sum
Agreement. Along direction k a video and its text correlate by r_k. What is coarse they share, what is fine is each
one's own, with the same spectrum: nothing is isotropic noise. The rule is that CLIP has been trained: InfoNCE is least
where the score is the pointwise mutual information (van den Oord et al. 2018). Of two Gaussians that correlate by r,
that weighs a direction by r / (1 - r^2) / variance; cosine weighs all alike, so at rest (agreement_exponent = 1)
    r_k / (1 - r_k^2) = constant variance_k^agreement_exponent,     r_1 = agreement
World. Categories are cells of what can be shared. C cells leave C^(-2/d) of its variance inside a cell (Zador), so
videos of many narrow categories are more alike than those of few broad ones, d = category_dimension:
    video_n  = sqrt(1 - C^(-2/d)) centre_c + sqrt(C^(-2/d)) g
    part_np  = sqrt(1 - part_share) video_n + sqrt(part_share) g
Frames (`videos`). Parts come and go; what no caption tells stays or drifts, and jumps at a scene cut:
    seen_nf  = mean_p (1 + part_swing cos(2 pi (f / frames of n - phase_np))) part_np / deviation of mean_p part_np
    scene_nf = (sqrt(1 - drift_share) g_n + sqrt(drift_share) d_nf) / sqrt(1 - drift_share / 2)
    d_nf     = c d_n,f-1 + sqrt(1 - c^2) g,     c = drift_correlation, but 0 at a cut
    frame_nf = feature( sqrt(r) seen_nf + sqrt(1 - r) scene_nf )
Captions (`captions`). A caption is a view: it mentions some of the parts, and tells what no frame shows. Each of its
words is a function word of the language, or a reading of one mentioned part:
    told_m   = sqrt(1 - caption_own_share) g_n + sqrt(caption_own_share) g_m
    pooled_m = feature( text_c( sqrt(r) mean_{p mentioned} part_np / its deviation + sqrt(1 - r) told_m ))
    word_ml  = feature( text_c( sqrt(q) part_np + sqrt(1 - q) g )),     q = word_agreement r
Misalignment. Text means the same things in other directions: turned among the directions it has in common with video,
by one angle alike in all categories and by another in a way of each category's own; shifted in each category; and
turned by own_angle into directions that no video uses, of which each category has some the other way round:
    t_c(x)    = (x turn_0 turn_c + category_offset o_c) / sqrt(1 + category_offset^2)
    text_c(x) = t_c(x) sd (cos(own_angle) A + sin(own_angle) sign_c A'),        video(x) = x sd A
with turn_i = cos(angle_i) 1 + sin(angle_i) J_i, J_i swapping pairs of neighbouring directions, one with its sign
changed (J J = -1); the rows of A and A' are orthonormal, sd_k^2 = variance_k. What a head learns about one category's
turn, shift and signs is of no use to the next.
Cone. Of each modality's mean most lies in one coordinate of its own, the rest in a direction s of both; along it items
differ, which makes hubs:
    feature(x) = length unit( (1 + cone_spread g) (sqrt(cone^2 - gap^2 / 2) s + gap / sqrt(2) e) + hubness g s
                              + sqrt(1 - cone^2) unit(x) ),     cone = frame_cone or text_cone
    length     = norm exp(norm_spread g)

How the defaults were set, and what they reach, is told in `docs/simulation.md`: by zero-shot scores, by the statistics
of `features inspect --geometry` and by the learning curve of light heads on real pairs; no method of the suite was run.
"""

from __future__ import annotations

import numpy as np

from ctvr_bench.features.schema import Array
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.draws import generators, normals, uniforms

_NEIGHBOURS = 8  # directions among which a turn finds its pairs
FUNCTION_WORDS = 32  # vocabulary of words that say nothing about a video


def unit(vectors_XD: Array) -> Array:
    """The rows at length 1."""
    return np.asarray(vectors_XD / np.linalg.norm(vectors_XD, axis=-1, keepdims=True))


def agreement(variance_K: Array, first: float, exponent: float) -> Array:
    """r_K with r / (1 - r^2) proportional to variance^exponent and r_1 = `first`.

    >>> agreement(np.array([0.5, 0.25]), 0.5, 1.0).round(3)
    array([0.5  , 0.303])
    """
    weight_K = first / (1 - first**2) * (variance_K / variance_K[0]) ** exponent
    # The root of w r^2 + r - w = 0 in a form that loses no digits where w is small.
    return np.asarray(2 * weight_K / (1 + np.sqrt(1 + 4 * weight_K**2)))


class World:
    """What all videos and captions of one simulation share.

    cells: categories whose videos fill the world. num_categories: with further ones, which are as wide as these.
    """

    def __init__(self, config: SyntheticConfig, cells: int, num_categories: int) -> None:
        self.config = config
        K, D = config.directions, config.dim
        variance_K = (np.arange(1, K + 1) + config.spectrum_knee) ** -config.spectrum_exponent
        self.sd_K = np.sqrt(variance_K / variance_K.sum())
        self.r_K = agreement(variance_K / variance_K.sum(), config.agreement, config.agreement_exponent)
        self.within = float(cells) ** (-2 / config.category_dimension)
        categories = np.arange(num_categories)
        self.centre_CK = normals(config.seed, "centre", categories, K)
        self._offset_CK = config.category_offset * normals(config.seed, "offset", categories, K)
        self._sign_CK = np.where(uniforms(config.seed, "flip", categories, K) < config.category_flips, -1.0, 1.0)
        self._common = _Turns(config.seed, "common turn", 1, K, config.common_angle)
        self._local = _Turns(config.seed, "category turn", num_categories, K, config.category_angle)
        self._place_axes(next(generators(config.seed, "axes", [0])), K, D)
        function_WK = self._turned(normals(config.seed, "function word", np.arange(FUNCTION_WORDS), K))
        self.function_WD = self._spread(function_WK, np.ones((1, K)))

    def _place_axes(self, rng: np.random.Generator, K: int, D: int) -> None:
        """A and A' [K, D], and the two cones [D]: orthonormal rows beside the two coordinates of the cones' own."""
        video_axis, text_axis, *rest = rng.permutation(D)
        basis_HD = np.zeros((2 * K + 1, D))
        basis_HD[:, rest] = np.linalg.qr(rng.standard_normal((D - 2, 2 * K + 1)))[0].T
        self._A_KD, self._both_GD, self.shared_D = basis_HD[:K], basis_HD[: 2 * K], basis_HD[2 * K]
        config = self.config
        self.frame_cone_D, self.text_cone_D = (
            np.sqrt(max(cone**2 - config.gap**2 / 2, 0)) * self.shared_D
            for cone in (config.frame_cone, config.text_cone)
        )
        self.frame_cone_D[video_axis] = self.text_cone_D[text_axis] = config.gap / np.sqrt(2)

    def parts(self, rows: Array, category_B: Array) -> Array:
        """part_BPK of the videos `rows`."""
        config, K = self.config, self.config.directions
        own_BK = normals(config.seed, "video", rows, K)
        video_BK = np.sqrt(1 - self.within) * self.centre_CK[category_B] + np.sqrt(self.within) * own_BK
        part_BPK = normals(config.seed, "part", rows, config.parts, K)
        return np.asarray(np.sqrt(1 - config.part_share) * video_BK[:, None] + np.sqrt(config.part_share) * part_BPK)

    def deviation(self, parts: Array) -> Array:
        """Of the mean of so many parts."""
        return np.asarray(np.sqrt(1 - self.config.part_share + self.config.part_share / parts))

    def video(self, latent_XK: Array) -> Array:
        """x sd A, [X, D]."""
        return np.asarray((latent_XK * self.sd_K) @ self._A_KD)

    def text(self, latent_XK: Array, category_X: Array) -> Array:
        """text_c(x), [X, D]."""
        offset = self.config.category_offset
        moved_XK = self._local(self._turned(latent_XK), category_X) + self._offset_CK[category_X]
        return self._spread(moved_XK / np.sqrt(1 + offset**2), self._sign_CK[category_X])

    def features(self, content_XD: Array, cone_D: Array, gauss_X3: Array, norm: float) -> Array:
        """feature(x) in the store's dtype; gauss_X3: for the cone, the hub and the length of each row."""
        config = self.config
        cone_X1, hub_X1, length_X1 = np.split(gauss_X3, 3, axis=-1)
        features_XD = np.sqrt(1 - np.square(cone_D).sum()) * unit(content_XD)
        features_XD += (1 + config.cone_spread * cone_X1) * cone_D + config.hubness * hub_X1 * self.shared_D
        lengths_X1 = norm * np.exp(config.norm_spread * length_X1)
        features_XD *= lengths_X1 / np.linalg.norm(features_XD, axis=-1, keepdims=True)
        return np.asarray(features_XD.astype(config.dtype))

    def _turned(self, latent_XK: Array) -> Array:
        return self._common(latent_XK, np.zeros(len(latent_XK), np.int64))

    def _spread(self, latent_XK: Array, sign_XK: Array) -> Array:
        """x sd (cos(own_angle) A + sin(own_angle) sign A'), [X, D]."""
        angle = np.deg2rad(self.config.own_angle)
        said_XK = latent_XK * self.sd_K
        return np.asarray(
            np.concatenate([np.cos(angle) * said_XK, np.sin(angle) * said_XK * sign_XK], axis=1) @ self._both_GD
        )


class _Turns:
    """x -> cos(angle) x + sin(angle) x J_i for each i, J_i a signed pairing of its own: each x turns by the angle."""

    def __init__(self, seed: int, purpose: str, count: int, K: int, degrees: float) -> None:
        self._cos, self._sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        self._partner_CK = np.tile(np.arange(K), (count, 1))
        self._sign_CK = np.zeros((count, K))
        for row, rng in enumerate(generators(seed, purpose, range(count))):
            blocks = np.array_split(np.arange(K), max(1, K // _NEIGHBOURS))
            order = np.concatenate([rng.permutation(block) for block in blocks])[: K // 2 * 2]
            one, other = order[::2], order[1::2]
            self._partner_CK[row, one], self._partner_CK[row, other] = other, one
            self._sign_CK[row, one], self._sign_CK[row, other] = 1, -1
        # A direction left without a partner, where K is odd, stays as it is.
        self._alone_CK = self._sign_CK == 0

    def __call__(self, latent_XK: Array, which_X: Array) -> Array:
        if self._sin == 0:
            return latent_XK
        swapped_XK = np.take_along_axis(latent_XK, self._partner_CK[which_X], axis=1) * self._sign_CK[which_X]
        turned_XK = self._cos * latent_XK + self._sin * swapped_XK
        return np.asarray(np.where(self._alone_CK[which_X], latent_XK, turned_XK))
