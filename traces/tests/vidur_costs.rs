//! A peer's cost tables are read to the last digit, and what is wrong with them is named with its place.

use std::path::Path;

use aril_sim::profile::Profile;
use aril_sim::profile::vidur::{Steps, VidurTables};
use aril_traces::read_vidur_costs;

/// The profile that was made of Vidur's whole tables.
fn shipped() -> VidurTables {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/vidur/vidur-a100-80gb-llama-2-7b.toml");
    let profile: Profile = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    profile.vidur.unwrap()
}

/// What a function says up to `last`.
fn upto(steps: &Steps, last: u32, step: u32) -> Vec<f64> {
    steps.dense(step).take((last / step + 1) as usize).collect()
}

#[test]
fn tables_as_vidur_wrote_them_say_what_the_profile_made_of_them_says() {
    let whole = shipped();
    let some = read_vidur_costs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vidur")).unwrap();
    for (own, all) in some.operations.iter().zip(&whole.operations) {
        assert_eq!((&own.name, own.cost.last(), upto(&own.cost, 64, 1)), (&all.name, 64, upto(&all.cost, 64, 1)));
    }
    assert_eq!(some.operations.len(), whole.operations.len());
    assert_eq!(upto(&some.kv_cache_save, 64, 1), upto(&whole.kv_cache_save, 64, 1));
    assert_eq!((some.decode.len(), some.prefill.len()), (4, 3));
    for (own, all) in some.decode.iter().zip(&whole.decode) {
        assert_eq!(upto(own, 512, 64), upto(all, 512, 64));
    }
    for (own, all) in some.prefill.iter().zip(&whole.prefill) {
        assert_eq!(upto(own, 64, 1), upto(all, 64, 1));
    }
}

/// Rows of a table: the arguments as Vidur writes them, then the prediction.
fn write(folder: &Path, name: &str, arguments: &str, rows: impl Iterator<Item = String>) {
    let lines = [format!("{arguments},prediction")].into_iter().chain(rows).collect::<Vec<_>>();
    std::fs::write(folder.join(format!("{name}.csv")), lines.join("\n")).unwrap();
}

#[test]
fn tables_of_full_size_are_imported_without_loss() {
    let whole = shipped();
    let folder = tempfile::tempdir().unwrap();
    let by_tokens = |name: &str, cost: &Steps| {
        let rows = cost.dense(1).enumerate().skip(1).map(|(tokens, ms)| format!("{tokens},{ms}"));
        write(folder.path(), name, "num_tokens", rows);
    };
    whole.operations.iter().for_each(|operation| by_tokens(&operation.name, &operation.cost));
    by_tokens("attn_kv_cache_save", &whole.kv_cache_save);
    let decode = whole
        .decode
        .iter()
        .zip(1..)
        .flat_map(|(steps, rows)| steps.dense(64).zip(0..).map(move |(ms, i)| format!("{rows},{},{ms}", i * 64)));
    write(folder.path(), "attn_decode", "batch_size,kv_cache_size", decode);
    let prefill = whole.prefill.iter().zip(0..).flat_map(|(steps, i)| {
        let chunks = steps.dense(1).zip(0_u32..).skip(1);
        chunks.map(move |(ms, chunk)| format!("{},{},{ms}", i * 64, chunk * chunk))
    });
    write(folder.path(), "attn_prefill", "kv_cache_size,prefill_chunk_size_squared", prefill);
    assert!(read_vidur_costs(folder.path()).unwrap() == whole);
}

