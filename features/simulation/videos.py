"""Frames of the videos of a simulated world. Axes and equations: `world`."""

from __future__ import annotations

import numpy as np

from ctvr_bench.features.schema import Array
from ctvr_bench.features.simulation.draws import normals, uniforms
from ctvr_bench.features.simulation.world import World


def frames(world: World, rows: Array, category_B: Array) -> tuple[Array, Array]:
    """frames_BFD in the store's dtype, zero past the count, and count_B int32 of the videos `rows`."""
    config = world.config
    seed, F, P, K = config.seed, config.frames, config.parts, config.directions
    uniform_BU = uniforms(seed, "video facts", rows, 4 + P)
    short_B, count_B, cut_B, cut_frame_B = uniform_BU[:, :4].T
    least = (F + 1) // 2
    real_B = np.where(short_B < config.short_share, least + np.floor(count_B * (F - least)), F)
    time_BF1 = (np.arange(F) / real_B[:, None])[..., None]
    weight_BFP = 1 + config.part_swing * np.cos(2 * np.pi * (time_BF1 - uniform_BU[:, None, 4:]))
    seen_BFK = weight_BFP @ world.parts(rows, category_B) / (P * world.deviation(np.array(P)))

    cut_frame_B = np.where(cut_B < config.cut_share, 1 + np.floor(cut_frame_B * (F - 1)), F)
    drift_BFK = normals(seed, "drift", rows, F, K)
    for frame in range(1, F):
        kept_B1 = np.where(frame == cut_frame_B, 0, config.drift_correlation)[:, None]
        drift_BFK[:, frame] = kept_B1 * drift_BFK[:, frame - 1] + np.sqrt(1 - kept_B1**2) * drift_BFK[:, frame]
    scene_BFK = np.sqrt(config.drift_share) * drift_BFK
    scene_BFK += np.sqrt(1 - config.drift_share) * normals(seed, "scene", rows, 1, K)
    scene_BFK /= np.sqrt(1 - config.drift_share / 2)

    content_BFD = world.video(np.sqrt(world.r_K) * seen_BFK + np.sqrt(1 - world.r_K) * scene_BFK)
    gauss_BF3 = np.concatenate(
        [
            np.repeat(normals(seed, "video cone and hub", rows, 1, 2), F, axis=1),
            normals(seed, "frame length", rows, F, 1),
        ],
        axis=2,
    )
    frames_BFD = world.features(content_BFD, world.frame_cone_D, gauss_BF3, config.norm)
    frames_BFD[np.arange(F) >= real_B[:, None]] = 0
    return frames_BFD, real_B.astype(np.int32)
