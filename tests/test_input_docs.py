"""docs/input.md is true: every line of its tables, and every paragraph, names the tests that hold it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# By how a line begins: the first cell of a table's row, or the first words of a paragraph.
CLAIMS = {
    "A command that cannot use what it is given": [
        "hostile_commands::test_a_hostile_line",
        "hostile_weights::test_the_payload_is_one",
        "hostile_weights::test_a_claim_of_a_terabyte_that_is_there",
    ],
    "PNG, JPEG, WebP, BMP, GIF": ["images::test_impostors_are_named_in_one_line"],
    "size": [
        "images::test_the_centre_is_kept",
        "images::test_resizing_is_antialiased",
        "hostile_images::test_a_bad_image_given_by_name",
    ],
    "16 bits, palette, CMYK, one bit": ["images::test_every_mode_becomes_rgb"],
    "transparency": ["images::test_palette_with_transparency_lies_over_white"],
    "animation": ["images::test_the_first_frame_of_an_animation"],
    "EXIF rotation": [
        "images::test_exif_orientation_is_applied",
        "hostile_images::test_a_trick_is_handled",
    ],
    "bytes behind the picture": [
        "hostile_images::test_a_trick_is_handled",
        "hostile_images::test_a_bad_image_given_by_name",
    ],
    "a link": ["hostile_images::test_links_to_files_are_followed_and_to_folders_not"],
    "encoding": ["images::test_text_files_beside_the_images", "images::test_bad_caption_files"],
    "control characters, lone surrogates": [
        "hostile_images::test_captions_of_every_kind",
        "hostile_images::test_lone_surrogates_in_json_are_dropped",
    ],
    "longer than 1,000 characters": ["hostile_images::test_captions_of_every_kind"],
    "right-to-left, emoji, combining marks": ["hostile_images::test_captions_of_every_kind"],
    "AVIF, HEIC, TIFF, SVG": [
        "images::test_what_else_it_is_is_said_by_name",
        "images::test_pictures_that_are_not_read_are_told_of",
    ],
    "metadata.jsonl, metadata.csv": [
        "metadata::test_tables_in_subfolders_name_images_beside_them",
        "metadata::test_tables_above_and_below_share_the_images",
        "images::test_metadata_outweighs_text_files",
    ],
    "`file_name`": [
        "images::test_bad_metadata_names_the_line",
        "metadata::test_a_table_below_does_not_reach_above",
    ],
    "its spelling": [
        "metadata::test_accents_in_either_form_name_the_same_file",
        "metadata::test_other_spellings_of_a_path",
        "metadata::test_a_spelling_of_two_files_means_neither",
    ],
    "CSV": ["metadata::test_tables_that_are_read"],
    "more cells than columns": ["metadata::test_tables_that_are_refused_with_the_line"],
    "the same command again": [
        "identity::test_a_change_of_the_data_is_refused_before_anything_is_written"
    ],
    "what a run depends on": [
        "identity::test_ddpm_looks_at_its_images_and_not_at_captions",
        "identity::test_scenes_and_digits_are_the_same_everywhere",
        "identity::test_tokenizers_and_weights_by_all_of_them",
    ],
    "one of these changed": [
        "identity::test_a_change_of_the_data_is_refused_before_anything_is_written",
        "identity::test_a_run_of_an_earlier_version_keeps_its_tokenizer",
        "identity::test_an_encoder_that_was_trained_anew_is_refused",
    ],
    "a second command in the folder": [
        "lock::test_a_second_process_is_told_whose_it_is",
        "lock::test_the_lock_of_a_killed_process_is_in_nobodys_way",
        "lock::test_a_second_command_ends_at_once_and_changes_nothing",
    ],
    "network file systems": ["lock::test_a_file_system_without_locks_is_told_of"],
    "`JAX_DEFAULT_PRNG_IMPL`": ["environment::test_the_same_numbers_whatever_the_defaults"],
    "`JAX_THREEFRY_PARTITIONABLE=0`": [
        "environment::test_batches_and_epochs_hold_for_older_streams_of_threefry"
    ],
    "`JAX_ENABLE_X64`": ["environment::test_the_same_numbers_whatever_the_defaults"],
    "a platform that is not there": [
        "environment::test_a_platform_that_cannot_start_is_told_in_one_line"
    ],
    "an unknown flag in `XLA_FLAGS`": ["runtime::test_flag_only_for_releases_known_to_accept_it"],
    "`MPLBACKEND`": ["environment::test_no_window_is_needed_and_a_known_one_is_kept"],
    "Names and captions that reach a terminal": [
        "hostile_images::test_a_name_that_steers_a_terminal"
    ],
    "As they lie on a hub": ["settings::test_there_is_a_table_for_every_file"],
    "a setting that changes the result": [
        "settings::test_an_unknown_setting_is_refused",
        "settings::test_a_part_that_we_have_not_is_refused_by_name",
        "settings::test_a_reader_refuses_what_its_table_does_not_know",
    ],
    "a library's own notes, what is of training": [
        "settings::test_what_changes_nothing_is_let_be",
        "hostile_weights::test_notes_of_a_library_are_passed_over",
    ],
    "a scheduler's class, or a setting of its sampler, that is none of ours": [
        "weights_scheduler::test_what_is_not_followed_is_noted",
        "settings::test_schedulers_of_diffusers",
    ],
    "`preprocessor_config.json`, `processor_config.json`": [
        "published::test_pictures_are_made_ready_as_the_settings_say",
        "published::test_preprocessing_that_is_none_of_ours",
    ],
    "neither of the two": [
        "published::test_what_is_assumed_is_said",
        "published::test_the_command_says_what_is_assumed",
    ],
    "`open_clip_config.json` beside OpenAI's names": [
        "published::test_models_of_open_clip",
        "published::test_models_of_open_clip_that_are_none_of_ours",
    ],
    "added tokens, special tokens": ["published::test_tokenizers_are_those_of_transformers"],
    "what fills up a row of tokens": [
        "published::test_tokenizers_are_those_of_transformers",
        "published::test_a_tokenizer_of_our_own_pads_with_zeros_and_leaves_signs_alone",
        "published::test_texts_become_what_the_peer_makes_of_them",
    ],
    "`model_max_length`": ["published::test_texts_become_what_the_peer_makes_of_them"],
    "`model_index.json`": [
        "published::test_a_pipeline_of_pixels_is_read",
        "published::test_pipelines_that_cannot_be_drawn_from",
        "pipeline::test_folders_of_the_same_parts",
        "pipeline::test_parts_that_are_not_read",
    ],
    "an image side that a U-Net cannot halve at every level": [
        "published::test_a_size_that_a_network_cannot_halve"
    ],
    "a setting given twice on the command line": [
        "config::test_many_at_once_the_last_one_stands",
        "hostile_runs::test_a_name_that_stands_twice",
    ],
    "digits of other scripts": ["hostile_commands::test_a_setting_that_is_understood"],
    "JSON": [
        "hostile_runs::test_other_encodings_of_json",
        "weights_clip::test_settings_too_large_to_be_settings",
    ],
    "numbers of another width": [
        "weights_clip::test_other_floats_become_float32",
        "weights_clip::test_a_fault_is_named",
    ],
    "NaN and infinity in weights": ["hostile_weights::test_weights_that_are_no_numbers"],
    "pickles (.bin, .pt, .pth, .ckpt, .pkl), archives": [
        "hostile_weights::test_an_archive_in_a_folder_of_weights",
        "weights_clip::test_pickled_weights_are_refused",
    ],
    "shards of weights": ["hostile_weights::test_an_index_of_shards_that_leads_out"],
    "a variant (`model.fp16.safetensors`, or its index)": [
        "published::test_shards_of_a_variant",
        "published::test_a_variant_alone_beside_other_files",
        "weights_unet::test_one_of_several_variants",
    ],
    "a pointer of Git LFS in place of a file": [
        "published::test_a_pointer_of_git_lfs_is_told_as_such"
    ],
    "names that a wrapper made (`module.`, `_orig_mod.`)": [
        "published::test_names_of_a_wrapped_network",
        "published::test_names_wrapped_in_part",
    ],
    "the last line of metrics.jsonl, cut": [
        "hostile_runs::test_metrics_whose_last_line_was_cut",
        "hostile_runs::test_metrics_that_are_none",
    ],
    "an older picture at `--out`": [
        "hostile_commands::test_an_older_picture_is_replaced_and_nothing_else"
    ],
    "Before it makes a folder": ["hostile_commands::test_a_hostile_setting"],
}


def claims(text):
    """The first cell of each row, and the first line of each paragraph."""
    found, before = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            first = line.strip("|").split("|")[0].strip()
            found += [first] if first.strip("-") else []
        elif line and not line.startswith("#") and not before:
            found.append(line)
        before = line
    return found


def untested(text):
    """Claims of a text that no entry of CLAIMS begins."""
    return [claim for claim in claims(text) if not claim.startswith(tuple(CLAIMS))]


TEXT = (ROOT / "docs/input.md").read_text(encoding="utf-8")


def test_every_claim_has_its_tests():
    assert len(claims(TEXT)) > 35
    assert untested(TEXT) == []


def test_a_claim_without_a_test_is_caught():
    text = TEXT + "\n\nWhat nobody tests.\n\n| | |\n|---|---|\n| TIFF | read |\n"
    assert untested(text) == ["What nobody tests.", "TIFF"]


def test_no_test_is_kept_for_a_claim_that_is_gone():
    found = claims(TEXT)
    assert [x for x in CLAIMS if not any(claim.startswith(x) for claim in found)] == []


@pytest.mark.parametrize("name", sorted({name for names in CLAIMS.values() for name in names}))
def test_the_test_is_there(name):
    file, test = name.split("::")
    tree = ast.parse((ROOT / f"tests/test_{file}.py").read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
