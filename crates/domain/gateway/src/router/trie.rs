//! The paths of one host: a trie of segments, flat, so that a look-up among thousands
//! of routes touches few cache lines.
//!
//! Depth first, literal before parameter before rest, so that the first match is the
//! best. A node is visited at most once, since one way leads to it. Steps are few
//! unless the configuration has many patterns that differ in where they have a
//! parameter (`/a/{x}`, `/{x}/a`, ...), of which all that fit must be tried: never
//! more than the nodes of the trie. `reach` cuts the ways that end too early or late.
//! Made by `grow.rs`.

use http::Method;

use super::conditions::Conditions;
use super::path::PathSegments;
use super::{Chosen, hash};
use crate::view::RequestView;

/// Patterns of one host.
#[derive(Debug)]
pub(crate) struct Trie {
    /// The first is the root; children come after their parents.
    pub(super) nodes: Vec<Node>,
    /// Ways from a node by a literal: open addressing, a power of two, half empty.
    pub(super) literals: Vec<Literal>,
    /// The literals' texts, one after the other.
    pub(super) texts: Vec<u8>,
    /// Matches, node by node: those of patterns that end there, then those that end
    /// there with `{rest*}`; best first.
    pub(super) matches: Vec<Conditions>,
}

#[derive(Debug)]
pub(super) struct Node {
    /// Bit n: n segments more may end in a match below; the highest bit: so many or
    /// more.
    pub(super) reach: u64,
    pub(super) parent: u32,
    /// The literal that leads here, in `texts`.
    pub(super) text: u32,
    pub(super) text_bytes: u32,
    /// The child by a parameter, or [`NOWHERE`].
    pub(super) param: u32,
    /// The first of this node's matches.
    pub(super) matches: u32,
    /// How many of them end here.
    pub(super) here: u32,
    /// How many more end here with `{rest*}`.
    pub(super) rest: u32,
    /// Whether any literal leads on.
    pub(super) has_literals: bool,
}

/// A place in the table of literals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal {
    /// High bits of the hash, to look at few nodes.
    pub(super) tag: u32,
    /// The child, or [`NOWHERE`].
    pub(super) child: u32,
}

pub(super) const NOWHERE: u32 = u32::MAX;
pub(super) const REACH_TOP: usize = 63;

impl Trie {
    /// The best match.
    pub(crate) fn find<V: RequestView>(
        &self,
        path: &PathSegments<'_>,
        request: &V,
    ) -> Option<Chosen> {
        self.walk(0, path, 0, &mut |list| {
            let holding = list.iter().find(|conditions| conditions.hold(request));
            holding.map(|conditions| conditions.chosen())
        })
    }

    /// Methods that would have been matched, in any order, perhaps repeated.
    pub(crate) fn allowed<V: RequestView>(
        &self,
        path: &PathSegments<'_>,
        request: &V,
        allowed: &mut Vec<Method>,
    ) {
        self.walk(0, path, 0, &mut |list| {
            let near = list
                .iter()
                .filter(|conditions| conditions.values_hold(request));
            allowed.extend(near.filter_map(Conditions::method).cloned());
            None::<()>
        });
    }

    /// Shows `visit` the matches whose path fits, best path first, until it answers.
    fn walk<T>(
        &self,
        at: u32,
        path: &PathSegments<'_>,
        depth: usize,
        visit: &mut impl FnMut(&[Conditions]) -> Option<T>,
    ) -> Option<T> {
        let node = &self.nodes[at as usize];
        if !node.reaches(path.len() - depth) {
            return None;
        }
        let (here, rest) = self.matches_of(node);
        let deeper = match path.get(depth) {
            None => visit(here),
            Some(segment) => self
                .literal(at, node, segment)
                .and_then(|child| self.walk(child, path, depth + 1, visit))
                .or_else(|| {
                    if node.param == NOWHERE || segment.is_empty() {
                        return None;
                    }
                    self.walk(node.param, path, depth + 1, visit)
                }),
        };
        deeper.or_else(|| if rest.is_empty() { None } else { visit(rest) })
    }

    fn matches_of(&self, node: &Node) -> (&[Conditions], &[Conditions]) {
        let all = &self.matches[node.matches as usize..];
        all[..(node.here + node.rest) as usize].split_at(node.here as usize)
    }

    fn literal(&self, at: u32, node: &Node, segment: &[u8]) -> Option<u32> {
        if !node.has_literals {
            return None;
        }
        let hash = hash(at.into(), segment);
        let mask = self.literals.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let Literal { tag, child } = self.literals[place];
            if child == NOWHERE {
                return None;
            }
            if tag == (hash >> 32) as u32 && self.leads(at, segment, child) {
                return Some(child);
            }
            place = (place + 1) & mask;
        }
    }

    fn leads(&self, from: u32, segment: &[u8], child: u32) -> bool {
        let child = &self.nodes[child as usize];
        let text = child.text as usize..(child.text + child.text_bytes) as usize;
        child.parent == from && &self.texts[text] == segment
    }

    /// Nodes that a look-up without success goes through.
    #[cfg(test)]
    pub(super) fn visits(&self, path: &PathSegments<'_>) -> usize {
        fn count(trie: &Trie, at: u32, path: &PathSegments<'_>, depth: usize) -> usize {
            let node = &trie.nodes[at as usize];
            let Some(segment) = path.get(depth).filter(|_| node.reaches(path.len() - depth)) else {
                return 1;
            };
            let param = Some(node.param).filter(|&param| param != NOWHERE);
            let children = trie.literal(at, node, segment).into_iter().chain(param);
            1 + children
                .map(|child| count(trie, child, path, depth + 1))
                .sum::<usize>()
        }
        count(self, 0, path, 0)
    }
}

impl Node {
    /// Whether a path with so many segments left may end in a match.
    fn reaches(&self, left: usize) -> bool {
        (self.reach >> left.min(REACH_TOP)) & 1 == 1
    }
}
