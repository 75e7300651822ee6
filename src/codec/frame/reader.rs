//! Reading frames one after the other from anything that gives bytes, and going on after damage. It touches
//! nothing but the reader it was given.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use super::super::stage::Dictionary;
use super::head::{Head, Header, is_intact};
use super::{Decoded, FrameDecoder, Limits, MAGIC};
use crate::error::{Error, Result};

/// How many bytes are asked for at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// An iterator over the frames of a stream or file.
///
/// A damaged frame, or bytes between frames that are none, give one error that says where; the iterator then
/// goes on at the next header whose checksum matches. It ends at the end of the bytes, or after an error of the
/// reader itself. It holds one frame at most ([`Limits::frame_bytes_max`]) and one chunk of 64 KiB.
pub struct FrameReader<R> {
    input: R,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame should begin.
    start: usize,
    /// How many bytes of the input lie before the buffer.
    before: u64,
    /// The input has ended, or failed.
    ended: bool,
}

impl<R: Read> FrameReader<R> {
    /// A reader of frames; it buffers by itself.
    pub fn new(input: R) -> Self {
        Self {
            input,
            decoder: FrameDecoder::default(),
            buffer: Vec::new(),
            start: 0,
            before: 0,
            ended: false,
        }
    }

    /// Lets frames use these dictionaries.
    #[must_use]
    pub fn with_dictionaries(mut self, dictionaries: impl IntoIterator<Item = Arc<Dictionary>>) -> Self {
        self.decoder = self.decoder.with_dictionaries(dictionaries);
        self
    }

    /// Sets other limits than the default ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.decoder = self.decoder.with_limits(limits);
        self
    }

    /// The offset in the input of the first byte that has not been used.
    pub fn offset(&self) -> u64 {
        self.before + self.start as u64
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads until at least `wanted` bytes are there or the input has ended.
    fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.rest().len() < wanted && !self.ended {
            self.buffer.drain(..self.start);
            self.before += self.start as u64;
            self.start = 0;
            let len = self.buffer.len();
            self.buffer.resize(len + CHUNK_BYTES, 0);
            let read = self.input.read(&mut self.buffer[len..]);
            self.buffer.truncate(len + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    self.start = self.buffer.len();
                    return Err(Error::io("reading frames", &error));
                }
            }
        }
        Ok(())
    }

    /// Steps over `count` bytes without keeping them.
    fn skip(&mut self, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            self.fill(1)?;
            let step = left.min(self.rest().len());
            if step == 0 {
                break;
            }
            self.start += step;
            left -= step;
        }
        Ok(())
    }

    /// What begins at `start`, with as many bytes read as it takes to tell.
    fn head(&mut self) -> Result<Head> {
        // No header is longer than its length byte can say.
        self.fill(usize::from(u8::MAX))?;
        Ok(Head::find(self.rest()))
    }

    /// Goes to the next header with a matching checksum, or to the end.
    fn resynchronise(&mut self) -> Result<()> {
        let mut first = true;
        loop {
            self.fill(usize::from(u8::MAX))?;
            let from = usize::from(std::mem::take(&mut first)).min(self.rest().len());
            let next = memchr::memchr(MAGIC[0], &self.rest()[from..]);
            self.start = next.map_or(self.buffer.len(), |at| self.start + from + at);
            if self.rest().is_empty() && self.ended {
                return Ok(());
            }
            if next.is_some() {
                if let Head::Here(_) = self.head()? {
                    return Ok(());
                }
                first = true;
            }
        }
    }

    /// Reads the frame whose header is at `start`.
    fn frame(&mut self, header: &Header) -> Result<Decoded> {
        let at = self.offset();
        let placed =
            |error: Error| Error { message: format!("frame at byte {at}: {}", error.message), ..error };
        if let Err(error) = header.check(&self.decoder.limits) {
            // The header is sound, so its length is to be believed.
            self.skip(header.total)?;
            return Err(placed(error));
        }
        self.fill(header.total)?;
        let Some(frame) = self.buffer.get(self.start..self.start + header.total) else {
            let there = self.rest().len();
            self.resynchronise()?;
            return Err(placed(Error::data(format!("cut off: {there} of {} bytes are there", header.total))));
        };
        if is_intact(frame) {
            let decoded = self.decoder.whole(header, frame);
            self.start += header.total;
            return decoded.map_err(placed);
        }
        // If another header, or the end, follows where this frame should end, only its content is damaged. If not,
        // bytes are missing or too many, and the next header is anywhere.
        self.fill(header.total + usize::from(u8::MAX))?;
        let after = &self.rest()[header.total..];
        if after.is_empty() || matches!(Head::find(after), Head::Here(_)) {
            self.start += header.total;
        } else {
            self.resynchronise()?;
        }
        Err(placed(Error::data("damaged: its checksum does not match")))
    }

    fn step(&mut self) -> Result<Option<Decoded>> {
        let at = self.offset();
        let why = match self.head()? {
            _ if self.rest().is_empty() => return Ok(None),
            Head::Here(header) => return self.frame(&header).map(Some),
            Head::Cut => "it ends within its header",
            Head::Absent(why) => why,
        };
        self.resynchronise()?;
        Err(Error::data(format!("{} bytes at byte {at} are not a frame: {why}", self.offset() - at)))
    }
}

impl<R: Read> Iterator for FrameReader<R> {
    type Item = Result<Decoded>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
