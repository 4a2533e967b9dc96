//! A prompt cut into tiles of its rows, and which of all tiles is the nth.

use super::Tiled;

/// To so many keys a tile among many is looked for.
pub(super) const GRID: f64 = 16.0;

/// A prompt as tiles: whole ones, each longer by its rows than the one before, and one more that is partly filled.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) whole: u64,
    pub(super) rows: f64,
    pub(super) prefix: f64,
    pub(super) start: f64,
    /// Keys of a tile of keys.
    tile: f64,
    /// Weighted keys of the partly filled one; below zero without any.
    part: f64,
}

impl Cut {
    pub(super) const NONE: Cut = Cut { whole: 0, rows: 1.0, prefix: 0.0, start: 0.0, tile: 1.0, part: -1.0 };

    /// The only one, of which there is one at least.
    pub(super) fn first(mut parts: impl Iterator<Item = Cut>) -> Cut {
        parts.next().expect("it was counted")
    }

    pub(super) fn of(chunk: u32, prefix: u32, rows: u32, tiled: &Tiled) -> Cut {
        let rest = chunk % rows;
        let weight = tiled.weight(rest, rows);
        let tile = tiled.key_tile.max(1);
        let tile = f64::from(tile);
        let keys = ((f64::from(prefix) + f64::from(chunk)) / tile).ceil() * tile;
        Cut {
            whole: u64::from(chunk / rows),
            rows: f64::from(rows),
            prefix: f64::from(prefix),
            start: tiled.start_keys,
            tile,
            part: if rest > 0 { keys * weight + tiled.start_keys } else { -1.0 },
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.whole + u64::from(self.part >= 0.0)
    }

    /// Keys of whole tile `number`, counted from 1.
    pub(super) fn whole_key(&self, number: u64) -> f64 {
        let keys = self.prefix + self.rows * number as f64;
        if self.tile > 1.0 { (keys / self.tile).ceil() * self.tile + self.start } else { keys + self.start }
    }

    pub(super) fn keys(&self) -> f64 {
        let n = self.whole as f64;
        // Tiles of keys are rounded up alike where tiles of rows are as long, and by half of what is between on average.
        let more = if self.tile <= 1.0 {
            0.0
        } else if self.rows >= self.tile {
            (self.prefix / self.tile).ceil() * self.tile - self.prefix
        } else {
            (self.tile - self.rows) / 2.0
        };
        n * (self.prefix + more + self.start) + self.rows * n * (n + 1.0) / 2.0 + self.part.max(0.0)
    }

    /// Keys of the tile at a place, the last of the prompt at 0.
    pub(super) fn place(&self, place: u64) -> f64 {
        match (self.part >= 0.0, place) {
            (true, 0) => self.part,
            (true, place) => self.whole_key(self.whole + 1 - place),
            (false, place) => self.whole_key(self.whole - place),
        }
    }

    /// Tiles with at least so many keys.
    fn at_least(&self, keys: f64) -> u64 {
        // A tile of keys that is begun is walked whole.
        let whole = ((keys - self.start) / self.tile).ceil() * self.tile - self.tile;
        let below = ((whole - self.prefix) / self.rows).floor();
        let whole = self.whole.saturating_sub(below.max(0.0) as u64);
        whole + u64::from(self.part >= keys)
    }
}

/// Keys of the tile at a place among all, the longest at 0, down to the grid: halving powers of two, so that more tiles never give less.
pub(super) fn nth(parts: impl Iterator<Item = Cut> + Clone, place: u64, longest: f64) -> f64 {
    let (mut low, mut step) = (0.0, GRID);
    while step <= longest {
        step *= 2.0;
    }
    while step > GRID {
        step /= 2.0;
        let count: u64 = parts.clone().map(|part| part.at_least(low + step)).sum();
        if count > place {
            low += step;
        }
    }
    low
}
