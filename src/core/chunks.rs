//! A vector whose content a cut can take in the time it takes to count its chunks.
//!
//! Elements lie in chunks. A cut does not copy them: it shares each chunk with the snapshot, and whoever writes the
//! snapshot down does so on another thread. The first change to a chunk afterwards takes it back if the snapshot is
//! written by then, and copies it if not. A chunk that nobody has changed is shared again as it is, so that who writes
//! checkpoints can see by the address that there is nothing to write.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{Piece, StateReader, StateWriter};
use crate::error::{Error, Result};

/// Elements of one chunk, unless a container says otherwise: what is copied, and written, for one that has changed.
pub const CHUNK: usize = 32;

/// What can be an element: it can be copied while a snapshot is written, and takes at least one byte there.
pub trait Element: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static> Element for T {}

/// State by index, mostly by the id of a key, in chunks of `N` (a power of two). To be saved and loaded with
/// [`StateWriter::chunks`] and [`Chunks::load`].
#[derive(Debug)]
pub struct Chunks<T, const N: usize = CHUNK> {
    /// All but the last are full.
    chunks: Vec<Chunk<T>>,
    len: usize,
}

#[derive(Debug)]
enum Chunk<T> {
    Own(Vec<T>),
    /// A snapshot has it too, or had it.
    Shared(Arc<Frozen<T>>),
}

/// A chunk at the moment of a cut.
#[derive(Debug)]
struct Frozen<T>(Vec<T>);

impl<T: Element> Piece for Frozen<T> {
    fn write(&self, state: &mut StateWriter) {
        self.0.iter().for_each(|element| state.value(element));
    }
}

impl<T> Chunk<T> {
    #[inline]
    fn elements(&self) -> &[T] {
        match self {
            Self::Own(elements) => elements,
            Self::Shared(frozen) => &frozen.0,
        }
    }
}

impl<T: Clone> Chunk<T> {
    #[inline]
    fn elements_mut(&mut self) -> &mut Vec<T> {
        if matches!(self, Self::Shared(_)) {
            self.take_back();
        }
        match self {
            Self::Own(elements) => elements,
            Self::Shared(_) => unreachable!("it was taken back"),
        }
    }

    #[cold]
    fn take_back(&mut self) {
        if let Self::Shared(frozen) = std::mem::replace(self, Self::Own(Vec::new())) {
            *self = Self::Own(match Arc::try_unwrap(frozen) {
                Ok(Frozen(elements)) => elements,
                Err(frozen) => frozen.0.clone(),
            });
        }
    }
}

impl<T, const N: usize> Default for Chunks<T, N> {
    fn default() -> Self {
        const { assert!(N.is_power_of_two(), "elements are found by shifting and masking") };
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Element, const N: usize> Chunks<T, N> {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An element by its index.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / N)?.elements().get(index % N)
    }

    /// An element by its index, to change it: its chunk counts as changed from now on.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / N)?.elements_mut().get_mut(index % N)
    }

    /// Appends an element.
    pub fn push(&mut self, element: T) {
        if self.len.is_multiple_of(N) {
            self.chunks.push(Chunk::Own(Vec::new()));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.elements_mut().push(element);
            self.len += 1;
        }
    }

    /// Takes the last element out.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.chunks.last_mut()?.elements_mut();
        let element = last.pop()?;
        if last.is_empty() {
            self.chunks.pop();
        }
        self.len -= 1;
        Some(element)
    }

    /// Makes it at least this long, with default elements.
    pub fn grow(&mut self, len: usize) {
        if self.len >= len {
            return;
        }
        if let Some(last) = self.chunks.last_mut() {
            let wanted = N.min(len - (self.len - 1) / N * N);
            last.elements_mut().resize_with(wanted, T::default);
        }
        let full = self.chunks.len() * N;
        for start in (full..len).step_by(N) {
            let mut elements = Vec::new();
            elements.resize_with(N.min(len - start), T::default);
            self.chunks.push(Chunk::Own(elements));
        }
        self.len = len;
    }

    /// All elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(Chunk::elements)
    }

    /// Shares all chunks with a snapshot.
    pub(super) fn freeze(&mut self) -> impl Iterator<Item = Arc<dyn Piece>> {
        self.chunks.iter_mut().map(|chunk| {
            if let Chunk::Own(elements) = chunk {
                *chunk = Chunk::Shared(Arc::new(Frozen(std::mem::take(elements))));
            }
            match chunk {
                Chunk::Shared(frozen) => Arc::clone(frozen) as Arc<dyn Piece>,
                Chunk::Own(_) => unreachable!("it was shared"),
            }
        })
    }

    /// Takes back what [`StateWriter::chunks`] wrote.
    ///
    /// # Errors
    /// If the state is damaged.
    pub fn load(state: &mut StateReader<'_>) -> Result<Self> {
        let len: u64 = state.value()?;
        // An element takes at least a byte: whatever the length claims, no more is read than is there.
        let len = usize::try_from(len).ok().filter(|len| *len <= state.rest_bytes());
        let len = len.ok_or_else(|| Error::state("saved state is cut short"))?;
        let mut chunks = Self::new();
        for _ in 0..len {
            chunks.push(state.value()?);
        }
        Ok(chunks)
    }
}

