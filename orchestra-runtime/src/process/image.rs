//! Images of the process runtime: the node's own files, or a directory or tarball of it as a container's root.
//!
//! A root other than the node's takes root: each container gets a copy of its own, in which `unshare`, `mount` and `chroot`
//! set it up, so that nothing here needs unsafe code between fork and exec.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use orchestra_core::runtime::{Error, Mount, Result};
use tokio_util::sync::CancellationToken;

use super::{launch::find, script::quote, unpack};

/// The image that is the node's own files.
pub(super) const HOST_IMAGE: &str = "host";
/// Where programs are looked for in an image, and those that set one up on the node.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the names of tarballs end in.
const TARBALLS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// The node's own files.
    Host,
    /// A directory of the node.
    Directory(PathBuf),
    /// A tarball of the node, gzipped or not.
    Tarball(PathBuf),
}

impl Image {
    /// Finds what `reference` names: `host`, or an absolute path; `dir` is the runtime's directory.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if there is no such thing, it can't be read, it is not for this user, or `dir` is in it.
    pub(super) fn find(reference: &str, dir: &Path) -> Result<Self> {
        let refused = |why: &str| Error::Image { image: reference.into(), source: why.into() };
        if reference == HOST_IMAGE {
            return Ok(Self::Host);
        }
        let path = Path::new(reference);
        if !path.is_absolute() {
            return Err(refused(
                "the process runtime has only the image host, and directories and tarballs by their paths",
            ));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(refused("a root of its own takes a runtime that runs as root; the image host does not"));
        }
        let path = path.canonicalize().map_err(|error| refused(&error.to_string()))?;
        // A copy of it would hold itself.
        if dir.starts_with(&path) {
            return Err(refused(&format!("it contains the runtime's own directory, {}", dir.display())));
        }
        if path.is_dir() {
            return Ok(Self::Directory(path));
        }
        if !path.is_file() || !TARBALLS.iter().any(|ending| reference.ends_with(ending)) {
            return Err(refused("neither a directory nor a tarball (.tar, .tar.gz, .tgz)"));
        }
        match unpack::fault_of_tarball(&path) {
            Some(fault) => Err(refused(&fault)),
            None => Ok(Self::Tarball(path)),
        }
    }

    /// What tells it from what has had its name before.
    pub(super) fn id(&self) -> Box<str> {
        match self {
            Self::Host => HOST_IMAGE.into(),
            Self::Directory(path) => format!("directory:{}", path.display()).into(),
            Self::Tarball(path) => {
                let state = fs::metadata(path).map(|file| (file.size(), file.mtime(), file.mtime_nsec()));
                let (size, seconds, nanos) = state.unwrap_or_default();
                format!("tarball:{}@{size}-{seconds}.{nanos}", path.display()).into()
            }
        }
    }

    /// Fills the empty directory `root` with the image's files; fails soon after `stop` is cancelled, with the rest missing.
    pub(super) async fn unpack(&self, root: &Path, stop: &CancellationToken) -> Result<()> {
        match self {
            Self::Host => Ok(()),
            Self::Directory(path) => unpack::copy_directory(path, root, stop).await,
            Self::Tarball(path) => unpack::unpack_tarball(path, root, stop).await,
        }
    }
}