/// A folder of small tables, under the names of Vidur's cache.
fn tables(change: impl Fn(&str, &mut Vec<String>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let operations = ["input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm"];
    let more = ["mlp_up_proj", "mlp_act", "mlp_down_proj", "add", "attn_kv_cache_save"];
    let mut files: Vec<(&str, Vec<String>)> = Vec::new();
    for name in operations.into_iter().chain(more) {
        files.push((
            name,
            ["num_tokens,prediction".to_owned()].into_iter().chain((1..=16).map(|n| format!("{n},0.5"))).collect(),
        ));
    }
    let mut decode = vec!["batch_size,kv_cache_size,prediction".to_owned()];
    let mut prefill = vec!["kv_cache_size,prefill_chunk_size_squared,prediction".to_owned()];
    for context in [0, 64, 128] {
        decode.extend((1..=2).map(|rows| format!("{rows},{context},{}", rows + context)));
        prefill.extend((1..=16).map(|chunk| format!("{context},{},{}", chunk * chunk, if chunk < 9 { 1 } else { 2 })));
    }
    files.extend([("attn_decode", decode), ("attn_prefill", prefill)]);
    for (name, mut lines) in files {
        change(name, &mut lines);
        std::fs::write(folder.path().join(format!("{name}_871c8af8_predictions.csv")), lines.join("\n")).unwrap();
    }
    folder
}

#[test]
fn tables_are_read_under_the_names_of_vidurs_cache_and_holes_are_named() {
    let whole = read_vidur_costs(tables(|_, _| ()).path()).unwrap();
    assert_eq!(whole.decode[1], Steps { until: vec![0, 64, 128], ms: vec![2.0, 66.0, 130.0] });
    assert_eq!(whole.prefill, vec![Steps { until: vec![8, 16], ms: vec![1.0, 2.0] }; 3]);
    for (file, row, line, told) in [
        ("mlp_act", 5, 6, "where num_tokens should be 5 it is 6:"),
        ("attn_decode", 3, 5, "where kv_cache_size should be 64 it is 128:"),
        ("attn_prefill", 20, 21, "where prefill_chunk_size_squared should be 16 it is 25:"),
    ] {
        let folder = tables(|name, lines| {
            if name == file {
                lines.remove(row);
            }
        });
        let (error, place) = (refused(&folder), format!("{file}_871c8af8_predictions.csv:{line}: "));
        assert!(error.contains(told) && error.contains(&place), "{error}");
    }
}

#[test]
fn a_table_that_ends_early_is_refused_with_its_last_line() {
    for (file, told) in [
        ("mlp_act", "16: it ends at 15 tokens, but attn_kv_cache_save_871c8af8_predictions.csv at 16;"),
        ("attn_kv_cache_save", "17: it ends at 16 tokens, but attn_kv_cache_save_871c8af8_predictions.csv at 15;"),
        (
            "attn_decode",
            "5: it ends where kv_cache_size is 64, but for the first batch_size where kv_cache_size is 128;",
        ),
        ("attn_prefill", "48: it ends where prefill_chunk_size_squared is 225, but for the first kv_cache_size where"),
    ] {
        let folder = tables(|name, lines| {
            if name == file {
                lines.pop();
            }
        });
        let error = refused(&folder);
        assert!(error.contains(&format!("_predictions.csv:{told}")), "{error}");
    }
}

#[test]
fn a_table_without_rows_is_told_what_is_missing_from_it() {
    for (lines, told) in [(1, "there is no row of a step in it"), (0, "there is nothing in it")] {
        let folder = tables(|name, all| {
            if name == "attn_decode" {
                all.truncate(lines);
            }
        });
        let error = refused(&folder);
        let columns =
            "a table of `attn_decode` has the columns batch_size, kv_cache_size, prediction, and a row for each size;";
        assert!(error.contains(&format!("attn_decode_871c8af8_predictions.csv: {told}; {columns}")), "{error}");
    }
}

#[test]
fn a_table_without_its_column_is_refused_with_the_line_of_its_header() {
    let folder = tables(|name, lines| {
        if name == "attn_rope" {
            lines[0] = "tokens,prediction".to_owned();
        }
    });
    let error = refused(&folder);
    let told = "attn_rope_871c8af8_predictions.csv:1: there is no column `num_tokens`; it has: tokens, prediction.";
    assert!(error.contains(told), "{error}");
}

fn refused(folder: &tempfile::TempDir) -> String {
    read_vidur_costs(folder.path()).unwrap_err().to_string()
}

#[test]
fn a_folder_without_tables_is_told_all_that_are_missing() {
    let empty = refused(&tempfile::tempdir().unwrap());
    for file in ["input_layernorm.csv", "add.csv", "attn_kv_cache_save.csv", "attn_decode.csv", "attn_prefill.csv"] {
        assert!(empty.contains(file), "{empty}");
    }
    let few = tables(|_, _| ());
    for name in ["attn_decode", "mlp_act"] {
        std::fs::remove_file(few.path().join(format!("{name}_871c8af8_predictions.csv"))).unwrap();
    }
    let few = refused(&few);
    assert!(few.contains("tables are missing: mlp_act.csv, attn_decode.csv;"), "{few}");
}

#[test]
fn a_table_that_is_there_twice_is_refused_with_the_names_of_both() {
    let plain = "num_tokens,prediction\n1,1";
    for (more, named) in [
        (vec!["add_00000000_predictions.csv"], "add_00000000_predictions.csv, add_871c8af8_predictions.csv"),
        (vec!["add.csv"], "add.csv, add_871c8af8_predictions.csv"),
        (vec!["add_871c8af8_predictions.csv.gz"], "add_871c8af8_predictions.csv, add_871c8af8_predictions.csv.gz"),
    ] {
        let folder = tables(|_, _| ());
        more.iter().for_each(|file| std::fs::write(folder.path().join(file), plain).unwrap());
        let error = refused(&folder);
        assert!(error.contains(&format!("there are 2 tables of `add`: {named};")), "{error}");
    }
    let folder = tables(|_, _| ());
    let at = |file: &str| folder.path().join(file);
    std::fs::rename(at("add_871c8af8_predictions.csv"), at("add.csv")).unwrap();
    read_vidur_costs(folder.path()).unwrap();
    std::fs::copy(at("add.csv"), at("add.csv.gz")).unwrap();
    let error = refused(&folder);
    assert!(error.contains("there are 2 tables of `add`: add.csv, add.csv.gz;"), "{error}");
}

#[test]
fn a_time_that_no_operation_takes_is_refused_with_its_line() {
    for cell in ["-1", "nan", "inf", "1e300", "10000.5", ""] {
        let folder = tables(|name, lines| {
            if name == "mlp_act" {
                lines[2] = format!("2,{cell}");
            }
        });
        let error = refused(&folder);
        let place = "mlp_act_871c8af8_predictions.csv:3";
        assert!(error.contains(place) && error.contains("milliseconds from 0 to 10000"), "{error}");
    }
}

#[test]
fn a_size_that_is_no_whole_number_is_refused_with_its_line_and_not_cut() {
    for (table, line, cell, text) in [
        ("mlp_act", 3, "\"2.7\"", "2.7,0.5"),
        ("attn_decode", 2, "\"1.5\"", "1.5,0,1"),
        ("attn_prefill", 5, "\"0.25\"", "0.25,16,1"),
        ("attn_rope", 9, "\"4294967296\"", "4294967296,1"),
    ] {
        let folder = tables(|name, lines| {
            if name == table {
                lines[line - 1] = text.to_owned();
            }
        });
        let error = refused(&folder);
        let place = format!("{table}_871c8af8_predictions.csv:{line}");
        assert!(error.contains(&place) && error.contains(cell) && error.contains("a whole number"), "{error}");
    }
    // As pandas writes them.
    let floats = tables(|name, lines| {
        if name == "mlp_act" {
            lines[2] = "2.0,0.5".to_owned();
        }
    });
    read_vidur_costs(floats.path()).unwrap();
}
