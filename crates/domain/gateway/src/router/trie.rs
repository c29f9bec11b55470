//! The paths of one host: a trie of segments.
//!
//! Depth first, literal before parameter before rest, so that the first match is the
//! best. A node is visited at most once, since one way leads to it. Steps are few
//! unless the configuration has many patterns that differ in where they have a
//! parameter (`/a/{x}`, `/{x}/a`, ...), of which all that fit must be tried: never
//! more than the nodes of the trie. `reach` cuts the ways that end too early or late.

use std::collections::HashMap;

use http::Method;

use super::conditions::Conditions;
use super::path::PathSegments;
use super::{Chosen, FastHash, Shadowed};
use crate::config::Segment;
use crate::view::RequestView;

/// Patterns of one host.
#[derive(Debug)]
pub(crate) struct Trie {
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<[u8]>, u32, FastHash>,
    param: Option<u32>,
    /// Matches of patterns that end here, best first.
    here: Vec<Conditions>,
    /// Matches of patterns that end here with `{rest*}`, best first.
    rest: Vec<Conditions>,
    /// Bit n: n segments more may end in a match below; the highest bit: so many or
    /// more.
    reach: u64,
}

const REACH_TOP: usize = 63;

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    /// Adds one match. `Rest` ends the pattern, whatever follows.
    pub(crate) fn insert(&mut self, pattern: &[Segment], conditions: Conditions) {
        let mut at = 0;
        for segment in pattern {
            at = match segment {
                Segment::Literal(text) => {
                    let next = self.nodes[at].literals.get(text.as_bytes()).copied();
                    next.map_or_else(
                        || {
                            let made = self.add_node();
                            self.nodes[at].literals.insert(text.as_bytes().into(), made);
                            made as usize
                        },
                        |known| known as usize,
                    )
                }
                Segment::Param(_) => match self.nodes[at].param {
                    Some(known) => known as usize,
                    None => {
                        let made = self.add_node();
                        self.nodes[at].param = Some(made);
                        made as usize
                    }
                },
                Segment::Rest(_) => {
                    self.nodes[at].rest.push(conditions);
                    return;
                }
            };
        }
        self.nodes[at].here.push(conditions);
    }

    fn add_node(&mut self) -> u32 {
        self.nodes.push(Node::default());
        (self.nodes.len() - 1) as u32
    }

    /// Sorts the matches and finds those that another takes everything from.
    pub(crate) fn finish(&mut self) -> Vec<Shadowed> {
        let mut shadowed = Vec::new();
        // Children come after their parents.
        for at in (0..self.nodes.len()).rev() {
            let children = self.nodes[at]
                .literals
                .values()
                .chain(&self.nodes[at].param);
            let below = children.fold(0, |reach, &child| {
                let child = self.nodes[child as usize].reach;
                reach | (child << 1) | (child & (1 << REACH_TOP))
            });
            let node = &mut self.nodes[at];
            node.reach = below
                | u64::from(!node.here.is_empty())
                | if node.rest.is_empty() { 0 } else { u64::MAX };
            for list in [&mut node.here, &mut node.rest] {
                list.sort_by_key(Conditions::rank);
                shadowed.extend(find_shadowed(list));
            }
        }
        shadowed
    }

    /// The best match.
    pub(crate) fn find<V: RequestView>(
        &self,
        path: &PathSegments<'_>,
        request: &V,
    ) -> Option<Chosen> {
        self.walk(0, path, 0, &mut |list| {
            let holding = list.iter().find(|conditions| conditions.hold(request));
            holding.map(|conditions| conditions.chosen)
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

    /// Nodes that a look-up without success goes through.
    #[cfg(test)]
    pub(super) fn visits(&self, path: &PathSegments<'_>) -> usize {
        fn count(trie: &Trie, at: u32, path: &PathSegments<'_>, depth: usize) -> usize {
            let node = &trie.nodes[at as usize];
            if node.reach >> (path.len() - depth).min(REACH_TOP) & 1 == 0 {
                return 1;
            }
            let Some(segment) = path.get(depth) else {
                return 1;
            };
            let children = node.literals.get(segment).into_iter().chain(&node.param);
            1 + children
                .map(|&child| count(trie, child, path, depth + 1))
                .sum::<usize>()
        }
        count(self, 0, path, 0)
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
        if node.reach >> (path.len() - depth).min(REACH_TOP) & 1 == 0 {
            return None;
        }
        let deeper = match path.get(depth) {
            None => visit(&node.here),
            Some(segment) => {
                let literal = node.literals.get(segment);
                literal
                    .and_then(|&child| self.walk(child, path, depth + 1, visit))
                    .or_else(|| {
                        let param = node.param.filter(|_| !segment.is_empty())?;
                        self.walk(param, path, depth + 1, visit)
                    })
            }
        };
        deeper.or_else(|| visit(&node.rest))
    }
}

/// Of matches with the same path, best first: those that another asks the same as.
fn find_shadowed(list: &[Conditions]) -> Vec<Shadowed> {
    let mut shadowed = Vec::new();
    for (index, later) in list.iter().enumerate() {
        // A route that names a host twice has its match here twice.
        let winner = list[..index]
            .iter()
            .find(|earlier| earlier.chosen != later.chosen && earlier.same(later));
        shadowed.extend(winner.map(|winner| Shadowed {
            winner: winner.chosen,
            shadowed: later.chosen,
        }));
    }
    shadowed
}
