//! What a caller asks for.

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Opaque names and values that come back in `list`; a kubelet finds its pods by them after a restart.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// Names a sandbox; chosen by the caller, so that a call can be repeated safely.
///
/// Letters, digits, `-`, `_` and `.`, at most [`LEN_MAX`](Self::LEN_MAX), and no leading dot; a pod's uid is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(pub Box<str>);

impl SandboxId {
    /// The longest id, in bytes.
    pub const LEN_MAX: usize = 128;

    /// Whether the id is one that every runtime takes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        is_name(&self.0)
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one attempt to run a container within a sandbox; chosen by the caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The sandbox it is in.
    pub sandbox: SandboxId,
    /// The container's name in the pod spec; the same letters as in a [`SandboxId`].
    pub name: Box<str>,
    /// 0 for the first start, one more for each restart.
    pub attempt: u32,
}

impl ContainerId {
    /// Whether the id is one that every runtime takes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.sandbox.is_valid() && is_name(&self.name)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.sandbox, self.name, self.attempt)
    }
}

fn is_name(name: &str) -> bool {
    (1..=SandboxId::LEN_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// What a sandbox is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The host name inside.
    pub hostname: Box<str>,
    /// Comes back in `list`.
    pub labels: Labels,
    /// Whether containers share the node's network and address instead of having their own.
    pub host_network: bool,
}

/// What a container is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image, as a reference such as `docker.io/library/nginx:1.27`.
    pub image: Box<str>,
    /// The program and its first arguments; empty for the image's own.
    pub command: Vec<Box<str>>,
    /// The arguments after `command`; with neither, the image's own.
    pub args: Vec<Box<str>>,
    /// The environment, over the image's; of two with one name the last counts.
    pub env: Vec<EnvVar>,
    /// Where the program starts; absent for the image's own.
    pub working_dir: Option<Box<str>>,
    /// Files of the node to show inside.
    pub mounts: Vec<Mount>,
    /// What it may use at most.
    pub resources: Resources,
    /// Whom it runs as; absent for the image's own.
    pub user: Option<User>,
    /// Whether it may not run as root: one that would, or of which nobody can tell, is refused.
    pub non_root: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Comes back in `list`.
    pub labels: Labels,
}

/// An environment variable. `Debug` shows its name only: values may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// The name: anything without `=` and NUL.
    pub name: Box<str>,
    /// The value, fully expanded: anything without NUL.
    pub value: Box<str>,
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// A file or directory of the node that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the node; it exists.
    pub host_path: PathBuf,
    /// Where the container sees it: an absolute path.
    pub container_path: PathBuf,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// What a container may use at most; absent for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor time, in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
}

/// A numeric user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id; absent for the user's own, or 0.
    pub gid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::{EnvVar, SandboxId};

    #[test]
    fn an_id_that_could_leave_its_directory_is_not_valid() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "é", &"x".repeat(129)] {
            assert!(!SandboxId(bad.into()).is_valid(), "{bad:?}");
        }
        assert!(SandboxId("6f0c1b2e-8a52-4c0e-9a3b-0d7f4c6b1a2e".into()).is_valid());
    }

    /// SEMANTICS 59.
    #[test]
    fn the_debug_form_of_a_variable_does_not_show_its_value() {
        let variable = EnvVar { name: "TOKEN".into(), value: "hunter2".into() };
        assert_eq!(format!("{variable:?}"), "TOKEN=…");
    }
}
