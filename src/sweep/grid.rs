//! The combinations of a sweep: axes, zipped into groups, crossed with each other.
//!
//! Nothing is laid out: the values of a combination follow from its number, so a grid of 10^9
//! combinations takes no more memory than its axes.

use crate::scenario::Assignment;
use crate::scenario::diagnostic::Span;
use crate::scenario::document::{Node, Value};

/// A scenario key and the values that it takes.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Dotted, `engine.*.KEY` for a setting that each engine family names differently.
    pub key: String,
    pub key_span: Span,
    pub values: Values,
}

#[derive(Clone, Debug)]
pub enum Values {
    List(Vec<Node>),
    /// `count` numbers, evenly spaced.
    Steps {
        first: f64,
        step: f64,
        count: u64,
        whole: bool,
        span: Span,
    },
}

impl Values {
    pub fn len(&self) -> u64 {
        match self {
            Self::List(nodes) => nodes.len() as u64,
            Self::Steps { count, .. } => *count,
        }
    }

    /// The value with this number, below [`Values::len`].
    fn get(&self, index: u64, key_span: &Span) -> Node {
        match self {
            Self::List(nodes) => {
                let index = usize::try_from(index).expect("an index below a length");
                Node { key_span: key_span.clone(), ..nodes[index].clone() }
            }
            Self::Steps { first, step, whole, span, .. } => {
                let number = first + step * index as f64;
                Node {
                    key_span: key_span.clone(),
                    span: span.clone(),
                    value: value(number, *whole),
                }
            }
        }
    }
}

/// A number as the kind of value that its key takes.
pub fn value(number: f64, whole: bool) -> Value {
    if whole { Value::Integer(number.round() as i64) } else { Value::Float(number) }
}

/// Axes that move together; all have the same length.
#[derive(Clone, Debug)]
pub struct Group {
    pub axes: Vec<Axis>,
    pub len: u64,
}

/// Groups in the order of the file, of which the last moves fastest.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    pub groups: Vec<Group>,
}

impl Grid {
    pub fn axes(&self) -> impl Iterator<Item = &Axis> {
        self.groups.iter().flat_map(|group| &group.axes)
    }

    /// How many combinations there are, `where` aside.
    pub fn combinations(&self) -> u128 {
        self.groups.iter().map(|group| u128::from(group.len)).product()
    }

    /// The row of each group in a combination.
    fn rows(&self, combination: u64) -> Vec<u64> {
        let mut left = combination;
        let mut rows = vec![0; self.groups.len()];
        for (row, group) in rows.iter_mut().zip(&self.groups).rev() {
            *row = left % group.len;
            left /= group.len;
        }
        rows
    }

    /// The values of a combination, in the order of the axes.
    pub fn values(&self, combination: u64) -> Vec<Assignment> {
        self.values_of(&self.rows(combination))
    }

    /// The values of the given row of each group.
    pub fn values_of(&self, rows: &[u64]) -> Vec<Assignment> {
        let groups = self.groups.iter().zip(rows);
        groups
            .flat_map(|(group, &row)| {
                group
                    .axes
                    .iter()
                    .map(move |axis| (axis.key.clone(), axis.values.get(row, &axis.key_span)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::diagnostic::Sources;

    fn axis(key: &str, count: u64) -> Axis {
        let span = Span::new(Sources::default().next_id(), 0..0);
        let values =
            Values::Steps { first: 1.0, step: 1.0, count, whole: true, span: span.clone() };
        Axis { key: key.into(), key_span: span, values }
    }

    #[test]
    fn the_last_group_moves_fastest_and_zipped_axes_move_together() {
        let zipped = Group { axes: vec![axis("a", 2), axis("b", 2)], len: 2 };
        let grid = Grid { groups: vec![zipped, Group { axes: vec![axis("c", 3)], len: 3 }] };
        assert_eq!(grid.combinations(), 6);
        let numbers = |i| -> Vec<i64> {
            let number = |(_, node): Assignment| match node.value {
                Value::Integer(n) => n,
                other => panic!("{other:?}"),
            };
            grid.values(i).into_iter().map(number).collect()
        };
        let all: Vec<_> = (0..6).map(numbers).collect();
        assert_eq!(all, [[1, 1, 1], [1, 1, 2], [1, 1, 3], [2, 2, 1], [2, 2, 2], [2, 2, 3]]);
    }

    #[test]
    fn a_grid_of_a_quintillion_is_counted_and_not_laid_out() {
        let group = |key| Group { axes: vec![axis(key, 1_000_000_000)], len: 1_000_000_000 };
        let grid = Grid { groups: vec![group("a"), group("b")] };
        assert_eq!(grid.combinations(), 10u128.pow(18));
        assert_eq!(grid.values(10u64.pow(18) - 1).len(), 2);
    }
}
