//! How many blocks find room at once where they come in clusters?

use super::Planned;

/// A cluster lies within a part of the chip, which has so many multiprocessors or two more.
const PART: u32 = 16;

impl Planned {
    /// Blocks that find room at once: those of clusters of so many (1: of none), one or two a multiprocessor.
    pub(super) fn places_at_once(&self, cluster: u32, two: bool) -> f64 {
        let (chip, each) = (self.multiprocessors, if two { 2 } else { 1 });
        if !self.dealt || cluster <= 1 {
            return f64::from(chip * each);
        }
        let parts = chip / PART;
        let larger = (chip % PART / 2).min(parts);
        let of_part = |multiprocessors: u32| multiprocessors * each / cluster;
        let clusters = (parts - larger) * of_part(PART) + larger * of_part(PART + 2);
        // One always finds room.
        f64::from(clusters.max(1) * cluster)
    }

    /// Do blocks of such clusters share multiprocessors before all have one? These come in pairs, of which others than powers of two leave
    /// halves.
    pub(super) fn pairs_up(&self, cluster: u32) -> bool {
        self.dealt && !cluster.is_power_of_two()
    }

    /// How much of what memory and cache serve in the shorter time adds to the longer?
    pub(super) fn added(&self) -> f64 {
        if self.dealt { 1.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::launch::tests::planned;
    use super::*;

    #[test]
    fn clusters_that_parts_of_a_chip_do_not_hold_wait() {
        let dealt = Planned { dealt: true, ..planned() };
        // Of eight parts two have 18 multiprocessors.
        for (cluster, two, places) in [
            (1, false, 132.0),
            (2, false, 132.0),
            (3, false, 126.0),
            (6, false, 108.0),
            (6, true, 252.0),
            (16, true, 256.0),
        ] {
            assert_eq!(dealt.places_at_once(cluster, two), places, "{cluster}, {two}");
        }
        let (unknown, small) = (planned(), Planned { multiprocessors: 8, ..dealt.clone() });
        assert_eq!(unknown.places_at_once(6, true), 264.0);
        assert_eq!(small.places_at_once(16, false), 16.0, "one always finds room");
        assert_eq!(
            [1, 2, 3, 4, 6, 8, 16].map(|cluster| dealt.pairs_up(cluster)),
            [false, false, true, false, true, false, false]
        );
        assert!(!unknown.pairs_up(3));
    }
}
