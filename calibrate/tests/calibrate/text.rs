//! Profiles as files: what is written reads back, what is damaged is refused with its place.

use aril_calibrate::{CalibrateError, find, profiles, read, text, write};
use aril_sim::profile::LoraOverlap;

const NAME: &str = "derived-h100-llama-2-7b";

fn committed() -> &'static str {
    find(NAME).unwrap().text
}

/// The committed profile with one line replaced.
fn with_line(from: &str, to: &str) -> (usize, String) {
    let line = committed().lines().position(|line| line == from).unwrap_or_else(|| panic!("no line `{from}`"));
    (line + 1, committed().replacen(from, to, 1))
}

#[test]
fn every_profile_reads_back_as_it_was_written() {
    for embedded in profiles() {
        let profile = embedded.profile().unwrap();
        assert_eq!(read(&embedded.name(), &write(&profile)).unwrap(), profile);
    }
}

#[test]
fn an_unknown_key_is_refused_at_its_line() {
    let (line, text) = with_line("us_per_prompt = 0.0", "us_per_promt = 0.0");
    let error = read("my.toml", &text).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("my.toml:{line}:1: ")) && error.to_string().contains("us_per_promt"),
        "{error}"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_at_its_line() {
    let (line, text) = with_line("tensor_parallel = 1", "tensor_parallel = \"one\"");
    let error = read("my.toml", &text).unwrap_err().to_string();
    assert!(error.starts_with(&format!("my.toml:{line}:19: ")), "{error}");
}

#[test]
fn another_version_is_said_to_be_another_version_whatever_else_is_in_it() {
    for (version, way_out) in [("4", "newer build"), ("0", "make the profile again")] {
        let text = format!("schema = {version}\nsomething_new = true\n");
        let error = read("my.toml", &text).unwrap_err();
        assert!(matches!(error, CalibrateError::Version { line: 1, .. }), "{error}");
        assert!(error.to_string().contains(way_out), "{error}");
    }
}

/// What version 3 says otherwise than 2 is not taken for what 2 said; the rest of a profile of version 2 is what it was.
#[test]
fn a_profile_of_version_2_is_read_as_far_as_it_says_what_3_does() {
    let of_2 = |name: &str| {
        let text = find(name).expect("shipped").text.replacen("schema = 3", "schema = 2", 1);
        read("old.toml", &text).map(|profile| profile.schema).map_err(|error| error.to_string())
    };
    assert_eq!(of_2("derived-a100-80gb-llama-2-7b"), Ok(2));
    let refused = of_2("measured-h200-llama-2-7b").unwrap_err();
    assert!(refused.contains("tiles of prompts") && refused.contains("fit its recording again"), "{refused}");
}

#[test]
fn a_file_cut_anywhere_is_refused_or_whole_and_never_a_panic() {
    let text = committed();
    for end in (0..text.len()).step_by(97).filter(|&end| text.is_char_boundary(end)) {
        if let Ok(profile) = read("cut.toml", &text[..end]) {
            // Only optional parts at the end may be missing.
            assert!(end > text.find("[load]").unwrap(), "{end}");
            assert_eq!(profile.name, NAME);
        }
    }
    for damaged in ["", "\0\0\0", "schema", "schema = 1e400", "= = =", "[schema]\n"] {
        assert!(read("damaged.toml", damaged).is_err(), "{damaged:?}");
    }
}

#[test]
fn impossible_figures_are_refused_with_their_key() {
    for (from, to, key) in [
        ("copy_slowdown = 1.0", "copy_slowdown = 0.5", "load"),
        ("heads = 32", "heads = 0", "model"),
        ("us_per_sequence = 5.0", "us_per_sequence = -5.0", "host"),
        ("us_per_sequence = 5.0", "us_per_sequence = nan", "host"),
        ("rows_per_tile = 16", "rows_per_tile = 0", "operations.qkv"),
        ("scale = 1.0", "scale = 0.0", "whole_step"),
        ("memory_bytes = 84943715697", "memory_bytes = 0", "gpu"),
    ] {
        let (_, text) = with_line(from, to);
        let error = read("my.toml", &text).unwrap_err();
        assert!(
            matches!(error, CalibrateError::Figures { .. }) && error.to_string().contains(&format!(": {key}: ")),
            "{error}"
        );
    }
}

#[test]
fn what_products_take_longer_beside_adapters_is_checked() {
    type Spoil = fn(&mut LoraOverlap);
    let spoils: [(Spoil, &str); 4] = [
        (|few| few.least_us[1] = few.least_us[0] - 1.0, "must not fall"),
        (|few| few.least_us[0] = -1.0, "least_us"),
        (|few| few.rows[1] = few.rows[0], "lora_few_rows.rows"),
        (|few| few.rows.truncate(1), "one for each"),
    ];
    for (spoil, problem) in spoils {
        let mut profile = find("measured-h200-llama-2-7b").unwrap().profile().unwrap();
        spoil(profile.whole_step.lora_few_rows.as_mut().unwrap());
        let error = read("my.toml", &write(&profile)).unwrap_err().to_string();
        assert!(error.contains(": whole_step: ") && error.contains(problem), "{error}");
    }
}

#[test]
fn the_schema_names_every_kernel_and_key() {
    let schema = text::schema().to_string();
    for word in ["gather-bmm", "us_per_longest_token", "kernel_source_hash", "step_slowdown", "validity"] {
        assert!(schema.contains(word), "{word}");
    }
}
