//! Fences: how a leader's writes say by which lease it leads.

use std::{fmt, str::FromStr};

/// The header of a request that carries a [`Fence`].
pub const FENCE_HEADER: &str = "orchestra-fence";

/// The term of one leader: a write under it is refused once the lease is another's (SEMANTICS 47).
///
/// As text it is `NAMESPACE/NAME;TRANSITIONS;HOLDER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Where the lease is.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// How often the lease had changed hands when it was taken, its `leaseTransitions`; below 0 for who never led, which is
    /// said of no lease.
    pub transitions: i32,
    /// Who leads, as the lease's `holderIdentity`.
    pub holder: String,
}

/// A text is no [`Fence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fence reads NAMESPACE/NAME;TRANSITIONS;HOLDER")]
pub struct NoFence;

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{};{};{}", self.namespace, self.name, self.transitions, self.holder)
    }
}

impl FromStr for Fence {
    type Err = NoFence;

    fn from_str(text: &str) -> Result<Self, NoFence> {
        let (lease, term) = text.split_once(';').ok_or(NoFence)?;
        let (namespace, name) = lease.split_once('/').ok_or(NoFence)?;
        let (transitions, holder) = term.split_once(';').ok_or(NoFence)?;
        if [namespace, name, holder].contains(&"") {
            return Err(NoFence);
        }
        let transitions = transitions.parse().map_err(|_| NoFence)?;
        Ok(Self { namespace: namespace.into(), name: name.into(), transitions, holder: holder.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fence, NoFence};

    proptest! {
        /// Whoever holds it: a semicolon in a host's name takes nothing from the others.
        #[test]
        fn a_fence_is_read_as_it_was_written(
            [namespace, name] in ["[a-z0-9.-]{1,20}", "[a-z0-9.-]{1,20}"],
            transitions: i32,
            holder in ".{1,20}",
        ) {
            let fence = Fence { namespace, name, transitions, holder };
            prop_assert_eq!(fence.to_string().parse(), Ok(fence));
        }
    }

    #[test]
    fn what_lacks_a_part_is_no_fence() {
        for text in ["", "a/b", "a/b;1", "a/b;1;", "a;1;me", "/b;1;me", "a/;1;me", "a/b;one;me"] {
            assert_eq!(text.parse::<Fence>(), Err(NoFence), "{text}");
        }
    }
}