impl<T: Element, const N: usize> Index<usize> for Chunks<T, N> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index / N].elements()[index % N]
    }
}

impl<T: Element, const N: usize> IndexMut<usize> for Chunks<T, N> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / N].elements_mut()[index % N]
    }
}

impl<T: Element, const N: usize> FromIterator<T> for Chunks<T, N> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut chunks = Self::new();
        elements.into_iter().for_each(|element| chunks.push(element));
        chunks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::state::State;
    use super::*;

    fn cut<const N: usize>(chunks: &mut Chunks<u32, N>) -> State {
        let mut writer = StateWriter::new();
        writer.chunks("numbers", "", chunks);
        writer.freeze().unwrap()
    }

    fn read<const N: usize>(state: &State) -> Vec<u32> {
        let bytes = state.to_bytes().unwrap();
        let mut reader = StateReader::new(&bytes);
        let chunks = Chunks::<u32, N>::load(&mut reader).unwrap();
        reader.finish().unwrap();
        chunks.iter().copied().collect()
    }

    fn pieces(state: &State) -> Vec<*const ()> {
        state.pieces().map(|piece| Arc::as_ptr(piece).cast()).collect()
    }

    proptest! {
        /// Against a plain vector: any change, any number of cuts, some of them still held, some of them let go.
        #[test]
        fn it_is_a_vector_and_a_cut_holds_what_was_there(
            steps in prop::collection::vec((0u8..6, 0usize..40, any::<u32>()), 1..60)
        ) {
            let (mut chunks, mut plain) = (Chunks::<u32, 4>::new(), Vec::new());
            let mut held: Vec<(State, Vec<u32>)> = Vec::new();
            for (step, at, value) in steps {
                match step {
                    0 => {
                        chunks.push(value);
                        plain.push(value);
                    }
                    1 => prop_assert_eq!(chunks.pop(), plain.pop()),
                    2 => {
                        chunks.grow(at);
                        plain.resize(plain.len().max(at), 0);
                    }
                    3 => {
                        let (one, other) = (chunks.get_mut(at), plain.get_mut(at));
                        prop_assert_eq!(&one, &other);
                        if let (Some(one), Some(other)) = (one, other) {
                            (*one, *other) = (value, value);
                        }
                    }
                    4 => held.push((cut(&mut chunks), plain.clone())),
                    _ => _ = held.pop(),
                }
                prop_assert_eq!(chunks.iter().copied().collect::<Vec<_>>(), &plain[..]);
                prop_assert_eq!(chunks.len(), plain.len());
                prop_assert_eq!((chunks.get(at), chunks.is_empty()), (plain.get(at), plain.is_empty()));
            }
            for (state, expected) in &held {
                prop_assert_eq!(&read::<4>(state), expected);
            }
        }
    }

    #[test]
    fn only_what_was_changed_is_another_piece_and_nothing_is_copied_once_the_snapshot_is_gone() {
        let mut chunks: Chunks<u32, 4> = (0..10).collect();
        let first = cut(&mut chunks);
        assert_eq!(pieces(&first), pieces(&cut(&mut chunks)), "nothing has changed");
        chunks[5] = 50;
        let second = cut(&mut chunks);
        let same: Vec<bool> =
            pieces(&first).iter().zip(pieces(&second)).map(|(one, other)| *one == other).collect();
        assert_eq!(same, [true, false, true]);
        assert_eq!(read::<4>(&first), (0..10).collect::<Vec<_>>());
        drop((first, second));
        let before: *const u32 = &chunks[0];
        chunks[0] = 7;
        assert_eq!(before, &raw const chunks[0], "taken back without a copy");
    }

    #[test]
    fn a_length_that_is_not_there_is_no_allocation() {
        let mut writer = StateWriter::new();
        writer.value(&u64::MAX);
        writer.value(&1u32);
        let bytes = writer.finish().unwrap();
        assert!(Chunks::<u32>::load(&mut StateReader::new(&bytes)).is_err());
    }
}
