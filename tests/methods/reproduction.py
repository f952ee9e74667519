"""The table of `docs/reproduction.md`: what each method was compared with, and which tests hold it to that.

Source, deviations and published values are the class's own. `python -m tests.methods.reproduction` writes the page.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ctvr_bench.bench.cli.values import parse_methods
from ctvr_bench.methods.shared.registry import Entry, known_methods

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"
_LOSSES, _ORIGINALS = "tests/methods/test_losses.py", "tests/methods/test_originals.py"
_DISTILLATION, _MERGING = "tests/methods/test_distillation.py", "tests/methods/test_merging.py"
_PENALTIES, _PROMPTS = "tests/methods/test_penalties.py", "tests/methods/test_prompts.py"
_REPLAY, _EXPERTS = "tests/methods/test_replay.py", "tests/methods/test_experts.py"
_STRUCTALIGN, _CONTRACT = "tests/methods/test_structalign.py", "tests/methods/test_contract.py"
_SUBSPACES = "tests/methods/test_subspaces.py"
_RECORDED = "recorded outputs"
_READ = "code read, equation by loops"
_GALLERIES, _ANCHORED = "tests/methods/test_galleries.py", "tests/methods/test_anchored.py"

COMPARED: dict[str, tuple[str, tuple[str, ...]]] = {
    "adapter_per_task": (
        "the definition",
        (
            f"{_MERGING}::test_isolated_tasks_never_change_again",
            f"{_MERGING}::test_each_adapter_starts_from_the_identity",
        ),
    ),
    "agem": (
        _READ,
        (
            f"{_REPLAY}::test_a_projected_gradient_does_not_point_against_the_memorys",
            f"{_REPLAY}::test_agems_memory_gradient_is_that_of_the_loss_on_stored_pairs",
        ),
    ),
    "attention_head": (
        "one sample at a time",
        (f"{_PROMPTS}::test_the_block_is_attention_over_each_samples_own_prompts_and_tokens",),
    ),
    "bc_aligner": (
        _READ,
        (
            f"{_GALLERIES}::test_a_query_goes_through_the_product_of_the_maps_to_its_gallerys_task",
            f"{_GALLERIES}::test_alignment_is_the_squared_error_of_every_gallery_that_is_led_to",
        ),
    ),
    "bct": (_READ, (f"{_GALLERIES}::test_bct_asks_new_captions_for_old_videos",)),
    "best_in_time": (
        f"{_READ}, closed form",
        (
            "tests/methods/test_schedules.py::test_an_exponential_average_weighs_the_newest_task_with_w",
            "tests/methods/test_schedules.py::test_at_a_constant_rate_it_is_wise_ft",
        ),
    ),
    "c_clip": (
        "equations by loops",
        (
            f"{_ORIGINALS}::test_c_clips_consolidation_contrasts_projected_new_features_with_old_ones",
            f"{_MERGING}::test_c_clip_merges_a_share_of_its_low_rank_map",
        ),
    ),
    "clip4clip_seq": (
        _READ,
        (f"{_ORIGINALS}::test_clip4clip_seq_averages_adapted_frames_after_the_transformer",),
    ),
    "coda_prompt": (
        _READ,
        (
            f"{_PROMPTS}::test_coda_composes_its_prompt_from_the_components_so_far",
            f"{_ORIGINALS}::test_codas_new_components_are_orthogonal_to_those_that_training_left",
        ),
    ),
    "ctp": (
        _READ,
        (
            f"{_DISTILLATION}::test_the_queue_contrast_is_the_cross_entropy_over_batch_and_queue",
            f"{_DISTILLATION}::test_ctps_slow_model_follows_new_weights_first_and_old_ones_too_later",
        ),
    ),
    "cumulative": ("the definition", (f"{_CONTRACT}::test_it_keeps_its_promise",)),
    "d_simplex_hoc": (
        _READ,
        (
            f"{_GALLERIES}::test_hoc_is_the_papers_sum_without_entries_of_the_same_category",
            f"{_GALLERIES}::test_the_simplex_is_fixed_and_classifies_captions_and_videos",
        ),
    ),
    "der_pp": (
        _READ,
        (
            f"{_REPLAY}::test_der_pps_loss_is_the_sum_of_its_three_terms",
            f"{_REPLAY}::test_der_pps_two_draws_are_independent",
        ),
    ),
    "dkr": (
        "the abstract's three cases by loops",
        (
            f"{_DISTILLATION}::test_dkr_keeps_right_rows_and_puts_the_truth_where_neither_model_is_right",
            f"{_DISTILLATION}::test_dkrs_three_cases_of_a_row",
        ),
    ),
    "dualprompt": (
        _READ,
        (
            f"{_PROMPTS}::test_dualprompts_pull_is_the_cosine_with_the_tasks_own_keys",
            f"{_PROMPTS}::test_dualprompt_routes_to_the_nearest_key_of_a_learned_task",
        ),
    ),
    "er": (
        _READ,
        (
            f"{_ORIGINALS}::test_er_joins_stored_pairs_of_earlier_tasks_to_the_batch",
            f"{_ORIGINALS}::test_ers_reservoir_fills_when_a_task_ends_or_as_the_stream_runs",
        ),
    ),
    "ewc": (
        "closed form, one backward a pair",
        (
            f"{_PENALTIES}::test_ewcs_importance_of_linear_regression_is_squared_residual_times_squared_input",
            f"{_PENALTIES}::test_ewcs_fisher_is_that_of_one_backward_for_each_pair",
        ),
    ),
    "finetune": (_RECORDED, (f"{_LOSSES}::test_pooled_contrastive_loss_is_the_authors_and_twice_clips",)),
    "frame_fusion_moe": (
        f"{_RECORDED} of the loss and the experts",
        (
            f"{_LOSSES}::test_cross_task_loss_is_the_authors",
            f"{_STRUCTALIGN}::test_experts_and_gates_are_those_of_the_authors_adapter",
        ),
    ),
    "gallery_replay": (
        "equation by loops",
        (
            "tests/methods/test_gallery_replay.py::test_the_loss_is_that_of_batch_and_memory_together_by_loops",
            "tests/methods/test_gallery_replay.py::test_what_is_kept_of_a_video_is_what_its_gallery_holds_and_stays_so",
        ),
    ),
    "inflora": (
        f"{_READ}, another factorisation",
        (
            f"{_SUBSPACES}::test_a_new_branch_looks_along_the_leading_inputs_outside_the_old_subspace",
            f"{_SUBSPACES}::test_a_later_tasks_change_is_nothing_along_the_inputs_of_earlier_tasks",
            f"{_SUBSPACES}::test_the_subspace_grows_by_as_few_directions_as_hold_the_share",
        ),
    ),
    "joint": ("the definition", (f"{_CONTRACT}::test_it_keeps_its_promise",)),
    "l2p": (
        _READ,
        (
            f"{_ORIGINALS}::test_l2p_chooses_the_prompts_of_the_nearest_keys",
            f"{_ORIGINALS}::test_l2p_pulls_chosen_keys_to_what_chose_them",
        ),
    ),
    "lwf": (_RECORDED, (f"{_DISTILLATION}::test_lwfs_student_teacher_text_term_is_the_authors",)),
    "mas": (
        f"{_READ}, closed form",
        (
            f"{_PENALTIES}::test_mass_importance_of_a_linear_map_is_twice_the_output_times_the_input",
            f"{_ORIGINALS}::test_mas_sums_or_averages_importance_over_tasks",
        ),
    ),
    "mod_x": (
        _READ,
        (
            f"{_ORIGINALS}::test_mod_x_compares_cosines_at_its_own_scale_and_sums_where_asked",
            f"{_DISTILLATION}::test_mod_x_keeps_only_rows_that_the_old_model_got_right",
        ),
    ),
    "moe_adapters": (
        _READ,
        (
            f"{_EXPERTS}::test_a_samples_residual_is_the_gated_sum_of_its_experts",
            f"{_ORIGINALS}::test_moe_adapters_may_freeze_the_most_used_of_all_as_the_authors_do",
        ),
    ),
    "packnet": (
        _READ,
        (
            f"{_MERGING}::test_packnet_keeps_the_largest_weights_of_every_tensor",
            f"{_MERGING}::test_packnets_last_task_may_keep_all_that_is_free",
        ),
    ),
    "proof": (
        _READ,
        (
            f"{_GALLERIES}::test_proof_adds_a_projection_a_task_and_keeps_the_old_ones",
            f"{_GALLERIES}::test_proof_scores_the_sum_of_projections_after_attention_to_prototypes_and_context",
            f"{_GALLERIES}::test_proofs_prototype_term_knows_the_categories_met_alone",
        ),
    ),
    "ract": (_READ, (f"{_GALLERIES}::test_ract_prefers_the_old_video_to_the_nearest_others_old_and_new",)),
    "ranpac": (
        f"{_READ}, least squares by another solver",
        (
            "tests/methods/test_ranpac.py::test_the_map_is_the_least_squares_solution_over_all_adapted_pairs",
            "tests/methods/test_ranpac.py::test_errors_on_held_out_pairs_are_those_of_least_squares_on_the_others",
        ),
    ),
    "ridge": (
        f"{_READ}, least squares by another solver",
        (
            "tests/methods/test_ridge.py::test_ridge_is_the_least_squares_solution_on_all_data_at_once",
            "tests/methods/test_ridge.py::test_ridge_does_not_depend_on_the_order_of_tasks",
        ),
    ),
    "s_prompts": (
        _READ,
        (
            f"{_ORIGINALS}::test_s_prompts_measures_the_way_to_centroids_as_it_says",
            f"{_PROMPTS}::test_s_prompts_tasks_are_independent",
        ),
    ),
    "sd_lora": (
        f"{_READ}, closed form",
        (
            f"{_SUBSPACES}::test_the_change_is_the_sum_of_magnitudes_times_unit_directions_and_the_newest_product",
            f"{_SUBSPACES}::test_a_later_task_moves_magnitudes_of_earlier_directions_and_not_the_directions",
        ),
    ),
    "si": (
        "closed form",
        (f"{_PENALTIES}::test_sis_path_integral_of_a_quadratic_is_how_much_each_weight_lowered_it",),
    ),
    "simple_cil": (
        f"{_READ}, closed form",
        (
            "tests/methods/test_simple_cil.py::"
            "test_a_query_is_the_caption_and_the_mean_video_of_the_category_of_the_nearest_mean_caption",
        ),
    ),
    "structalign": (
        f"{_RECORDED} of every loss, the bank and the experts",
        (
            f"{_LOSSES}::test_relation_preserving_loss_is_the_authors",
            f"{_LOSSES}::test_etf_alignment_is_the_authors",
            f"{_LOSSES}::test_prototype_loss_is_the_authors",
            f"{_STRUCTALIGN}::test_the_total_is_the_weighted_sum_of_the_papers_terms",
        ),
    ),
    "structalign_anchored": (
        "equations by loops, assignment by brute force",
        (
            f"{_ANCHORED}::test_the_anchored_term_is_the_category_mean_of_a_softmax_over_categories_met",
            f"{_ANCHORED}::test_vertices_are_assigned_as_brute_force_would",
            f"{_ANCHORED}::test_the_residual_term_by_hand",
        ),
    ),
    "structalign_released": (
        f"{_RECORDED} of every loss, the bank and the experts; trainer read line by line",
        (
            f"{_STRUCTALIGN}::test_the_released_preset_differs_from_the_idea_in_every_switch",
            f"{_STRUCTALIGN}::test_each_release_switch_changes_gradients_or_the_bank_or_what_is_optimised",
        ),
    ),
    "task_arithmetic": (
        "tasks trained apart",
        (f"{_MERGING}::test_task_arithmetic_adds_changes_of_tasks_trained_apart",),
    ),
    "ties": ("by hand", (f"{_MERGING}::test_ties_elects_signs_and_averages_who_agrees",)),
    "video_anchor": (
        "equation by loops",
        (
            f"{_GALLERIES}::test_video_anchor_is_how_far_videos_have_turned",
            f"{_GALLERIES}::test_video_anchor_holds_real_frames_where_they_are_compared",
        ),
    ),
    "video_frozen": (
        "galleries bit for bit",
        (f"{_GALLERIES}::test_a_held_video_side_leaves_every_gallery_bit_for_bit",),
    ),
    "video_frozen_always": (
        "galleries bit for bit",
        (f"{_GALLERIES}::test_a_held_video_side_leaves_every_gallery_bit_for_bit",),
    ),
    "vr_lwf": (
        "equation by loops",
        (f"{_DISTILLATION}::test_vr_lwf_distils_the_batchs_videos_against_replayed_sentences",),
    ),
    "wise_ft": ("both ends bit for bit", (f"{_MERGING}::test_wise_ft_at_one_is_fine_tuning_bit_for_bit",)),
    "x_pool": (_READ, (f"{_ORIGINALS}::test_x_pool_attends_as_its_equation_reads",)),
    "zero_shot": ("the definition", (f"{_CONTRACT}::test_it_keeps_its_promise",)),
    "zscl": (
        _RECORDED,
        (
            f"{_DISTILLATION}::test_zscls_term_is_the_authors",
            f"{_MERGING}::test_zscl_ends_with_the_mean_of_the_start_and_every_kth_step",
        ),
    ),
}
"""By registered name: how it was compared, and the tests that show it."""

_HEAD = """# Reproduction

