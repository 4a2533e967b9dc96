//! A plan's prices: those asked for last, and what the plan decided about them.

use super::super::memory::Memory;
use crate::batch::{BatchShape, Census};
use crate::profile::lora::{Abreast, Classes, Planned, Ready, Sites};

/// A plan, and what it was asked.
///
/// A batch that gains or loses a row has another price, but mostly the same rules: tiles, blocks of a group and blocks of a multiprocessor are
/// whole numbers of few values. What is known of either is what the plan says of the same classes of segments.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    planned: Planned,
    sites: Sites,
    /// Its launches side by side, while anything is remembered.
    abreast: Option<Abreast>,
    prices: Memory<f64>,
    rules: Memory<Ready>,
    /// How often a price was made without a look whether it is known.
    unasked: u64,
    /// The classes of the batch that was asked for last.
    classes: Classes,
    /// Its census and its price, where it had one; and how often it was asked for once more.
    last: Option<(u64, f64)>,
    repeated: u64,
}

/// Beside more decode rows the same prompts have another price nearly always.
const BESIDE_PROMPTS: u32 = 32;

impl Remembered {
    /// Every price is made anew.
    pub(super) fn of(planned: Planned, rows: u32) -> Remembered {
        let sites = planned.compiled(rows);
        Remembered {
            planned,
            sites,
            abreast: None,
            prices: Memory::default(),
            rules: Memory::default(),
            unasked: 0,
            classes: Classes::NONE,
            last: None,
            repeated: 0,
        }
    }

    /// From now on what was asked is remembered.
    pub(super) fn remember(&mut self) {
        self.abreast = Some(self.planned.abreast(&self.sites));
        self.prices.remember();
        self.rules.remember();
    }

    /// From now on nothing is.
    pub(super) fn forget(&mut self) {
        self.abreast = None;
        self.prices.forget();
        self.rules.forget();
        self.last = None;
    }

    /// How many prices were asked for, and how many of them had to be made?
    pub(super) fn asked_and_made(&self) -> (u64, u64) {
        let (asked, made) = self.prices.asked_and_made();
        (asked + self.unasked + self.repeated, made + self.unasked)
    }

    /// Microseconds in each layer.
    pub(super) fn us(&mut self, shape: &BatchShape<'_>) -> f64 {
        let print = shape.census.map(Census::print);
        if let (Some(print), Some((last, us))) = (print, self.last)
            && print == last
        {
            self.repeated += 1;
            return us;
        }
        let Remembered { planned, sites, abreast, prices, rules, unasked, classes, .. } = self;
        match shape.census {
            Some(census) => classes.count(census, shape.segment_sums.ranks.1),
            None => *classes = Classes::of(shape.segments),
        }
        let Some(abreast) = abreast else {
            // The direct way.
            return planned.us_by(sites, &planned.rules(sites, classes), classes).into_iter().sum();
        };
        if classes.is_empty() {
            return 0.0;
        }
        let tiles = abreast.tiles(planned, sites, classes);
        let print_of_rules = abreast.print(classes, tiles);
        let likely = shape.is_decode_only() || shape.decode_rows() <= BESIDE_PROMPTS && classes.are_of_one_rank();
        let print_of_price = (likely && classes.comes_again()).then(|| classes.print_of_price(print_of_rules));
        let us = print_of_price.and_then(|print| prices.find(print)).unwrap_or_else(|| {
            let ready = rules.recall(print_of_rules, || Ready::of(planned, &planned.rules(sites, classes)));
            let us = abreast.price(planned, ready, classes, tiles).into_iter().sum();
            match print_of_price {
                Some(print) => prices.keep(print, us),
                None => {
                    *unasked += 1;
                    us
                }
            }
        });
        if self.rules.remembers() {
            self.last = print.map(|print| (print, us));
        }
        us
    }
}
