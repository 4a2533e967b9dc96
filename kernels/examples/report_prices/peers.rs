//! What public implementations took at the same points.

/// The published comparison, a line a point and kernel.
pub(crate) struct Peers {
    columns: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Peers {
    pub(crate) fn read(table: &str) -> Peers {
        let mut lines = table.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        Peers { columns: lines.next().unwrap_or_default(), lines: lines.collect() }
    }

    /// Microseconds in a column, if it was measured there.
    pub(crate) fn us(&self, key: &[String; 7], column: &str) -> Option<f64> {
        let at = self.columns.iter().position(|name| name == column)?;
        let line = self.lines.iter().find(|line| line.get(..7) == Some(&key[..]))?;
        line.get(at)?.parse().ok()
    }
}
