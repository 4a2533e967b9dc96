//! A plan's prices: those asked for last, and what the plan decided about them.

use super::super::memory::Memory;
use crate::batch::BatchShape;
use crate::profile::lora::{Classes, Planned, Rules, Sites};

/// A plan, and what it was asked.
///
/// A batch that gains or loses a row has another price, but mostly the same rules: tiles, blocks of a group and blocks of a multiprocessor are
/// whole numbers of few values. What is known of either is what the plan says of the same classes of segments.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    planned: Planned,
    sites: Sites,
    prices: Memory<f64>,
    rules: Memory<Rules>,
    /// The classes of the batch that was asked for last.
    classes: Classes,
}

impl Remembered {
    /// Every price is made anew.
    pub(super) fn of(planned: Planned) -> Remembered {
        let sites = planned.compiled();
        Remembered { planned, sites, prices: Memory::default(), rules: Memory::default(), classes: Classes::NONE }
    }

    /// From now on what was asked is remembered.
    pub(super) fn remember(&mut self) {
        self.prices.remember();
        self.rules.remember();
    }

    /// From now on nothing is.
    pub(super) fn forget(&mut self) {
        self.prices.forget();
        self.rules.forget();
    }

    /// How many prices were asked for, and how many of them had to be made?
    pub(super) fn asked_and_made(&self) -> (u64, u64) {
        self.prices.asked_and_made()
    }

    /// Microseconds in each layer.
    pub(super) fn us(&mut self, shape: &BatchShape<'_>) -> f64 {
        let Remembered { planned, sites, prices, rules, classes } = self;
        match shape.census {
            Some(census) => classes.count(census, shape.segment_sums.ranks.1),
            None => *classes = Classes::of(shape.segments),
        }
        let (rules_print, price_print) = planned.prints(sites, classes);
        prices.recall(price_print, || {
            let rules = rules.recall(rules_print, || planned.rules(sites, classes));
            planned.us_by(sites, &rules, classes).into_iter().sum()
        })
    }
}