/// Wraps `line` so that it runs with `root` as its root, `working_dir` in it, and `mounts` at their places.
///
/// # Errors
///
/// [`Error::Invalid`] if a mount would be outside of the root; [`Error::Start`] if the node lacks a program for it.
pub(super) fn enter(root: &Path, working_dir: Option<&str>, mounts: &[Mount], line: &[String]) -> Result<Vec<String>> {
    let tool = |name| find(name, DEFAULT_PATH, Path::new("/"));
    let (mount, chroot) = (quote(&tool("mount")?)?, quote(&tool("chroot")?)?);
    let mut script = String::new();
    let place = |target: &Path, is_dir: bool| {
        let target = inside(root, target)?;
        let made = if is_dir { fs::create_dir_all(&target) } else { touch(&target) };
        made.map_err(Error::unavailable)?;
        quote(&target.to_string_lossy())
    };
    script += &format!("{mount} --rbind /dev {} && ", place(Path::new("/dev"), true)?);
    script += &format!("{mount} --rbind /proc {} && ", place(Path::new("/proc"), true)?);
    let mut sorted: Vec<&Mount> = mounts.iter().collect();
    sorted.sort_by_key(|mount| &mount.container_path);
    for bind in sorted {
        let source = quote(&bind.host_path.to_string_lossy())?;
        // What is below /dev and /proc is the node's, and is there already.
        let target = match ["/dev", "/proc"].iter().any(|own| bind.container_path.starts_with(own)) {
            true => continue,
            false => place(&bind.container_path, bind.host_path.is_dir())?,
        };
        script += &format!("{mount} --rbind {source} {target} && ");
        if bind.read_only {
            script += &format!("{mount} -o remount,bind,ro {target} && ");
        }
    }
    script += &format!("exec {chroot} \"$@\"");
    let mut entered = vec![tool("unshare")?, "--mount".into(), "--".into(), "/bin/sh".into(), "-c".into(), script];
    entered.extend(["sh".into(), root.to_string_lossy().into_owned()]);
    if let Some(dir) = working_dir {
        entered.extend(["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", dir].map(Into::into));
    }
    entered.extend_from_slice(line);
    Ok(entered)
}

/// A path of a container below its root. No part of it may be a link, which could lead out.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let refused = || Error::Invalid(format!("mount path {} is not plain", path.display()).into());
    let mut target = root.to_owned();
    for part in path.strip_prefix("/").map_err(|_| refused())?.components() {
        let Component::Normal(part) = part else { return Err(refused()) };
        target.push(part);
        if target.is_symlink() {
            return Err(refused());
        }
    }
    if target == root { Err(refused()) } else { Ok(target) }
}

fn touch(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::OpenOptions::new().create(true).append(true).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path};

    use orchestra_core::runtime::Error;

    use super::{Image, inside};

    #[test]
    fn a_mount_that_a_link_would_lead_out_is_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("/etc", root.path().join("conf")).unwrap();
        for bad in ["/conf/passwd", "/a/../../b", "relative", "/"] {
            assert!(matches!(inside(root.path(), Path::new(bad)), Err(Error::Invalid(_))), "{bad}");
        }
        assert_eq!(inside(root.path(), Path::new("/a/b")).unwrap(), root.path().join("a/b"));
    }

    #[test]
    fn a_reference_is_the_host_or_a_path() {
        let data = Path::new("/var/lib/runtime");
        assert_eq!(Image::find("host", data).unwrap(), Image::Host);
        for bad in ["nginx:1.27", "/no/such/directory", "/etc/hostname"] {
            assert!(matches!(Image::find(bad, data), Err(Error::Image { .. })), "{bad}");
        }
    }

    #[test]
    fn an_unreadable_tarball_is_no_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise.tar");
        // As random bytes are, but the same each time.
        let noise: Vec<u8> = (0_u32..4_096).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for bytes in [&noise[..], &noise[..100], b"\x1f\x8b\0\x01\x02", b""] {
            std::fs::write(&path, bytes).unwrap();
            let outcome = Image::find(&path.to_string_lossy(), Path::new("/var/lib/runtime"));
            let Err(Error::Image { source, .. }) = outcome else { panic!("{outcome:?}") };
            let why = source.to_string();
            assert!(!why.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER), "{why:?}");
        }
    }

    #[test]
    fn a_directory_that_contains_the_runtime_is_no_image() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().canonicalize().unwrap();
        let data = parent.join("data");
        for bad in [Path::new("/"), &parent] {
            assert!(matches!(Image::find(&bad.to_string_lossy(), &data), Err(Error::Image { .. })), "{bad:?}");
        }
    }
}