What every method was compared with, what differs, and which test holds it there. Written from the classes' own
declarations and the tests' table (`python -m tests.methods.reproduction`); a test keeps it true.

Compared: *recorded outputs* are numbers of the authors' own functions (`tests/golden`); *code read* means that the
authors' code at the named commit was read beside ours and the equation is tested against plain loops; where no code is
named, none was read. Differences are those on frozen features: that a light head learns in place of the encoders, on
features cached once, is common to all of them and said nowhere again.

*As published* are the authors' Config values where they differ from the defaults and have a place here, with the
default before each; `--methods 'NAME[FIELD=VALUE, ...]'` sets them. The similarity scale is one of them: 17.6 is CLIP's
temperature under the divisor that StructAlign's release takes at its batch of 32, and serves every method alike; CTVR's
own losses take 99.48 undivided. `scale=99.484` gives the other.

| method | source | compared | differs | as published | tests |
|---|---|---|---|---|---|
"""


def changes(entry: Entry) -> str:
    """The published values, each behind the default."""
    published = parse_methods(f"{entry.name}[{entry.method.published}]")[0]["set"] if entry.method.published else {}
    defaults, chosen = dataclasses.asdict(entry.config()), dataclasses.asdict(entry.config(published))
    return "; ".join(f"`{key}` {defaults[key]} → {chosen[key]}" for key in published)


def row(entry: Entry) -> str:
    method = entry.method
    compared, tests = COMPARED[entry.name]
    named = "<br>".join(f"`{test.removeprefix('tests/methods/')}`" for test in tests)
    differs = method.deviations or "nothing"
    return f"| {entry.name} | {method.source} | {compared} | {differs} | {changes(entry) or '–'} | {named} |\n"


def page() -> str:
    return _HEAD + "".join(map(row, known_methods().values()))


if __name__ == "__main__":
    PAGE.write_text(page())
