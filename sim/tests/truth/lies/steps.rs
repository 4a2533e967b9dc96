//! Lies about the steps of a replica.

use aril_sim::fact::{Fact, Row, Stretch};
use aril_sim::time::Span;
use aril_sim::workload::AdapterId;

use super::Lie;
use super::run::NOBODY;

const PS: Span = Span::from_ps(1);

/// A token was computed.
fn emits(row: &Row) -> bool {
    row.emits
}

pub(super) const LIES: &[Lie] = &[
    Lie {
        what: "a step is told twice",
        named: "two steps of a replica overlap",
        tell: |run, place| matches!(run.at(place).1, Fact::Stretch(_)).then(|| run.twice(place)),
    },
    Lie {
        what: "a step is not told",
        named: " had its last token at ",
        tell: |run, place| {
            // The last chunk of a prompt whose run is cut there is missed by nobody.
            let Fact::Stretch(stretch) = run.at(place).1 else { return None };
            stretch.rows.iter().any(|row| emits(&row)).then(|| run.without(place))
        },
    },
    Lie {
        what: "a step is longer",
        named: "a step takes no time, or is not over",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                let is_over_now = stretch.end() == run.at(place).0;
                stretch.first += PS;
                (is_over_now && !rows.is_empty()).then_some(())
            })
        },
    },
    Lie {
        what: "a replica that is not on takes a step",
        named: "a replica that is not on takes a step",
        tell: |run, place| {
            run.stretch(place, |stretch, _| {
                stretch.replica = run.other(place, stretch.replica, false)?;
                Some(())
            })
        },
    },
    Lie {
        what: "more rows are those of the last step",
        named: "rows are said to be those before",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                stretch.same_rows = rows.len() as u32 + 1;
                Some(())
            })
        },
    },
    Lie {
        what: "one of the same rows begins",
        named: "somebody joins the same rows",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                rows[0].prefill = true;
                (stretch.same_rows > 0).then_some(())
            })
        },
    },
    Lie {
        what: "a step of nobody",
        named: " rows in a step",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                (stretch.same_rows, stretch.decode_context_sum) = (0, 0);
                rows.clear();
                Some(())
            })
        },
    },
    Lie {
        what: "the rows of a step over and over",
        named: " rows in a step",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                *rows =
                    rows.repeat(run.case.scenario.settings.replicas[stretch.replica.index()].max_num_seqs as usize + 1);
                Some(())
            })
        },
    },
    Lie {
        what: "more tokens than fit a step",
        named: " tokens in a step",
        tell: |run, place| {
            run.row(place, |row| {
                row.tokens += 100_000;
                Some(())
            })
        },
    },
    Lie {
        what: "each row has another adapter",
        named: " adapters in a step",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                (0..).zip(rows.iter_mut()).for_each(|(id, row)| row.adapter = Some(AdapterId(id)));
                (rows.len() as u32 > run.case.scenario.settings.replicas[stretch.replica.index()].max_loras)
                    .then_some(())
            })
        },
    },
    Lie {
        what: "segments of adapters that nobody has",
        named: " segments are told",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                stretch.segments = rows.len() as u32 + 2;
                Some(())
            })
        },
    },
    Lie {
        what: "a step waits longer for its adapters",
        named: "and its adapters are there at",
        tell: |run, place| {
            run.stretch(place, |stretch, _| {
                (stretch.stall, stretch.first) = (stretch.stall + PS, stretch.first.saturating_sub(PS));
                (stretch.steps == 1 && !stretch.first.is_zero()).then_some(())
            })
        },
    },
    Lie {
        what: "an adapter is computed with that is nowhere",
        named: "a step computes with adapter",
        tell: |run, place| {
            run.row(place, |row| {
                row.adapter = Some(AdapterId(1_000));
                Some(())
            })
        },
    },
    Lie {
        what: "somebody else is in a step",
        named: "is in a step and does not run there",
        tell: |run, place| {
            run.row(place, |row| {
                row.request = NOBODY;
                Some(())
            })
        },
    },
    Lie {
        what: "a row computes without its adapter",
        named: " has another adapter",
        tell: |run, place| run.row(place, |row| row.adapter.take().map(|_| ())),
    },
    Lie {
        what: "a row had a token when it had none",
        named: " had its last token at ",
        tell: |run, place| {
            let start = run.at(place).0;
            run.row(place, |row| {
                row.previous_token = if row.previous_token.is_none() { Some(start + PS) } else { None };
                Some(())
            })
        },
    },
    Lie {
        what: "a prompt is told as a token, or a token as a prompt",
        named: " has computed ",
        tell: |run, place| {
            run.row(place, |row| {
                row.prefill = !row.prefill;
                Some(())
            })
        },
    },
    Lie {
        what: "a row computes nothing",
        named: " tokens at once",
        tell: |run, place| {
            run.row(place, |row| {
                row.tokens = 0;
                Some(())
            })
        },
    },
    Lie {
        what: "a token's row computes two",
        named: " tokens at once",
        tell: |run, place| {
            run.row(place, |row| {
                row.tokens = 2;
                (!row.prefill).then_some(())
            })
        },
    },
    Lie {
        what: "a prompt takes two steps of half the time",
        named: "a prefill is advanced by more than a step",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                let half = Span::from_ps(stretch.first.as_ps() / 2);
                let halves = half + half == stretch.first && stretch.steps == 1;
                (stretch.first, stretch.steps) = (half, 2);
                (halves && rows.iter().any(|row| row.prefill)).then_some(())
            })
        },
    },
    Lie {
        what: "a prompt has a token more",
        named: "computes more than its prompt",
        tell: |run, place| {
            run.row(place, |row| {
                row.tokens += 1;
                (row.prefill && row.emits).then_some(())
            })
        },
    },
    Lie {
        what: "a part of a prompt emits a token",
        named: "emits in the middle of its prefill",
        tell: |run, place| run.row(place, |row| (row.prefill && !row.emits).then(|| row.emits = true)),
    },
    Lie {
        what: "a row emits no token",
        named: " had its last token at ",
        tell: |run, place| run.row(place, |row| row.emits.then(|| row.emits = false)),
    },
    Lie {
        what: "a row is left out",
        named: " had its last token at ",
        tell: |run, place| {
            run.stretch(place, |stretch, rows| {
                let row = rows.pop()?;
                stretch.same_rows = stretch.same_rows.min(rows.len() as u32);
                stretch.decode_context_sum = u64::MAX;
                (emits(&row) && !rows.is_empty()).then_some(())
            })
        },
    },
    Lie {
        what: "a token less is attended to",
        named: "tokens of context in its first step",
        tell: |run, place| {
            run.stretch(place, |stretch, _| {
                stretch.decode_context_sum = stretch.decode_context_sum.checked_sub(1)?;
                // Batches that are padded attend to more than theirs.
                (!run.case.policies.pads).then_some(())
            })
        },
    },
    Lie {
        what: "one more waits",
        named: " are said to wait",
        tell: |run, place| {
            run.stretch(place, |stretch, _| {
                stretch.waiting += 1;
                Some(())
            })
        },
    },
    Lie {
        what: "a block more is used",
        named: " KV blocks are used, ",
        tell: |run, place| {
            run.stretch(place, |stretch: &mut Stretch<'_>, _| {
                stretch.kv_blocks_used += 1;
                Some(())
            })
        },
    },
];
