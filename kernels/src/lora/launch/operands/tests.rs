//! Right operands and plans pass; each wrong one is refused by its name.

use super::*;
use crate::Element;
use crate::lora::layout::{AdapterLayout, ProjectionShape};
use crate::lora::plan::{Chip, Exchange, Segment, Tuning};
use crate::lora::variant::RowTile;

const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };
const X: Matrix = Matrix { address: 4096, rows: 7, columns: 512, stride: 520 };
const Y: [Matrix; 2] = [
    Matrix { address: 16, rows: 7, columns: 1024, stride: 1024 },
    Matrix { address: 32, rows: 9, columns: 256, stride: 264 },
];
const V: [Intermediate; 2] = [Intermediate { address: 4, rows: 7, stride: 24 }; 2];

fn site(element: Element, inputs: u32, outputs: &[u32]) -> Site {
    let shapes: Vec<_> = outputs.iter().map(|&outputs| ProjectionShape { inputs, outputs }).collect();
    Site::new(element, AdapterLayout::new(&shapes).expect("multiples of 8").places()).expect("few projections")
}

fn usual_site() -> Site {
    site(Element::Bf16, 512, &[1024, 256])
}

/// What the plan here holds: rows up to 7 of ranks up to 24, members that poll.
const TUNING: Tuning = Tuning {
    row_tile: Some(RowTile::Rows8),
    blocks: Some(12),
    exchange: Some(Exchange::Global),
    shared_bytes: Some(90 << 10),
    release: Some(Release::WithSums),
    follows: crate::lora::plan::Follows::Itself,
    short: false,
};

fn plan_of(site: &Site, segments: &[(std::ops::Range<u32>, u32)], tuning: Tuning) -> Plan {
    let segment = |(rows, rank): &(std::ops::Range<u32>, u32)| {
        let (rows, rank) = (rows.clone(), *rank);
        Segment { rows, weights: 4096, rank, scale: 1.0 }
    };
    let segments: Vec<_> = segments.iter().map(segment).collect();
    Plan::new(site, &segments, CHIP, tuning).expect("a valid batch")
}

fn plan() -> Plan {
    plan_of(&usual_site(), &[(0..3, 24), (5..7, 8)], TUNING)
}

fn held() -> Held {
    let plan = plan();
    Held::by(&plan, plan.jobs().len() as u32).expect("as many blocks as jobs")
}

/// That it was refused, with an error of what is wrong and why.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, what_is_wrong: &str, why_it_is: &str) {
    match result {
        Err(Error::Shape { what, why }) => {
            assert!(what == what_is_wrong && why.contains(why_it_is), "{what}: {why}");
        }
        other => panic!("{what_is_wrong} passed, or failed otherwise: {other:?}"),
    }
}

#[test]
fn right_operands_reach_the_kernel() {
    let (held, plan) = (held(), plan());
    let cells = Cells { address: 512, count: plan.inbox_cells() };
    let mut arguments = held.arguments(64, &usual_site(), Some(X), Some(cells)).expect("they fit");
    held.set_outputs(&mut arguments, &Y).expect("they fit");
    held.set_intermediates(&mut arguments, &V).expect("they fit");
    assert_eq!((arguments.jobs, arguments.x, arguments.inbox), (64, 4096, 512));
    assert_eq!((arguments.x_stride, arguments.inputs, arguments.cluster), (520, 512, 0));
    assert_eq!((arguments.job_count, arguments.depth), (plan.jobs().len() as u32, plan.depth()));
    assert_eq!(arguments.release, Release::WithSums as u32);
    for (index, place) in usual_site().places().iter().enumerate() {
        let slot = arguments.projections[index];
        assert_eq!((slot.a_tiles, slot.b_tiles, slot.columns), (place.a_tiles, place.b_tiles, place.shape.outputs));
        assert_eq!((slot.y, slot.y_stride), (Y[index].address, Y[index].stride));
        assert_eq!((slot.v, slot.v_stride), (V[index].address, V[index].stride));
    }
}

