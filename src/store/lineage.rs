//! Lineage: typed edges from what something was made of to what was made. Documents reach a snapshot through its
//! members and its Merkle root, not through an edge each, so that a receipt and a picture stay small; answers and
//! feedback say in their own rows what they came from, and a model does not list its answers.

use std::collections::{BTreeSet, HashSet};

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    Rows, Writes,
    cell::{get, named_column},
};
use crate::base::{Id, IdKind, Result};

named_column! {
    /// What the parent was to the child.
    Relation {
        /// A document version and the snapshot that holds it.
        MemberOf = "member of",
        /// An older snapshot and the newer of the same collection.
        Follows = "follows",
        TrainedTokenizer = "trained",
        Tokenized = "tokenized into",
        /// Snapshot, tokenizer or shard, and the run that read it.
        ReadBy = "read by",
        Produced = "produced",
        /// A model, or a tokenizer, and the model that uses it.
        UsedBy = "used by",
        Evaluated = "evaluated by",
        Deployed = "deployed as",
        /// On the word of one person at the machine.
        DeployedAlone = "deployed alone as",
        Answered = "answered",
        Rated = "rated by",
    }
}

/// One step of the road.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edge {
    pub parent: Id,
    pub child: Id,
    pub relation: Relation,
}

/// An edge as a walk met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Edges away from where the walk began; the nearest are 1.
    pub depth: u64,
    pub edge: Edge,
    pub created_at_ms: u64,
}

/// Which way to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To what it was made of.
    Up,
    /// To what was made of it.
    Down,
}

impl Rows<'_> {
    /// Every edge that leads away from `from` in one direction, nearest first, each once. The members of a
    /// snapshot are not walked up to: there may be millions.
    pub fn lineage(&self, from: Id, direction: Direction) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let mut seen = HashSet::from([from]);
        let mut frontier = vec![from];
        for depth in 1.. {
            let mut next = Vec::new();
            for &node in &frontier {
                for (edge, created_at_ms) in self.edges_at(node, direction)? {
                    steps.push(Step { depth, edge, created_at_ms });
                    let beyond = match direction {
                        Direction::Up => edge.parent,
                        Direction::Down => edge.child,
                    };
                    if seen.insert(beyond) {
                        next.push(beyond);
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            frontier = next;
        }
        Ok(steps)
    }

    /// Whatever was made of any of `from`, in order of kind and age. A snapshot that follows another was made of its
    /// own members, so that step is not taken; nor is any from what `ends` says the walk ends at.
    pub fn made_of(&self, from: &[Id], ends: impl Fn(Id) -> bool) -> Result<BTreeSet<Id>> {
        let mut made = BTreeSet::new();
        let mut frontier = from.to_vec();
        while let Some(node) = frontier.pop() {
            for (edge, _) in self.edges_at(node, Direction::Down)? {
                let follows = edge.relation == Relation::Follows;
                if !follows && made.insert(edge.child) && !ends(edge.child) {
                    frontier.push(edge.child);
                }
            }
        }
        Ok(made)
    }

    /// Whether anything of this identifier is on record.
    pub fn is_known(&self, id: Id) -> Result<bool> {
        let found = self.one(
            "SELECT 1 AS known WHERE EXISTS (SELECT 1 FROM objects WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM runs WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM answers WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM feedback WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM jobs WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM erasures WHERE id = ?1)
                                  OR EXISTS (SELECT 1 FROM deployments WHERE id = ?1)",
            [id],
            |row| get::<i64>(row, "known"),
        )?;
        Ok(found.is_some())
    }

    fn edges_at(&self, node: Id, direction: Direction) -> Result<Vec<(Edge, u64)>> {
        let sql = match (direction, node.kind()) {
            (Direction::Down, IdKind::Document) => {
                "SELECT DISTINCT document AS parent, snapshot AS child, 'member of' AS relation, created_at_ms
                 FROM snapshot_members JOIN snapshots ON id = snapshot WHERE document = ?1 ORDER BY snapshot"
            }
            (Direction::Down, IdKind::Answer) => {
                "SELECT answer AS parent, id AS child, 'rated by' AS relation, created_at_ms
                 FROM feedback WHERE answer = ?1 ORDER BY id"
            }
            (Direction::Up, IdKind::Answer) => {
                "SELECT model AS parent, id AS child, 'answered' AS relation, created_at_ms
                 FROM answers WHERE id = ?1"
            }
            (Direction::Up, IdKind::Feedback) => {
                "SELECT answer AS parent, id AS child, 'rated by' AS relation, created_at_ms
                 FROM feedback WHERE id = ?1"
            }
            (Direction::Down, _) => "SELECT * FROM lineage WHERE parent = ?1 ORDER BY child, relation",
            (Direction::Up, _) => "SELECT * FROM lineage WHERE child = ?1 ORDER BY parent, relation",
        };
        self.all(sql, [node], |row| {
            let edge = Edge {
                parent: get(row, "parent")?,
                child: get(row, "child")?,
                relation: get(row, "relation")?,
            };
            Ok((edge, get(row, "created_at_ms")?))
        })
    }
}

impl Writes<'_> {
    /// Records an edge; the same edge twice is one edge.
    pub fn add_edge(&self, edge: Edge, now_ms: u64) -> Result<()> {
        self.execute(
            "INSERT OR IGNORE INTO lineage (parent, child, relation, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![edge.parent, edge.child, edge.relation, now_ms],
        )?;
        Ok(())
    }
}
