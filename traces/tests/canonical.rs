//! The canonical table survives being written and read, in every form.

use std::sync::Arc;

use aril_traces::{Columns, Names, ReadOptions, Table, read, write};
use proptest::prelude::*;

use crate::given::build;

const KINDS: [&str; 7] = ["t.csv", "t.csv.gz", "t.csv.zst", "t.jsonl", "t.jsonl.gz", "t.jsonl.zst", "t.parquet"];

fn again(table: &Table, name: &str) -> Table {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path, table).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something unfinished is left");
    read(&path, None, &Columns::default(), &ReadOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Any table: names with quotes, commas, line breaks and markup in them, holes, exact picoseconds, large hashes.
fn tables() -> impl Strategy<Value = Table> {
    let row = (0_u64..1_000_000_000_000_000, 1_u32..=u32::MAX, 1_u32..1_000_000, 0_u32..4, 0_u32..4, 0_u32..3);
    let prefix = proptest::collection::vec(any::<u64>(), 1..4);
    let rows = proptest::collection::vec((row, proptest::option::of(prefix)), 1..30);
    (rows, "[a-z\"',<>&é;]{1,8}[a-z\n]{0,2}[a-z]").prop_map(|(rows, name)| {
        let mut at = 0;
        let mut table = Table::default();
        let (mut arrivals, mut caps, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tenants, mut adapters) = (Vec::new(), Vec::new());
        for ((gap, input, output, tenant, adapter, cap), prefix) in rows {
            at += gap;
            arrivals.push(at);
            table.input_tokens.push(input);
            table.output_tokens.push(output);
            caps.push(if cap == 0 { u32::MAX } else { output + cap });
            tenants.push((tenant > 0).then(|| format!("{name}{tenant}")));
            adapters.push((adapter > 0).then(|| format!("{name}-{adapter}")));
            prefixes.push(prefix.map(Arc::from));
        }
        table.arrivals_ps = Some(arrivals);
        table.max_tokens = Some(caps);
        table.prefixes = Some(prefixes);
        table.tenants = Some(names(&tenants));
        let adapters = names(&adapters);
        table.ranks = (0..adapters.names.len() as u32).map(|i| 8 << i).collect();
        table.adapters = Some(adapters);
        table
    })
}

/// A column of names in order of first appearance, as a reader makes it.
fn names(column: &[Option<String>]) -> Names {
    let mut result = Names::default();
    for name in column {
        result.rows.push(match name {
            None => Names::NONE,
            Some(name) => {
                let known = result.names.iter().position(|other| other == name);
                known.unwrap_or_else(|| {
                    result.names.push(name.clone());
                    result.names.len() - 1
                }) as u32
            }
        });
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_table_is_read_as_it_was_written(table in tables()) {
        for kind in KINDS {
            prop_assert_eq!(&again(&table, kind), &table, "{}", kind);
        }
    }
}

#[test]
fn a_trace_without_arrivals_stays_one() {
    let table = Table { input_tokens: vec![5, 6], output_tokens: vec![1, 2], ..Table::default() };
    for kind in KINDS {
        assert_eq!(again(&table, kind), table, "{kind}");
    }
}

#[test]
fn a_replayed_workload_can_be_written_and_replayed() {
    let workload = build(
        "trace = \"azure-llm-2023-code\"\nwindow.duration = \"5m\"\npopularity.zipf = { s = 1.0, adapters = 20 }\nranks = { 8 = 0.5, 32 = 0.5 }",
    );
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let path = folder.path().join(kind);
        write(&path, &workload.table()).unwrap();
        let replayed = build(&format!("trace = {:?}", path.to_str().unwrap()));
        for (a, b) in workload.arrivals().zip(replayed.arrivals()) {
            let adapter = |workload: &aril_traces::Workload, id: Option<aril_sim::workload::AdapterId>| {
                id.map(|id| {
                    (workload.catalog.adapters[id.index()].name.clone(), workload.catalog.adapters[id.index()].rank)
                })
            };
            assert_eq!(
                (a.request.arrival, a.request.prompt_tokens, a.outcome),
                (b.request.arrival, b.request.prompt_tokens, b.outcome)
            );
            assert_eq!(adapter(&workload, a.request.adapter), adapter(&replayed, b.request.adapter));
        }
        assert_eq!(workload.len_hint(), replayed.len_hint());
    }
}

#[test]
fn a_name_that_says_no_form_is_refused() {
    let table = Table { input_tokens: vec![5], output_tokens: vec![1], ..Table::default() };
    let folder = tempfile::tempdir().unwrap();
    for name in ["t", "t.txt", "t.parquet.gz", "t.gz"] {
        let error = write(&folder.path().join(name), &table).unwrap_err().to_string();
        assert!(error.contains("does not say how"), "{error}");
    }
    assert!(write(&folder.path().join("no/such/folder/t.csv"), &table).is_err());
}