/// Matrices that are wrong in one thing each, and the word that says in which.
fn wrong_matrices(right: Matrix) -> [(Matrix, &'static str); 8] {
    [
        (Matrix { rows: 6, ..right }, "rows"),
        (Matrix { columns: right.columns + 8, stride: right.columns + 8, ..right }, "columns"),
        (Matrix { stride: right.columns - 8, ..right }, "stride"),
        (Matrix { stride: right.columns + 4, ..right }, "stride"),
        (Matrix { stride: STRIDE_MAX + 8, ..right }, "has a stride of 268435456 elements"),
        (Matrix { stride: u32::MAX - 7, ..right }, "has a stride of 4294967288 elements"),
        (Matrix { address: 0, ..right }, "address"),
        (Matrix { address: 24, ..right }, "address"),
    ]
}

#[test]
fn an_x_that_does_not_fit_the_plan_is_refused() {
    for (bad, why) in wrong_matrices(X) {
        refused(held().arguments(64, &usual_site(), Some(bad), None), "x", why);
    }
}

#[test]
fn a_y_that_does_not_fit_the_plan_is_refused() {
    let held = held();
    for index in 0..2 {
        for (bad, why) in wrong_matrices(Y[index]) {
            let mut y = Y;
            y[index] = bad;
            let refusal = held.set_outputs(&mut Arguments::default(), &y);
            refused(refusal, &format!("y of projection {index}"), why);
        }
    }
    for y in [&Y[..1], &[Y[0], Y[1], Y[1]], &[]] {
        refused(held.set_outputs(&mut Arguments::default(), y), "y", "matrices for 2 projections");
    }
}

#[test]
fn a_v_that_does_not_fit_the_plan_is_refused() {
    let held = held();
    let right = V[0];
    for index in 0..2 {
        for (bad, why) in [
            (Intermediate { rows: 6, ..right }, "is 6 rows"),
            (Intermediate { stride: 23, ..right }, "× 23"),
            (Intermediate { stride: STRIDE_MAX + 1, ..right }, "has a stride of 268435449 elements"),
            (Intermediate { address: 0, ..right }, "address"),
            (Intermediate { address: 6, ..right }, "address"),
        ] {
            let mut v = V;
            v[index] = bad;
            let refusal = held.set_intermediates(&mut Arguments::default(), &v);
            refused(refusal, &format!("v of projection {index}"), why);
        }
    }
    for v in [&V[..1], &[V[0]; 3], &[]] {
        refused(held.set_intermediates(&mut Arguments::default(), v), "v", "matrices for 2 projections");
    }
}

#[test]
fn an_inbox_with_too_few_cells_and_a_site_of_other_shapes_are_refused() {
    let (held, needed) = (held(), plan().inbox_cells());
    assert!(needed > 0, "members poll");
    let few = Cells { address: 512, count: needed - 1 };
    refused(held.arguments(64, &usual_site(), None, Some(few)), "inbox", "cells");
    for other in [
        site(Element::F16, 512, &[1024, 256]),
        site(Element::Bf16, 520, &[1024, 256]),
        site(Element::Bf16, 512, &[1024, 264]),
        site(Element::Bf16, 512, &[1024]),
    ] {
        refused(held.arguments(64, &other, None, None), "site", "shapes");
    }
}

#[test]
fn a_plan_with_more_jobs_than_blocks_is_refused() {
    let plan = plan();
    let jobs = plan.jobs().len() as u32;
    refused(Held::by(&plan, jobs - 1), "plan", "capacity");
    let clusters = Tuning { exchange: Some(Exchange::Cluster), blocks: Some(16), ..TUNING };
    let plan = plan_of(&usual_site(), &[(0..3, 24), (5..7, 8)], clusters);
    let (jobs, cluster) = (plan.jobs().len() as u32, plan.cluster());
    assert!(cluster > 1);
    assert_eq!(Held::by(&plan, jobs - 1).expect("clusters are whole").capacity, jobs);
    refused(Held::by(&plan, jobs - cluster), "plan", "capacity");
}

#[test]
fn the_longest_strides_reach_the_kernel_and_their_bytes_fit_32_bits() {
    let held = held();
    let far = |matrix| Matrix { stride: STRIDE_MAX, ..matrix };
    let mut arguments = held.arguments(64, &usual_site(), Some(far(X)), None).expect("as far as it goes");
    held.set_outputs(&mut arguments, &Y.map(far)).expect("as far as it goes");
    held.set_intermediates(&mut arguments, &V.map(|v| Intermediate { stride: STRIDE_MAX, ..v })).expect("likewise");
    assert_eq!((arguments.x_stride, arguments.projections[1].y_stride), (STRIDE_MAX, STRIDE_MAX));
    // `8 * row_bytes` in lora_warpgroups.cuh, of rows of 2 bytes an element.
    STRIDE_MAX.checked_mul(2 * 8).expect("it fits");
    assert!((STRIDE_MAX + 8).checked_mul(2 * 8).is_none(), "a longer one would do");
}

#[test]
fn more_blocks_than_a_grid_has_are_refused() {
    let clusters = Tuning { exchange: Some(Exchange::Cluster), blocks: Some(16), ..TUNING };
    for plan in [plan(), plan_of(&usual_site(), &[(0..3, 24), (5..7, 8)], clusters)] {
        for capacity in [u32::MAX, BLOCKS_MAX + 1] {
            refused(Held::by(&plan, capacity), "plan", "blocks, of which a launch has 2147483647 at most");
        }
    }
    assert_eq!(Held::by(&plan(), BLOCKS_MAX).expect("a large grid").capacity, BLOCKS_MAX);
}

#[test]
fn a_plan_may_touch_what_every_launch_so_far_was_given_and_no_more() {
    let mut held = held();
    let tall = |matrix| Matrix { rows: 9, ..matrix };
    let roomy = [Intermediate { rows: 9, stride: 26, ..V[0] }; 2];
    let next = |rows, rank| plan_of(&usual_site(), &[(0..rows, rank)], TUNING);
    // The rest of what differs between the plans is not what is tested here.
    let replace = |held: &mut Held, rows, rank| {
        let next = next(rows, rank);
        (held.shared_bytes, held.depth) = (u32::MAX, next.depth());
        (held.capacity, held.inbox_cells) = (u32::MAX, u32::MAX);
        held.replace(&next)
    };
    replace(&mut held, 500, 200).expect("nothing was launched");
    replace(&mut held, 7, 24).expect("nothing was launched");
    held.arguments(64, &usual_site(), Some(tall(X)), None).expect("it fits");
    replace(&mut held, 9, 200).expect("x has as many rows");
    refused(replace(&mut held, 10, 24), "replacing a plan", "touches 10 rows");
    replace(&mut held, 7, 24).expect("fewer");
    held.set_outputs(&mut Arguments::default(), &[Y[0], Y[1]].map(|y| Matrix { rows: 8, ..y })).expect("they fit");
    refused(replace(&mut held, 9, 24), "replacing a plan", "touches 9 rows");
    held.set_intermediates(&mut Arguments::default(), &roomy).expect("they fit");
    refused(replace(&mut held, 8, 27), "replacing a plan", "rank up to 27");
    held.set_intermediates(&mut Arguments::default(), &[roomy[0], V[1]]).expect("they fit");
    refused(replace(&mut held, 8, 24), "replacing a plan", "touches 8 rows");
    refused(replace(&mut held, 7, 25), "replacing a plan", "rank up to 25");
    replace(&mut held, 6, 23).expect("less than all operands have");
    let short = [Intermediate { stride: 22, ..V[0] }; 2];
    refused(held.set_intermediates(&mut Arguments::default(), &short), "v of projection 0", "rank up to 23");
    refused(
        held.arguments(64, &usual_site(), Some(Matrix { rows: 5, ..X }), None),
        "x",
        "has 5 rows, the plan touches 6",
    );
}

#[test]
fn a_plan_that_a_captured_launch_cannot_run_does_not_replace_another() {
    held().replace(&plan()).expect("the same plan");
    // One thing each that captured launches have, less or other than the plan needs.
    type Change = fn(&mut Held);
    let changes: [(Change, &str, &str); 9] = [
        (|held| held.variant.short = true, "replacing a plan", "it runs as"),
        (|held| held.site = site(Element::Bf16, 512, &[1024, 264]), "replacing a plan", "another site"),
        (|held| held.shared_bytes -= 1, "replacing a plan", "bytes of shared memory"),
        (|held| held.depth += 1, "replacing a plan", "rings of"),
        (|held| held.rows_given = 6.into(), "replacing a plan", "touches 7 rows"),
        (|held| held.v_stride_given = 23.into(), "replacing a plan", "rank up to 24"),
        (|held| held.cluster = 2, "replacing a plan", "clusters"),
        (|held| held.inbox_cells -= 1, "replacing a plan", "inbox cells"),
        (|held| held.capacity -= 1, "plan", "capacity"),
    ];
    for (change, what, why) in changes {
        let mut held = held();
        (held.rows_end, held.rank_max) = (1, 2);
        change(&mut held);
        refused(held.replace(&plan()), what, why);
        assert_eq!((held.rows_end, held.rank_max), (1, 2), "a refused plan leaves a trace: {why}");
    }
}
