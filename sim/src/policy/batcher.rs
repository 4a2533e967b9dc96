//! What does the next step of a replica compute? One rule a file.

mod chunked;
mod fcfs_same_adapter;
mod prefill_first;
mod punica;
mod regroup_by_adapter;
mod s_lora;
mod static_consecutive;

pub use chunked::{Chunked, WhenAdaptersFull};
pub use fcfs_same_adapter::FcfsSameAdapter;
pub use prefill_first::PrefillFirst;
pub use punica::{Fault, Punica};
pub use regroup_by_adapter::{NextAdapter, RegroupByAdapter};
pub use s_lora::SLora;
pub use static_consecutive::StaticConsecutive;

use crate::draft::{Draft, Queued, Refusal};

/// Admits a sequence with the whole of its prompt. A prompt that no step can take whole is begun with what this step
/// has left: otherwise it would wait for ever, and all behind it.
fn admit_whole(draft: &mut Draft<'_>, position: usize, queued: &Queued) -> Result<u32, Refusal> {
    if queued.tokens > draft.settings().max_num_batched_tokens {
        draft.admit_chunk(position, queued.tokens)
    } else {
        draft.admit(position)
    }
}

/// Goes on with the prompts that earlier steps began, in order of admission, each by at most `chunk` tokens.
/// Gives how many prompts are in the step now.
fn continue_prefills(draft: &mut Draft<'_>, chunk: u32) -> u32 {
    let positions: Vec<usize> = draft.prefilling().collect();
    let mut continued = 0;
    for position in positions {
        continued += u32::from(draft.prefill(position, chunk).is_ok());
    }
    continued
}
