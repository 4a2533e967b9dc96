//! Every public format, on the shipped samples and on rows written out by hand.

use std::io::Write;
use std::path::Path;

use aril_traces::{Columns, Format, ReadOptions, Table, TimeUnit, read, shipped};

use crate::given::{beside, build, file, requests, try_build};

fn table(content: impl AsRef<[u8]>) -> Table {
    let (_folder, path) = file("trace", content);
    read(&path, None, &Columns::default(), &ReadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn seconds(table: &Table) -> Vec<f64> {
    table.arrivals_ps.as_ref().unwrap().iter().map(|ps| *ps as f64 / 1e12).collect()
}

#[test]
fn azure_2023_has_carriage_returns_seven_digits_and_no_last_newline() {
    let table = table(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319601,3180,8",
    );
    assert_eq!(table.arrivals_ps, Some(vec![0, 52_000_100_000]));
    assert_eq!(table.origin_unix_ps, Some(1_700_158_623_979_960_000_000));
    assert_eq!((table.input_tokens, table.output_tokens), (vec![4808, 3180], vec![10, 8]));
}

#[test]
fn azure_2024_and_2025_dates_are_read_too() {
    let later = table(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:00.017335+00:00,2399,6\n",
    );
    assert_eq!(later.arrivals_ps, Some(vec![0, 7_405_000_000]));
    let multimodal = table(
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15T12:00:00.000Z,1,90,5\n2024-10-15T12:00:01.250Z,0,70,6\n",
    );
    assert_eq!(seconds(&multimodal), [0.0, 1.25]);
}

#[test]
fn mooncake_counts_milliseconds_and_carries_its_block_hashes() {
    let table = table(
        "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1, 2]}\n{\"timestamp\": 3052, \"input_length\": 10, \"output_length\": 1, \"hash_ids\": [0]}\n",
    );
    assert_eq!(seconds(&table), [0.0, 3.052]);
    assert_eq!(table.prefixes.unwrap()[0].as_deref(), Some([0_u64, 1, 2].as_slice()));
    let workload = build("trace = \"mooncake-conversation-5min\"");
    assert!(workload.arrivals().all(|offered| offered.request.prefix.unwrap()[0] == 0));
}

#[test]
fn mooncake_ticks_can_be_spread_and_are_not_unless_asked() {
    let distinct = |text: &str| {
        let mut arrivals: Vec<_> = requests(text).into_iter().map(|offered| offered.request.arrival).collect();
        assert!(arrivals.is_sorted());
        let all = arrivals.len();
        arrivals.dedup();
        (arrivals.len(), all)
    };
    let (ticks, all) = distinct("trace = \"mooncake-conversation-5min\"");
    assert!(ticks * 5 < all, "{ticks} distinct instants of {all} requests");
    let (ticks, all) = distinct("trace = \"mooncake-conversation-5min\"\njitter = \"3s\"");
    assert_eq!(ticks, all);
}

#[test]
fn ragpulse_lays_its_two_segments_over_each_other() {
    let workload = build("trace = \"ragpulse-day\"");
    assert!(workload.description().notes.iter().any(|note| note.contains("sorted")));
    let arrivals: Vec<_> = workload.arrivals().collect();
    assert_eq!(arrivals.len(), 1552);
    assert!(arrivals.is_sorted_by_key(|offered| offered.request.arrival));
    // The parts of the first prompt, in the order of the prompt.
    let first = arrivals.iter().find(|offered| offered.request.prompt_tokens == 3112).unwrap();
    let parts = [8302, 14332, 15199, 7398, 7370, 7098, 6967, 7405, 7298, 15200, 26923];
    assert_eq!(first.request.prefix.as_deref(), Some(parts.as_slice()));
}

#[test]
fn burstgpt_columns_are_found_by_name_and_its_failures_are_counted() {
    let old = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n46,GPT-4,400,0,400,API log\n";
    let new = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n19440110.0,,1.5,ChatGPT,472,18,490,API log\n19440150.0,7,2.5,ChatGPT,1087,230,1317,Conversation log\n19440151.0,,0.1,GPT-4,400,0,400,API log\n";
    for text in [old, new] {
        let table = table(text);
        assert_eq!(seconds(&table), [0.0, 40.0]);
        assert_eq!(table.output_tokens, [18, 230]);
        assert!(table.notes[0].starts_with("1 requests without prompt or output"), "{:?}", table.notes);
    }
    let (folder, path) = file("burst.csv", old);
    let text = "trace = \"burst.csv\"\nfailures = \"keep\"\ncolumns = { adapter = \"Model\" }";
    let kept = try_build(text, folder.path(), 1, 0).unwrap();
    assert_eq!(kept.arrivals().map(|offered| offered.outcome.output_tokens).collect::<Vec<_>>(), [18, 230, 1]);
    assert_eq!(
        kept.catalog.adapters.iter().map(|adapter| adapter.name.as_str()).collect::<Vec<_>>(),
        ["ChatGPT", "GPT-4"]
    );
    assert!(path.exists());
}

#[test]
fn vidur_has_arrivals_or_lengths_alone() {
    let timed = table("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n");
    assert_eq!(timed.arrivals_ps, Some(vec![0, 4_314_579_000_000]));
    let lengths = table("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n");
    assert_eq!((lengths.arrivals_ps, lengths.input_tokens), (None, vec![3772]));
}

#[test]
fn bailian_counts_seconds() {
    let table = table(
        "{\"chat_id\": 159, \"parent_chat_id\": -1, \"timestamp\": 61.114, \"input_length\": 521, \"output_length\": 132, \"type\": \"text\", \"turn\": 1, \"hash_ids\": [1089, 1090]}\n",
    );
    assert_eq!((table.len(), table.prefixes.unwrap()[0].as_ref().unwrap().len()), (1, 2));
}

#[test]
fn any_table_is_read_through_a_map_of_its_columns() {
    let csv = "ts,org,lora_name,prompt_tokens,completion_tokens,block_hashes\n\
               2026-11-16T08:00:00Z,\"Acme, Inc.\",fin-v2,120,30,\"7 8 9\"\n\
               2026-11-16T08:00:00.5Z,Bolt,,50,20,\n\
               2026-11-16T08:00:02Z,Bolt,fin-v2,60,10,[7]\n";
    let columns = "columns = { arrival = \"ts\", tenant = \"org\", adapter = \"lora_name\", input_tokens = \"prompt_tokens\", output_tokens = \"completion_tokens\", prefix = \"block_hashes\" }";
    let (folder, _) = file("gateway.csv", csv);
    std::fs::write(
        folder.path().join("adapters.csv"),
        "adapter,tenant,rank,bytes\nidle,Acme,8,1000\nfin-v2,\"Acme, Inc.\",64,\n",
    )
    .unwrap();
    let text = format!(
        "trace = \"gateway.csv\"\nadapters = \"adapters.csv\"\n{columns}\nwindow.start = 2026-11-16T08:00:00.25Z"
    );
    let workload = try_build(&text, folder.path(), 1, 0).unwrap();
    let all: Vec<_> = workload.arrivals().collect();
    assert_eq!(all.iter().map(|offered| offered.request.arrival.as_secs_f64()).collect::<Vec<_>>(), [0.25, 1.75]);
    assert_eq!(all[0].request.adapter, None);
    let adapter = &workload.catalog.adapters[all[1].request.adapter.unwrap().index()];
    assert_eq!((adapter.name.as_str(), adapter.rank, adapter.bytes), ("fin-v2", 64, 64_000_000));
    assert_eq!(workload.catalog.adapters[0].bytes, 1000);
    assert_eq!(workload.catalog.tenants[all[0].request.tenant.index()].name, "Bolt");
    assert_eq!(all[1].request.prefix.as_deref(), Some([7_u64].as_slice()));
}

#[test]
fn gzip_and_zstd_are_known_by_their_bytes_whatever_the_name() {
    let text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n1.0,396,109\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let packed = [gzip.finish().unwrap(), zstd::stream::encode_all(text.as_bytes(), 3).unwrap()];
    for bytes in packed {
        assert_eq!(table(bytes), table(text));
    }
}

#[test]
fn numbers_are_in_the_unit_that_is_named() {
    for (unit, text, ps) in [
        (TimeUnit::S, "1.5", 1_500_000_000_000),
        (TimeUnit::Ms, "1.5", 1_500_000_000),
        (TimeUnit::Us, "1.5", 1_500_000),
        (TimeUnit::Ns, "1763280000000000001", 1_000),
        (TimeUnit::Ps, "17", 17),
    ] {
        let zero = if unit == TimeUnit::Ns { "1763280000000000000" } else { "0" };
        let (_folder, path) = file("t.csv", format!("ts,i,o\n{zero},1,1\n{text},1,1\n"));
        let named = |name: &str| Some(name.to_owned());
        let columns =
            Columns { arrival: named("ts"), input_tokens: named("i"), output_tokens: named("o"), ..Columns::default() };
        let options = ReadOptions { arrival_unit: Some(unit), ..ReadOptions::default() };
        assert_eq!(read(&path, None, &columns, &options).unwrap().arrivals_ps, Some(vec![0, ps]), "{unit:?}");
    }
}

#[test]
fn every_shipped_trace_builds_and_has_the_rows_it_says() {
    for shipped in shipped() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(shipped.file);
        assert_eq!(std::fs::read(source).unwrap(), shipped.bytes, "{}", shipped.name);
        let workload = match shipped.name {
            "punica-textgen-1024" | "vidur-arxiv-lengths" => {
                build(&format!("trace = {:?}\narrivals = \"closed\"", shipped.name))
            }
            "servegen-m-small-4h" => {
                build(&format!("trace = {:?}\nservegen.without_lengths = \"borrow\"", shipped.name))
            }
            name => build(&format!("trace = {name:?}")),
        };
        let rows = if shipped.name.starts_with("servegen") {
            workload.catalog.tenants.len() as u64
        } else {
            workload.len_hint()
        };
        assert_eq!(rows, shipped.rows, "{}", shipped.name);
        match shipped.read() {
            Ok(table) => assert_eq!(table.len() as u64, shipped.rows, "{}", shipped.name),
            Err(error) => {
                assert!(shipped.name.starts_with("servegen") && error.to_string().contains("archive"), "{error}")
            }
        }
        assert!(workload.description().source.is_some() && workload.description().licence.is_some());
    }
    let bytes: usize = shipped().iter().map(|shipped| shipped.bytes.len()).sum();
    assert!(bytes < 1_200_000, "{bytes} bytes");
}

#[test]
fn the_public_traces_beside_the_repository_are_read_whole() {
    for (name, rows, format) in [
        ("azure_llm_2023_conv.csv.gz", 15_606, Format::Azure),
        ("mooncake_conversation_0-45min.jsonl.gz", 8_940, Format::Mooncake),
        ("mooncake_synthetic.jsonl.gz", 3_993, Format::Mooncake),
        ("ragpulse_0_trace_days0-4.jsonl.gz", 5_167, Format::Ragpulse),
        ("vidur_splitwise_conv.csv.gz", 15_606, Format::Vidur),
        ("vidur_arxiv_summarization_lengths.csv.gz", 28_257, Format::Vidur),
    ] {
        let Some(path) = beside(&format!("traces/{name}")) else { return };
        for format in [None, Some(format)] {
            let table = read(&path, format, &Columns::default(), &ReadOptions::default()).unwrap();
            assert_eq!(table.len(), rows, "{name}");
        }
    }
}

#[test]
fn vidur_s_copy_of_azure_is_azure_to_the_microsecond() {
    let (Some(azure), Some(vidur)) =
        (beside("traces/azure_llm_2023_code.csv.gz"), beside("traces/vidur_splitwise_code.csv.gz"))
    else {
        return;
    };
    let read = |path: &Path| read(path, None, &Columns::default(), &ReadOptions::default()).unwrap();
    let (azure, vidur) = (read(&azure), read(&vidur));
    assert_eq!((&azure.input_tokens, &azure.output_tokens), (&vidur.input_tokens, &vidur.output_tokens));
    let pairs = azure.arrivals_ps.as_ref().unwrap().iter().zip(vidur.arrivals_ps.as_ref().unwrap());
    assert!(
        pairs.clone().all(|(a, b)| a.abs_diff(*b) <= 1_000_000),
        "{:?}",
        pairs.max_by_key(|(a, b)| a.abs_diff(**b))
    );
}
