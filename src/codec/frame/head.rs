//! The header of a frame, looked for in foreign bytes. Pure. The layout is described in [`super`].

use super::{CHECKSUM_BYTES, FLAG_DICTIONARY, HEADER_BYTES, Limits, MAGIC, VERSION};
use crate::error::{Error, Result};

/// The shortest header that could hold the fields that all versions have.
const HEADER_BYTES_MIN: usize = 16;

/// Whether the last four bytes are the checksum of those before.
pub(super) fn is_intact(frame: &[u8]) -> bool {
    frame
        .split_last_chunk::<CHECKSUM_BYTES>()
        .is_some_and(|(content, checksum)| crc32fast::hash(content) == u32::from_le_bytes(*checksum))
}

/// What stands in a frame's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    version: u8,
    /// Length of the header.
    pub(super) header: usize,
    pub(super) flags: u8,
    /// Length of the frame.
    pub(super) total: usize,
    pub(super) rows: usize,
}

/// What is at the start of some bytes.
pub(super) enum Head {
    /// A header with a matching checksum, of any version.
    Here(Header),
    /// Perhaps a header; there are too few bytes to tell.
    Cut,
    /// No header.
    Absent(&'static str),
}

impl Head {
    /// Looks at the first bytes of `bytes`; at most 255 of them matter.
    pub(super) fn find(bytes: &[u8]) -> Self {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Self::Absent("it does not begin with the magic bytes");
        }
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES_MIN>() else { return Self::Cut };
        let header = usize::from(fixed[5]);
        if header < HEADER_BYTES_MIN {
            return Self::Absent("its header is too short");
        }
        let Some(bytes) = bytes.get(..header) else { return Self::Cut };
        if !is_intact(bytes) {
            return Self::Absent("its header is damaged");
        }
        let word = |at: usize| {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            word.map_or(0, |word| u32::from_le_bytes(*word) as usize)
        };
        let total = word(8);
        if total < header + CHECKSUM_BYTES {
            return Self::Absent("its length is shorter than its header");
        }
        Self::Here(Header { version: fixed[4], header, flags: fixed[6], total, rows: word(12) })
    }
}

impl Header {
    /// Whether this version can read such a frame, within limits.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        if self.version != VERSION || self.header < HEADER_BYTES {
            let way_out = if self.version < VERSION {
                "decode it with the older program"
            } else {
                "a newer program may read it"
            };
            return Err(Error::data(format!(
                "the frame has the format version {}, this program reads {VERSION}; {way_out}",
                self.version
            )));
        }
        if self.flags & !FLAG_DICTIONARY != 0 {
            return Err(Error::data(format!(
                "the frame requires what this version does not know (flags {:#04x}); a newer program may read it",
                self.flags
            )));
        }
        if self.rows > limits.rows_max {
            return Err(Error::data(format!(
                "the frame has {} rows, over the limit of {}",
                self.rows, limits.rows_max
            )));
        }
        if self.total > limits.frame_bytes_max {
            return Err(Error::data(format!(
                "the frame has {} bytes, over the limit of {}",
                self.total, limits.frame_bytes_max
            )));
        }
        Ok(())
    }
}
