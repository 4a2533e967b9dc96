//! Which numbers of groups do the rules (`share.rs`) not tell apart?

use super::{Planned, Sites};

impl Planned {
    /// Numbers of groups of a projection, up to so many that more are the same, each by the least number of them with which every launch has the
    /// same rule, where its largest group has more than twice the bytes of the smallest and not all are prompts.
    pub(super) fn alike(&self, sites: &Sites) -> Vec<u32> {
        let slots = self.multiprocessors;
        // All that is asked then about a launch's groups, which have at most 8 members.
        let asked = |count: u32| {
            let of_members = move |members: u32| {
                let blocks = count * members;
                let halves = [2 * blocks <= slots, blocks < slots, blocks <= slots].map(u32::from);
                [halves.iter().sum(), u32::from(blocks * 4 > slots * 3), u32::from(blocks * 8 > slots * 7)]
            };
            let fills = [(2 * slots / count).min(8), (slots / count).min(8), (slots * 7 / 4 / count).min(3)];
            fills
                .into_iter()
                .chain([count * 8 > slots, count * 3 < slots * 4].map(u32::from))
                .chain((1..=8).flat_map(of_members))
        };
        let of_all = |groups: u32| sites.iter().flatten().flat_map(move |site| asked(groups * site.projections));
        let mut alike = vec![0, 1];
        for groups in 2..=2 * slots + 1 {
            let same = of_all(groups).eq(of_all(groups - 1));
            alike.push(if same { alike[groups as usize - 1] } else { groups });
        }
        alike
    }
}
