//! Files and words: what is no scenario, no TOML, no number.

use super::{changed, refused};
use crate::integration::bench::{Bench, SMALL};

#[test]
fn a_number_without_a_unit_is_no_duration() {
    changed(
        r#"ttft = "1s""#,
        r#"ttft = 1"#,
        r#"error: `slo.all.ttft`: expected a duration with a unit, such as "250ms", found the number 1
  --> s.toml:22:8
   |
22 | ttft = 1
   |        ^"#,
    );
}

#[test]
fn a_unit_that_does_not_exist_lists_those_that_do() {
    changed(
        r#"ttft = "1s""#,
        r#"ttft = "1 sec""#,
        r#"error: `slo.all.ttft`: `1 sec` is not a duration: write a number and a unit, such as "250ms", "1.5s" or "1h30m" (units: d, h, m, s, ms, us, ns, ps)
  --> s.toml:22:8
   |
22 | ttft = "1 sec"
   |        ^^^^^^^"#,
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = = 8"#,
        r#"error: this is not TOML: extra `=`, expected nothing
  --> s.toml:15:16
   |
15 | max_num_seqs = = 8
   |                ^"#,
    );
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
max_num_seqs = 9"#,
        r#"error: this is not TOML: duplicate key
  --> s.toml:16:1
   |
16 | max_num_seqs = 9
   | ^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_number_beyond_the_integers_of_toml_is_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = 99999999999999999999"#,
        r#"error: `pool.a100-80gb.replicas`: the number 99999999999999999999 is too large
  --> s.toml:18:12
   |
18 | replicas = 99999999999999999999
   |            ^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_missing_table_is_named() {
    changed(
        r#"[engine.aril]
max_num_seqs = 8
"#,
        r#""#,
        r#"error: the key `engine` is missing
 --> s.toml"#,
    );
}

#[test]
fn a_key_with_markup_and_control_characters_is_shown_harmlessly() {
    changed(
        r#"max_num_seqs = 8"#,
        r#""<b>max\u001b[31m" = 8"#,
        r#"error: unknown key `<b>max�[31m` in `engine.aril`
  --> s.toml:15:1
   |
15 | "<b>max\u001b[31m" = 8
   | ^^^^^^^^^^^^^^^^^^
  = help: known keys: `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`, `block_size`, `gpu_memory_utilization`, `kv_cache`, `max_loras`, `max_lora_rank`, `max_cpu_loras`, `gpu_adapters`, `host_adapters`, `host_link`, `disk_link`, `lora_kernel`"#,
    );
}

#[test]
fn a_file_that_is_not_there_gets_the_nearest_one() {
    let bench = Bench::with(SMALL);
    let done = bench.aril(&["run", "t.toml"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: t.toml: there is no such file\n  = help: did you mean ./s.toml?\n")
    );
}

#[test]
fn a_folder_is_no_scenario() {
    let bench = Bench::new();
    bench.write("folder/a.toml", "");
    let done = bench.aril(&["run", "folder"]);
    let message = "error: folder: this is a folder, not a scenario\n  = help: name one of its files: a.toml\n";
    assert_eq!((done.code, done.err.as_str()), (2, message));
}

#[test]
fn what_is_not_text_is_no_scenario() {
    for (bytes, problem) in [
        (
            &b"name = \"x\"\nseed = \xff\xfe"[..],
            "line 2: this is not text in UTF-8 (byte 18 of the file)\n  = help: save it as UTF-8",
        ),
        (&b"PAR1\0\0\0"[..], "this is not text: it contains zero bytes"),
    ] {
        let bench = Bench::new();
        bench.write("s.toml", bytes);
        refused(&bench, &format!("error: s.toml: {problem}"));
    }
}

#[test]
fn an_empty_file_is_no_scenario() {
    refused(&Bench::with(""), "error: the key `name` is missing\n --> s.toml");
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let bench = Bench::with(&format!("\u{feff}{}", SMALL.replace('\n', "\r\n")));
    bench.ok(&["check", "s.toml"]);
}

#[test]
fn a_wrong_set_is_told_with_the_argument() {
    let bench = Bench::with(SMALL);
    for (argument, message) in [
        (
            "engine.aril.max_num_seqs",
            "error: `--set engine.aril.max_num_seqs` has no `=`\n  = help: write --set path=value, such as --set engine.vllm.max_loras=16\n",
        ),
        (
            "pool.a100-80gb.replicas=two",
            "error: `pool.a100-80gb.replicas`: expected a whole number from 0 to 4294967295, found the text \"two\"\n --> --set \"pool.a100-80gb.replicas=two\":1:25\n  |\n1 | pool.a100-80gb.replicas=two\n  |                         ^^^\n",
        ),
        (
            "traffic.arrivals.poisson.rate=nan",
            "error: `traffic.arrivals.poisson.rate`: nan is not a finite number\n --> --set \"traffic.arrivals.poisson.rate=nan\":1:31\n  |\n1 | traffic.arrivals.poisson.rate=nan\n  |                               ^^^\n",
        ),
    ] {
        let done = bench.aril(&["check", "s.toml", "--set", argument]);
        assert_eq!((done.code, done.err.as_str()), (2, message));
    }
    let done = bench.aril(&["check", "s.toml", "--policy", "punika"]);
    let message = "error: --policy punika: the scenario has no such policy\n  = help: did you mean `punica`? its policies: `spread`, `punica`\n";
    assert_eq!((done.code, done.err.as_str()), (2, message));
}
