//! Makes a trie: patterns are added one by one, then laid out flat.

use std::collections::HashMap;

use super::conditions::Conditions;
use super::trie::{Literal, NOWHERE, Node, REACH_TOP, Trie};
use super::{Shadowed, hash};
use crate::config::Segment;

/// A trie in the making.
#[derive(Debug)]
pub(super) struct Growing {
    /// The first is the root; children come after their parents.
    nodes: Vec<Twig>,
}

#[derive(Debug, Default)]
struct Twig {
    parent: u32,
    text: Box<[u8]>,
    literals: HashMap<Box<[u8]>, u32>,
    param: Option<u32>,
    here: Vec<Conditions>,
    rest: Vec<Conditions>,
}

impl Default for Growing {
    fn default() -> Self {
        Self {
            nodes: vec![Twig::default()],
        }
    }
}

impl Growing {
    /// Adds one match. `Rest` ends the pattern, whatever follows.
    pub(super) fn insert(&mut self, pattern: &[Segment], conditions: Conditions) {
        let mut at = 0;
        for segment in pattern {
            at = match segment {
                Segment::Literal(text) => self.literal_child(at, text.as_bytes()),
                Segment::Param(_) => self.param_child(at),
                Segment::Rest(_) => {
                    self.nodes[at as usize].rest.push(conditions);
                    return;
                }
            };
        }
        self.nodes[at as usize].here.push(conditions);
    }

    fn literal_child(&mut self, at: u32, text: &[u8]) -> u32 {
        if let Some(&known) = self.nodes[at as usize].literals.get(text) {
            return known;
        }
        let made = self.add(at, text);
        self.nodes[at as usize].literals.insert(text.into(), made);
        made
    }

    fn param_child(&mut self, at: u32) -> u32 {
        if let Some(known) = self.nodes[at as usize].param {
            return known;
        }
        let made = self.add(at, b"");
        self.nodes[at as usize].param = Some(made);
        made
    }

    fn add(&mut self, parent: u32, text: &[u8]) -> u32 {
        self.nodes.push(Twig {
            parent,
            text: text.into(),
            ..Twig::default()
        });
        (self.nodes.len() - 1) as u32
    }

    /// The trie, and the matches that another takes everything from.
    pub(super) fn finish(self) -> (Trie, Vec<Shadowed>) {
        let edges: usize = self.nodes.iter().map(|twig| twig.literals.len()).sum();
        let nowhere = Literal {
            tag: 0,
            child: NOWHERE,
        };
        let mut trie = Trie {
            nodes: Vec::with_capacity(self.nodes.len()),
            literals: vec![nowhere; (2 * edges).next_power_of_two().max(2)],
            texts: Vec::new(),
            matches: Vec::new(),
        };
        let mut shadowed = Vec::new();
        let reach = self.reach();
        for (twig, reach) in self.nodes.into_iter().zip(reach) {
            trie.nodes.push(Node {
                reach,
                parent: twig.parent,
                text: trie.texts.len() as u32,
                text_bytes: twig.text.len() as u32,
                param: twig.param.unwrap_or(NOWHERE),
                matches: trie.matches.len() as u32,
                here: twig.here.len() as u32,
                rest: twig.rest.len() as u32,
                has_literals: !twig.literals.is_empty(),
            });
            trie.texts.extend(twig.text);
            for mut list in [twig.here, twig.rest] {
                list.sort_by_key(Conditions::rank);
                shadowed.extend(find_shadowed(&list));
                trie.matches.extend(list);
            }
            let at = (trie.nodes.len() - 1) as u32;
            for (text, child) in twig.literals {
                place(&mut trie.literals, hash(at.into(), &text), child);
            }
        }
        (trie, shadowed)
    }

    /// `Node::reach` of each node.
    fn reach(&self) -> Vec<u64> {
        let mut reach = vec![0_u64; self.nodes.len()];
        for (at, twig) in self.nodes.iter().enumerate().rev() {
            let children = twig.literals.values().chain(&twig.param);
            let below = children.fold(0, |sum, &child| {
                let child = reach[child as usize];
                sum | (child << 1) | (child & (1 << REACH_TOP))
            });
            let here = u64::from(!twig.here.is_empty());
            let rest = if twig.rest.is_empty() { 0 } else { u64::MAX };
            reach[at] = below | here | rest;
        }
        reach
    }
}

fn place(literals: &mut [Literal], hash: u64, child: u32) {
    let mask = literals.len() - 1;
    let mut place = hash as usize & mask;
    while literals[place].child != NOWHERE {
        place = (place + 1) & mask;
    }
    literals[place] = Literal {
        tag: (hash >> 32) as u32,
        child,
    };
}

/// Of matches with the same path, best first: those that another asks the same as.
fn find_shadowed(list: &[Conditions]) -> Vec<Shadowed> {
    let mut shadowed = Vec::new();
    for (index, later) in list.iter().enumerate() {
        // Those that may be alike stand together, since the rank compares the counts.
        // A route that names a host twice has its match here twice.
        let winner = list[..index]
            .iter()
            .rev()
            .take_while(|earlier| earlier.as_strict_as(later))
            .filter(|earlier| earlier.chosen() != later.chosen() && earlier.same(later))
            .last();
        shadowed.extend(winner.map(|winner| Shadowed {
            winner: winner.chosen(),
            shadowed: later.chosen(),
        }));
    }
    shadowed
}
