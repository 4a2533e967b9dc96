//! Bad input is refused with its place, what was found, and what to do. It never panics.

use std::io::Write;
use std::path::Path;

use aril_traces::{Columns, Position, ReadOptions, Table, TraceError, read};
use proptest::prelude::*;

use crate::given::{file, refusal, try_build};

const HEADER: &str = "arrived_at,num_prefill_tokens,num_decode_tokens\n";

fn attempt(content: impl AsRef<[u8]>) -> Result<Table, TraceError> {
    let (_folder, path) = file("trace.csv", content);
    read(&path, None, &Columns::default(), &ReadOptions::default())
}

fn message(content: impl AsRef<[u8]>) -> String {
    let text = attempt(content).unwrap_err().to_string();
    assert!(text.contains("trace.csv"), "{text}");
    text
}

fn rows(rows: &str) -> String {
    format!("{HEADER}{rows}")
}

#[test]
fn a_wrong_value_is_refused_with_line_column_and_content() {
    for (text, line, column, found) in [
        ("0.0,10,5\n1.0,-7,5\n", 3, "num_prefill_tokens", "\"-7\""),
        ("0.0,10,5\n1.0,10,99999999999\n", 3, "num_decode_tokens", "\"99999999999\""),
        ("NaN,10,5\n", 2, "arrived_at", "\"NaN\""),
        ("inf,10,5\n", 2, "arrived_at", "\"inf\""),
        ("-1.0,10,5\n", 2, "arrived_at", "\"-1.0\""),
        ("1e300,10,5\n", 2, "arrived_at", "\"1e300\""),
        ("0.0,1.5,5\n", 2, "num_prefill_tokens", "\"1.5\""),
        ("0.0,,5\n", 2, "num_prefill_tokens", "nothing"),
        ("0.0,NaN,5\n", 2, "num_prefill_tokens", "\"NaN\""),
        ("0.0,1e400,5\n", 2, "num_prefill_tokens", "\"1e400\""),
        ("0.0,\"<script>\",5\n", 2, "num_prefill_tokens", "\"<script>\""),
    ] {
        match attempt(rows(text)).unwrap_err() {
            TraceError::Value { place, column: at, found: what, .. } => {
                assert_eq!(
                    (place.position, at.as_str(), &*what),
                    (Some(Position::Line(line)), column, found),
                    "{text}"
                );
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn a_truncated_file_is_refused_at_its_last_line() {
    let text = message(rows("0.0,10,5\n1.0,1"));
    assert!(text.contains("trace.csv:3") && text.contains("truncated"), "{text}");
    let text = message(
        "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [0]}\n{\"timestamp\": 1, \"inp",
    );
    assert!(text.contains("trace.csv:2") && text.contains("truncated"), "{text}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for i in 0..20_000 {
        writeln!(gzip, "{i}.5,{},{}", i * 7919 % 1000, i * 31 % 977).unwrap();
    }
    let whole = [HEADER.as_bytes(), b""].concat();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&whole).unwrap();
    let mut packed = packed.finish().unwrap();
    packed.extend(gzip.finish().unwrap());
    packed.truncate(packed.len() / 2);
    let text = message(&packed);
    assert!(text.contains("stops in the middle"), "{text}");
    let zstd = zstd::stream::encode_all(rows(&"1.0,5,5\n".repeat(50_000)).as_bytes(), 1).unwrap();
    let text = message(&zstd[..zstd.len() / 2]);
    assert!(text.contains("fetch it again"), "{text}");
}

#[test]
fn an_unsorted_file_is_refused_with_its_first_step_back_unless_sorting_is_asked_for() {
    let (folder, path) = file("trace.csv", rows("0.0,10,5\n7.0,20,5\n3.0,30,5\n"));
    match read(&path, None, &Columns::default(), &ReadOptions::default()).unwrap_err() {
        TraceError::Unsorted { place, now, before, above } => {
            assert_eq!(
                (place.position, &*now, &*before, above),
                (Some(Position::Line(4)), "\"3.0\"", "\"7.0\"", Position::Line(3))
            );
        }
        other => panic!("{other}"),
    }
    // What the file says is told, in its own unit, and where: a failed request between them is none of the two.
    let text = message(
        "{\"timestamp\": 2000, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1]}\n\
                        {\"timestamp\": 9000, \"input_length\": 9, \"output_length\": 0, \"hash_ids\": [1]}\n\
                        {\"timestamp\": 1500, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1]}\n",
    );
    assert!(text.contains("trace.csv:3: the arrival 1500 is before the one above it, 2000 in line 1; set"), "{text}");
    let sorted = try_build("trace = \"trace.csv\"\nsort = true", folder.path(), 1, 0).unwrap();
    assert_eq!(sorted.arrivals().map(|offered| offered.request.prompt_tokens).collect::<Vec<_>>(), [10, 30, 20]);
}

#[test]
fn empty_binary_and_misencoded_files_are_refused_as_what_they_are() {
    for (content, says) in [
        (b"".to_vec(), "empty"),
        (b" \n\n".to_vec(), "empty"),
        (HEADER.as_bytes().to_vec(), "only a header"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00".to_vec(), "not a text file"),
        (b"PAR1 and then something else".to_vec(), "not a readable Parquet file"),
        (HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect(), "not a text file"),
        ([vec![0xff, 0xfe], HEADER.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat(), "UTF-16"),
        (b"\x1f\x8b\x08 nonsense".to_vec(), "fetch it again"),
        (b"{\"timestamp\": 0,, }\n".to_vec(), "trace.csv:1"),
        (b"[1, 2, 3]\n".to_vec(), "not recognised"),
        (b"a,b,c\n1,2,3\n".to_vec(), "not recognised"),
    ] {
        let text = message(&content);
        assert!(text.contains(says), "{says}: {text}");
    }
    let latin = b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,1,1\n1.0,1,\xe9\n";
    let text = message(latin);
    assert!(text.contains("trace.csv:3") && text.contains("UTF-8") && text.contains("iconv"), "{text}");
}

#[test]
fn a_name_that_no_page_can_show_is_refused_with_its_line() {
    let text = message("{\"arrival_s\":0,\"tenant\":\"a\\u0000b\",\"input_tokens\":1,\"output_tokens\":1}\n");
    assert!(text.contains("trace.csv:1: column `tenant`") && text.contains("control characters"), "{text}");
}

#[test]
fn a_byte_order_mark_of_utf_8_does_no_harm() {
    assert_eq!(attempt([b"\xef\xbb\xbf", rows("0.0,10,5\n").as_bytes()].concat()).unwrap().len(), 1);
}

#[test]
fn a_quote_that_is_never_closed_does_not_swallow_the_file_in_silence() {
    let text = message(rows(&format!("0.0,\"10,5\n{}", "1.0,10,5\n".repeat(2_000))));
    assert!(text.contains("trace.csv:2"), "{text}");
}

#[test]
fn a_missing_column_names_the_nearest_one() {
    let (folder, _) = file("trace.csv", rows("0.0,10,5\n"));
    let text = "trace = \"trace.csv\"\ncolumns = { tenant = \"arrived_by\" }";
    let error = try_build(text, folder.path(), 1, 0).unwrap_err().to_string();
    assert!(error.contains("no column `arrived_by`") && error.contains("did you mean `arrived_at`?"), "{error}");
}

#[test]
fn an_adapter_that_the_table_does_not_list_is_named() {
    let (folder, _) = file("trace.csv", "arrival_s,adapter,input_tokens,output_tokens\n0,alpha,1,1\n1,beta,1,1\n");
    for (table, says) in [
        ("adapter,rank\nalpha,8\nbetta,8\n", "did you mean `betta`?"),
        ("adapter,rank\nalpha,8\nalpha,8\n", "a name that is not taken"),
        ("adapter,rank\nalpha,0\nbeta,8\n", "a rank from 1 on"),
        ("adapter,rank\nalpha,eight\nbeta,8\n", "adapters.csv:2"),
        ("name,rank\nalpha,8\n", "no column `adapter`"),
        ("adapter,rank\n", "no requests in it; it should list adapters"),
    ] {
        std::fs::write(folder.path().join("adapters.csv"), table).unwrap();
        let text = "trace = \"trace.csv\"\nadapters = \"adapters.csv\"";
        let error = try_build(text, folder.path(), 1, 0).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn an_adapter_has_one_rank() {
    let text = message("arrival_s,adapter,rank,input_tokens,output_tokens\n0,a,8,1,1\n1,a,16,1,1\n");
    assert!(text.contains("trace.csv:3") && text.contains("the rank 8 that this adapter has above"), "{text}");
}

#[test]
fn milliseconds_that_are_taken_for_seconds_are_noticed() {
    let text = message("arrival_s,input_tokens,output_tokens\n1763280000000,1,1\n");
    assert!(text.contains("arrival_s") && text.contains("arrival_unit = \"ms\""), "{text}");
    let (folder, _) = file("trace.csv", "ts,i,o\n1763280000000,1,1\n");
    let columns = "trace = \"trace.csv\"\ncolumns = { arrival = \"ts\", input_tokens = \"i\", output_tokens = \"o\" }";
    let error = try_build(columns, folder.path(), 1, 0).unwrap_err().to_string();
    assert!(error.contains("arrival_unit = \"ms\""), "{error}");
    assert_eq!(try_build(&format!("{columns}\narrival_unit = \"ms\""), folder.path(), 1, 0).unwrap().len_hint(), 1);
}

#[test]
fn settings_that_cannot_be_are_refused_by_their_key() {
    let conv = "trace = \"azure-llm-2023-conv\"\n";
    let poisson = "arrivals.poisson.rate = 1.0\ninput_tokens = 10\noutput_tokens = 10\n";
    for (text, key) in [
        ("", "trace"),
        ("input_tokens = 1\noutput_tokens = 1\narrivals = \"closed\"", "requests"),
        (poisson, "requests"),
        ("arrivals.poisson.rate = -1.0\nrequests = 5\ninput_tokens = 1\noutput_tokens = 1", "arrivals.poisson.rate"),
        ("arrivals.poisson.rate = nan\nrequests = 5\ninput_tokens = 1\noutput_tokens = 1", "arrivals.poisson.rate"),
        (
            "arrivals.ramp = { from = 1.0, to = 2.0 }\nrequests = 5\ninput_tokens = 1\noutput_tokens = 1",
            "arrivals.ramp",
        ),
        ("arrivals.poisson.rate = 1.0\nrequests = 5", "input_tokens"),
        ("arrivals.poisson.rate = 1.0\nrequests = 5\ninput_tokens = 5", "output_tokens"),
        (&format!("{poisson}requests = 5\ntotal_tokens = 5"), "total_tokens"),
        (&format!("{poisson}requests = 5\nlengths.trace = \"vidur-arxiv-lengths\""), "lengths"),
        (&format!("{poisson}requests = 99999999999"), "requests"),
        (&format!("{poisson}requests = 5\nwindow.start = \"1h\""), "window.start"),
        (&format!("{poisson}requests = 5\npopularity.zipf = {{ s = -1.0 }}"), "popularity.zipf.s"),
        (&format!("{poisson}requests = 5\npopularity.geometric.ratio = 1.0"), "popularity.geometric.ratio"),
        (&format!("{poisson}requests = 5\npopularity.power = {{ alpha = 0.0 }}"), "popularity.power.alpha"),
        (&format!("{poisson}requests = 5\npopularity.working-set.sticky = 1.5"), "popularity.working-set.sticky"),
        (&format!("{poisson}requests = 4000000000\npopularity = \"distinct\""), "popularity"),
        (&format!("{poisson}requests = 5\npopularity = \"tenant\""), "popularity"),
        (&format!("{conv}rate_scale = 0.0"), "rate_scale"),
        (&format!("{conv}rate_scale = 1e-9"), "rate_scale"),
        (&format!("{conv}window = {{ start = \"5h\" }}"), "window"),
        (&format!("{conv}window = {{ start = 2022-01-01T00:00:00Z }}"), "window.start"),
        (&format!("{conv}window = {{ duration = \"5m\", warmup = \"5m\" }}"), "window.warmup"),
        (&format!("{conv}ranks = {{ 8 = 0.0 }}"), "ranks"),
        (&format!("{conv}ranks = {{ 8 = -1.0 }}"), "ranks.8"),
        (&format!("{conv}base_share = 1.5"), "base_share"),
        (&format!("{conv}client.retries = 2"), "client.retries"),
        (&format!("{conv}output_predictor.noisy.relative_error = -0.5"), "output_predictor.noisy.relative_error"),
        ("trace = \"vidur-arxiv-lengths\"", "arrivals"),
        ("trace = \"servegen-m-small-4h\"\narrivals = \"closed\"", "arrivals"),
    ] {
        match refusal(text) {
            TraceError::Setting { key: at, .. } => assert_eq!(at, key, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn a_prompt_that_the_model_cannot_take_is_refused_dropped_or_clipped_as_the_scenario_says() {
    let build = |too_long: &str| {
        let text = format!("trace = \"azure-llm-2023-conv\"\n{too_long}");
        let traffic: aril_traces::Traffic = toml::from_str(&text).unwrap();
        let context = aril_traces::Context {
            base: Path::new("."),
            seed: 1,
            as_recorded: true,
            adapter_bytes: &|_| 0,
            max_model_len: 4096,
        };
        traffic.build(&context)
    };
    let message = build("").unwrap_err().to_string();
    assert!(message.contains("traffic.too_long") && message.contains("the longest has 14050"), "{message}");
    let (dropped, clipped) = (build("too_long = \"drop\"").unwrap(), build("too_long = \"clip\"").unwrap());
    assert_eq!(clipped.len_hint(), 15_606);
    assert!(dropped.len_hint() < 15_606);
    for workload in [&dropped, &clipped] {
        assert!(workload.description().notes.iter().any(|note| note.contains("4096")));
        for offered in workload.arrivals() {
            assert!(offered.request.prompt_tokens + offered.request.max_tokens <= 4096);
            assert!(offered.outcome.output_tokens <= offered.request.max_tokens);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = attempt(bytes);
    }

    #[test]
    fn no_text_behind_a_good_header_makes_the_reader_panic(text in "(\\PC|\n|,|\"){0,200}") {
        let _ = attempt(rows(&text));
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_reader_panic(at in 0_usize..2_000, by in 1_u8..=255, which in 0_usize..3) {
        let (folder, _) = file("good.csv", rows("0.0,10,5\n1.0,20,6\n2.5,30,7\n"));
        let good = read(&folder.path().join("good.csv"), None, &Columns::default(), &ReadOptions::default()).unwrap();
        let name = ["t.csv", "t.jsonl", "t.parquet"][which];
        let path = folder.path().join(name);
        aril_traces::write(&path, &good).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= by;
        std::fs::write(&path, bytes).unwrap();
        let _ = read(&path, None, &Columns::default(), &ReadOptions::default());
    }
}
