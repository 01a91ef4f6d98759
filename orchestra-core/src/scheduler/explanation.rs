//! How a decision came about, node by node.

use std::fmt;

use super::Reason;

/// How one node fares for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The node.
    pub node: Box<str>,
    /// What became of it.
    pub verdict: Verdict,
}

/// Whether a node was ruled out, and by what, or how it scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A filter rejected it.
    RuledOut {
        /// The filter's name.
        filter: Box<str>,
        /// All that it said against it.
        reasons: Vec<Reason>,
    },
    /// Every filter let it pass.
    Scored(Vec<Points>),
}

/// What one score made of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Points {
    /// The score's name.
    pub score: Box<str>,
    /// By how much it counts.
    pub weight: i64,
    /// What it gave: 0 to 100, compared with the other admitted nodes.
    pub points: i64,
}

impl Verdict {
    /// The weighted sum of all scores; `None` if the node is ruled out.
    #[must_use]
    pub fn total(&self) -> Option<i64> {
        match self {
            Self::RuledOut { .. } => None,
            Self::Scored(all) => Some(all.iter().map(|each| each.weight * each.points).sum()),
        }
    }
}

impl fmt::Display for Explanation {
    /// As `n1: 351 = 1 × 80 least-allocated + …`, or `n2: Insufficient cpu (NodeResourcesFit)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::RuledOut { filter, reasons } => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "{}: {} ({filter})", self.node, reasons.join(", "))
            }
            Verdict::Scored(all) => {
                write!(f, "{}: {}", self.node, self.verdict.total().unwrap_or(0))?;
                for (at, Points { score, weight, points }) in all.iter().enumerate() {
                    write!(f, " {} {weight} × {points} {score}", if at == 0 { "=" } else { "+" })?;
                }
                Ok(())
            }
        }
    }
}
