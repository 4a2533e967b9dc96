//! What one block does.

/// What one block does; the same fields as `Job` in `lora.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Job {
    /// Device address of the adapter.
    pub weights: u64,
    /// First row.
    pub row: u32,
    /// Rows; zero for a block with nothing to do.
    pub rows: u32,
    /// Rank of the adapter.
    pub rank: u32,
    /// Index of the projection in its site.
    pub projection: u32,
    /// First input tile of this member.
    pub k_tile: u32,
    /// Input tiles of this member.
    pub k_tiles: u32,
    /// First output tile of this member.
    pub column_tile: u32,
    /// Output tiles of this member.
    pub column_tiles: u32,
    /// Which member of its group.
    pub member: u32,
    /// Members of the group.
    pub members: u32,
    /// The group's first inbox cell.
    pub inbox: u32,
    /// What v·B is multiplied by.
    pub scale: f32,
}

impl Job {
    /// Size in device memory.
    pub const BYTES: usize = 64;

    /// The bytes that the kernel reads.
    pub fn to_bytes(self) -> [u8; Job::BYTES] {
        let mut bytes = [0; Job::BYTES];
        bytes[..8].copy_from_slice(&self.weights.to_le_bytes());
        let words = [
            self.row,
            self.rows,
            self.rank,
            self.projection,
            self.k_tile,
            self.k_tiles,
            self.column_tile,
            self.column_tiles,
            self.member,
            self.members,
            self.inbox,
            self.scale.to_bits(),
        ];
        for (slot, word) in bytes[8..].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}
