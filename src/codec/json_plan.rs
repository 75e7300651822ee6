//! The keys that a JSON decoder looks for, laid out for matching: tries of objects, flattened. Pure.

use std::collections::BTreeMap;

use super::fields::{RowFormat, Target};
use super::number::load8;
use super::text::escape_json;
use crate::error::{Error, Result};

/// What to do with the value of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// It is the value of one slot.
    One(Target),
    /// It is the value of the targets `start..end` of the plan.
    Many { start: u16, end: u16 },
    /// It is an object with keys of this node.
    Enter(u16),
    /// It is the array of records.
    Records,
}

/// A key of an object.
#[derive(Debug)]
pub(super) struct Entry {
    /// `"key":` as a writer without needless escapes and spaces puts it.
    pattern: Box<[u8]>,
    /// The first eight bytes of the pattern and which bits of them count.
    head: u64,
    mask: u64,
    /// The last eight bytes of a pattern that is longer than eight.
    tail: u64,
    key: Box<[u8]>,
    pub(super) action: Action,
}

impl Entry {
    fn new(key: &str, action: Action) -> Self {
        let mut pattern = vec![b'"'];
        escape_json(key, &mut pattern);
        pattern.extend_from_slice(b"\":");
        let bits = 8 * pattern.len().min(8);
        let mask = u64::MAX >> (64 - bits);
        let tail = load8(&pattern, pattern.len().saturating_sub(8));
        let head = load8(&pattern, 0) & mask;
        Self { head, mask, tail, key: key.as_bytes().into(), pattern: pattern.into(), action }
    }

    /// The length of `"key":` if it stands at `at`.
    #[inline(always)]
    pub(super) fn matches(&self, bytes: &[u8], at: usize) -> Option<usize> {
        if load8(bytes, at) & self.mask != self.head {
            return None;
        }
        let length = self.pattern.len();
        if length <= 8 {
            return Some(length);
        }
        let matched = load8(bytes, at + length - 8) == self.tail
            && (length <= 16 || bytes.get(at + 8..at + length) == self.pattern.get(8..));
        matched.then_some(length)
    }
}

/// The keys of one object.
#[derive(Debug)]
struct Node {
    /// Its entries are `start..end` of the plan's, in the order of their keys.
    start: u16,
    end: u16,
    /// Bit *n* is set if a key has *n* bytes (63 stands for all longer ones): most foreign keys fail here.
    lengths: u64,
    /// The same for the first byte, modulo 64.
    first_bytes: u64,
}

/// All objects that hold a wanted value.
#[derive(Debug)]
pub(super) struct Plan {
    nodes: Vec<Node>,
    pub(super) entries: Vec<Entry>,
    pub(super) targets: Vec<Target>,
    /// The node of the message's object.
    pub(super) message: u16,
    /// The node of a record, if records stand in an array within the message.
    pub(super) record: Option<u16>,
}

/// A trie while it is built.
#[derive(Default)]
struct Tree {
    children: BTreeMap<String, Tree>,
    targets: Vec<Target>,
    records: bool,
}

impl Tree {
    fn insert(&mut self, path: &[String]) -> &mut Tree {
        path.iter().fold(self, |tree, key| tree.children.entry(key.clone()).or_default())
    }
}

impl Plan {
    /// A plan for the fields, each looked for in the record and in the message around it. `records` is the path
    /// of the array of records; empty: the message is the record.
    pub(super) fn new(format: &RowFormat, records: &[String]) -> Result<Self> {
        let mut plan =
            Self { nodes: Vec::new(), entries: Vec::new(), targets: Vec::new(), message: 0, record: None };
        let mut tree = Tree::default();
        for (path, target) in format.targets() {
            tree.insert(path).targets.push(target);
        }
        if !records.is_empty() {
            plan.record = Some(plan.flatten(&tree, &mut Vec::new())?);
            tree.insert(records).records = true;
        }
        plan.message = plan.flatten(&tree, &mut Vec::new())?;
        Ok(plan)
    }

    /// Adds the objects of the tree, the inner ones first. The depth is bounded by the paths' length.
    fn flatten(&mut self, tree: &Tree, path: &mut Vec<String>) -> Result<u16> {
        let mut entries = Vec::with_capacity(tree.children.len());
        let (mut lengths, mut first_bytes) = (0, 0);
        for (key, child) in &tree.children {
            path.push(key.clone());
            let action = self.action(child, path)?;
            path.pop();
            lengths |= length_bit(key.len());
            first_bytes |= first_bit(key.as_bytes());
            entries.push(Entry::new(key, action));
        }
        let start = self.entries.len();
        self.entries.append(&mut entries);
        let node = self.nodes.len();
        let (Ok(start), Ok(end), Ok(node)) =
            (u16::try_from(start), u16::try_from(self.entries.len()), u16::try_from(node))
        else {
            return Err(Error::config("the paths of the fields have more than 65,535 keys in all"));
        };
        self.nodes.push(Node { start, end, lengths, first_bytes });
        Ok(node)
    }

    fn action(&mut self, tree: &Tree, path: &mut Vec<String>) -> Result<Action> {
        let leaf = !tree.targets.is_empty();
        if usize::from(leaf) + usize::from(tree.records) + usize::from(!tree.children.is_empty()) > 1 {
            let path = path.join(".");
            return Err(Error::config(format!(
                "\"{path}\" is asked for as a value and as an object or array with fields in it; it can be one only"
            )));
        }
        if tree.records {
            return Ok(Action::Records);
        }
        match tree.targets.as_slice() {
            [] => Ok(Action::Enter(self.flatten(tree, path)?)),
            [target] => Ok(Action::One(*target)),
            targets => {
                // At most FIELDS_MAX + 1 targets in each of two tries: 16 bits hold them.
                let start = self.targets.len() as u16;
                self.targets.extend_from_slice(targets);
                Ok(Action::Many { start, end: self.targets.len() as u16 })
            }
        }
    }

    /// The entry of a key of this object.
    pub(super) fn find(&self, node: u16, key: &[u8]) -> Option<u16> {
        let node = self.nodes.get(usize::from(node))?;
        if node.lengths & length_bit(key.len()) == 0 || node.first_bytes & first_bit(key) == 0 {
            return None;
        }
        let entries = self.entries.get(usize::from(node.start)..usize::from(node.end))?;
        let index = entries.binary_search_by(|entry| entry.key.as_ref().cmp(key)).ok()?;
        Some(node.start + index as u16)
    }

    /// A first guess of which entry follows which: index by entry, or by number of entries + node for the first
    /// key of an object. `u16::MAX` is no guess.
    pub(super) fn guesses(&self) -> Vec<u16> {
        let mut guesses: Vec<u16> = (1..=self.entries.len() as u16).collect();
        for node in &self.nodes {
            if let Some(last) = usize::from(node.end).checked_sub(1).and_then(|last| guesses.get_mut(last)) {
                *last = u16::MAX;
            }
        }
        guesses
            .extend(self.nodes.iter().map(|node| if node.start < node.end { node.start } else { u16::MAX }));
        guesses
    }

    /// Where [`Plan::guesses`] holds the first key of an object of this node.
    #[inline]
    pub(super) fn before_first(&self, node: u16) -> usize {
        self.entries.len() + usize::from(node)
    }
}

#[inline]
fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

#[inline]
fn first_bit(key: &[u8]) -> u64 {
    1 << (key.first().copied().unwrap_or(0) % 64)
}
