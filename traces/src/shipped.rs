//! Traces that are part of the program, so that their names work from anywhere. Their sources and licences are in
//! `data/SOURCES.md`.

use crate::error::TraceError;
use crate::format::{Columns, Format};
use crate::input::Source;
use crate::read::{ReadOptions, read_source};
use crate::table::Table;

/// A trace that is part of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// What `trace = …` calls it.
    pub name: &'static str,
    /// The file's name under `traces/data`.
    pub file: &'static str,
    /// The file's bytes, compressed as they are there.
    pub bytes: &'static [u8],
    /// Where it is from.
    pub source: &'static str,
    /// Under which licence, with whom to credit.
    pub licence: &'static str,
    /// What it is, and what was cut.
    pub description: &'static str,
    /// Its requests; for ServeGen, its clients.
    pub rows: u64,
    pub(crate) format: Format,
}

macro_rules! shipped {
    ($({ $name:literal, $file:literal, $format:ident, $rows:literal, $licence:literal, $source:literal, $description:literal })*) => {
        &[$(Shipped {
            name: $name,
            file: $file,
            bytes: include_bytes!(concat!("../data/", $file)),
            source: $source,
            licence: $licence,
            description: $description,
            rows: $rows,
            format: Format::$format,
        }),*]
    };
}

const SHIPPED: &[Shipped] = shipped![
    { "azure-llm-2023-conv", "azure_llm_2023_conv.csv.gz", Azure, 15606,
      "CC-BY-4.0, Azure Public Dataset, Microsoft; cite Patel et al., Splitwise, ISCA 2024",
      "https://github.com/Azure/AzurePublicDataset, data/AzureLLMInferenceTrace_conv.csv",
      "conversations on an Azure LLM service, 2023-11-16 18:15 to 19:00; arrivals and lengths, no tenants, no adapters" }
    { "azure-llm-2023-code", "azure_llm_2023_code.csv.gz", Azure, 7717,
      "CC-BY-4.0, Azure Public Dataset, Microsoft; cite Patel et al., Splitwise, ISCA 2024",
      "https://github.com/Azure/AzurePublicDataset, data/AzureLLMInferenceTrace_code.csv",
      "code completions on an Azure LLM service, 2023-11-16 18:17 to 19:00, in bursts; arrivals and lengths, no tenants, no adapters" }
    { "punica-textgen-1024", "punica_textgen_1024.csv.gz", PunicaTextgen, 1024,
      "facts computed from the rules of an Apache-2.0 program; credit Punica, Chen et al., MLSys 2024",
      "https://github.com/punica-ai/punica, benchmarks/, seed 0xABCDABCD987",
      "the 1,024 requests of Punica's text generation benchmark in queue order; adapters under four popularities, to be chosen by columns.adapter" }
    { "mooncake-conversation-5min", "mooncake_conversation_0-5min.jsonl.gz", Mooncake, 918,
      "Apache-2.0, Mooncake authors; sliced by time and recompressed; cite Qin et al., Mooncake, FAST 2025",
      "https://github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl",
      "five minutes of long conversations on Kimi; arrivals in ticks of 3 s, lengths, hashes of 512-token blocks; no tenants, no adapters" }
    { "ragpulse-day", "ragpulse_day0.jsonl.gz", Ragpulse, 1552,
      "MIT, (c) 2025 zhengchao wang; sliced by time and recompressed",
      "https://github.com/flashserve/RAGPulse, data/0_trace.jsonl",
      "the first day of each of two weeks of a university's question answering, one over the other; arrivals, lengths, hashes of the prompt's parts" }
    { "vidur-arxiv-lengths", "vidur_arxiv_lengths.csv.gz", Vidur, 8000,
      "MIT, (c) Microsoft Corporation; cut and recompressed",
      "https://github.com/microsoft/vidur, data/processed_traces/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
      "lengths of summaries of papers, with the Llama 2 tokenizer; no arrivals" }
    { "servegen-m-small-4h", "servegen_m-small_8h-12h.tar.zst", Servegen, 43,
      "Apache-2.0, Alibaba; sliced by time and recompressed; cite Xiang et al., ServeGen",
      "https://github.com/alibaba/ServeGen, data/language/m-small/",
      "rates and length histograms of 43 clients of a small model, 08:00 to 12:00 of the first day; not requests" }
];

impl Shipped {
    /// Its requests as a table.
    ///
    /// # Errors
    /// ServeGen's samples hold no requests: they are drawn by a workload.
    pub fn read(&self) -> Result<Table, TraceError> {
        self.read_with(&Columns::default(), &ReadOptions::default())
    }

    /// As [`Shipped::read`], with other columns or options than its format's.
    ///
    /// # Errors
    /// Columns that it has not; ServeGen's samples hold no requests.
    pub fn read_with(&self, columns: &Columns, options: &ReadOptions) -> Result<Table, TraceError> {
        read_source(&Source::shipped(self.name, self.bytes), Some(self.format), columns, options)
    }

    /// Does it list requests? ServeGen's samples are drawn from.
    pub fn lists_requests(&self) -> bool {
        self.format != Format::Servegen
    }
}

/// The traces that are part of the program.
pub fn shipped() -> &'static [Shipped] {
    SHIPPED
}

/// The shipped trace of that name.
pub(crate) fn find(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name)
}
