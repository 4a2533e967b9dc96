//! What is an executor told of a step? Held against the facts, and summed up anew row by row.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::batch::{Batch, BatchShape, Census, Executor, Price, Sag, SegmentSums};
use crate::fact::{Fact, Observer, Tier};
use crate::time::{Span, Time};
use crate::workload::ReplicaId;

/// Sees both sides: what an executor is asked, and what the facts then say of the same GPU.
#[derive(Debug, Default)]
pub(super) struct Witness(RefCell<BTreeMap<ReplicaId, Gpu>>);

/// What the facts say of a GPU.
#[derive(Debug, Default)]
struct Gpu {
    computed_until: Time,
    sag: Sag,
    /// Copies from host memory that are under way.
    copies: u32,
    /// Of the step that was asked for and is not told yet: how long the GPU is said to have rested, and how far its clocks will have sagged.
    asked: Option<(Span, Sag)>,
}

impl Witness {
    /// The same executor, under these eyes.
    pub(super) fn of<'a, E: Executor + 'a>(&'a self, executor: E) -> impl Executor + 'a {
        Seen { executor, witness: self }
    }
}

impl Observer for &Witness {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        let mut gpus = self.0.borrow_mut();
        let stretch = match fact {
            Fact::Stretch(stretch) => stretch,
            Fact::LoadStarted { replica, from: Tier::Host, .. } => {
                gpus.entry(*replica).or_default().copies += 1;
                return;
            }
            Fact::LoadDone { replica, from: Tier::Host, .. } => {
                gpus.entry(*replica).or_default().copies -= 1;
                return;
            }
            _ => return,
        };
        let gpu = gpus.get_mut(&stretch.replica).expect("a step that was asked for");
        // Else it is the rest of a stretch that was told in parts.
        if let Some((rested, sag)) = gpu.asked.take() {
            let rests = (stretch.start + stretch.stall).since(gpu.computed_until);
            assert_eq!(rested, rests, "how long {:?} is said to have rested", stretch.replica);
            gpu.sag = sag;
        }
        gpu.computed_until = stretch.end();
    }
}

struct Seen<'a, E> {
    executor: E,
    witness: &'a Witness,
}

impl<E: Executor> Executor for Seen<'_, E> {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let price = self.executor.run(batch);
        let mut gpus = self.witness.0.borrow_mut();
        let gpu = gpus.entry(batch.replica).or_default();
        assert_eq!(batch.shape.sag, gpu.sag, "how far the clocks of {:?} are said to have sagged", batch.replica);
        let copies = gpu.copies > 0;
        assert_eq!(batch.shape.copies_in_flight, copies, "are adapters said to be copied to {:?}?", batch.replica);
        gpu.asked = Some((batch.shape.rested, price.sag));
        price
    }
}

/// Believes no sum that the engine keeps: it looks at every row and every segment.
#[derive(Clone, Debug)]
pub(super) struct Naive<E>(pub(super) E);

impl<E: Executor> Executor for Naive<E> {
    fn run(&mut self, batch: &Batch<'_>) -> Price {
        let BatchShape { decode_contexts, segments, .. } = batch.shape;
        let shape = BatchShape {
            decode_context_sum: decode_contexts.iter().copied().map(u64::from).sum(),
            decode_context_max: decode_contexts.iter().copied().max().unwrap_or(0),
            segment_sums: SegmentSums::of(segments),
            census: Some(&Census::of(segments)),
            ..batch.shape
        };
        self.0.run(&Batch { shape, ..*batch })
    }
}
