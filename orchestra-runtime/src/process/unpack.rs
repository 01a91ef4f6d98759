//! How a container's root is filled: work that may take long, and so ends with whoever wanted it.
//!
//! A copy is done by cp(1), which ends when this process does, however it ends: a shell beside it reads from a pipe that
//! only this process writes to, and kills both when that is closed.

use std::{fs, io, path::Path, process::Stdio};

use orchestra_core::runtime::{Error, Result};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{LOCK_TRIES, LOCK_WAIT, image::DEFAULT_PATH, launch::find};
use crate::causes::chain;

/// Becomes its arguments, beside a shell that kills them at the end of the standard input.
const LEASHED: &str = "exec 3<&0; { read -r line <&3; kill -KILL 0; } >/dev/null 2>&1 & exec \"$@\" </dev/null 3<&-";

/// Why an image is not there in whole.
const GIVEN_UP: &str = "unpacking was given up";

/// Copies all that is in the directory `from` into `root`; killed once `stop` is cancelled.
pub(super) async fn copy_directory(from: &Path, root: &Path, stop: &CancellationToken) -> Result<()> {
    let mut copy = leashed(&find("cp", DEFAULT_PATH, Path::new("/"))?)
        .args(["--archive", "--reflink=auto", "--"])
        .args([from.join(".").as_path(), root])
        .spawn()
        .map_err(Error::unavailable)?;
    let _leash = copy.stdin.take();
    let copied = tokio::select! {
        biased;
        copied = copy.wait_with_output() => copied.map_err(Error::unavailable)?,
        () = stop.cancelled() => return Err(Error::unavailable(GIVEN_UP)),
    };
    let complaint = || String::from_utf8_lossy(&copied.stderr).into_owned();
    if copied.status.success() { Ok(()) } else { Err(Error::unavailable(complaint())) }
}

/// A command that lives no longer than its handle, nor than this process; the pipe to it has to be kept until it has ended.
fn leashed(program: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LEASHED, "sh", program]).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Unpacks a tarball into `root`, unless `stop` is cancelled. It returns when nothing is written there any more: what
/// unpacks goes on for the rest of what it has read.
pub(super) async fn unpack_tarball(path: &Path, root: &Path, stop: &CancellationToken) -> Result<()> {
    // One that is dropped has nobody to wait, but stops as well.
    let stop = stop.child_token();
    let _guard = stop.clone().drop_guard();
    let (tarball, root) = (path.to_owned(), root.to_owned());
    let unpacking = tokio::task::spawn_blocking(move || unpack_until(&tarball, &root, stop));
    let unpacked = unpacking.await.map_err(Error::unavailable)?;
    unpacked.map_err(|error| Error::Image { image: path.to_string_lossy().into(), source: describe(&error).into() })
}

/// Why a file can't be a tarball, as far as its first header tells; none if it may be one.
pub(super) fn fault_of_tarball(path: &Path) -> Option<String> {
    let first = open_tarball(path, CancellationToken::new())
        .and_then(|mut tarball| tarball.entries()?.next().transpose().map(drop));
    first.err().map(|error| format!("not a readable tarball: {}", describe(&error)))
}

/// An error and its causes, with what they quote of a file's bytes escaped.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    for char in chain(error).chars() {
        if char.is_control() || char == char::REPLACEMENT_CHARACTER {
            text.extend(char.escape_default());
        } else {
            text.push(char);
        }
    }
    text
}

/// Unpacks a tarball into `root`; fails soon after `stop` is cancelled.
pub(super) fn unpack_until(path: &Path, root: &Path, stop: CancellationToken) -> io::Result<()> {
    let mut tarball = open_tarball(path, stop)?;
    tarball.set_preserve_permissions(true);
    tarball.set_preserve_ownerships(true);
    tarball.unpack(root)
}

fn open_tarball(path: &Path, stop: CancellationToken) -> io::Result<tar::Archive<Box<dyn io::Read>>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let mut magic = [0; 2];
    io::Read::read_exact(&mut fs::File::open(path)?, &mut magic)?;
    let file = io::BufReader::new(fs::File::open(path)?);
    let plain: Box<dyn io::Read> =
        if magic == GZIP { Box::new(flate2::read::GzDecoder::new(file)) } else { Box::new(file) };
    Ok(tar::Archive::new(Box::new(Stoppable { plain, stop })))
}

/// A reader that fails once it is told to stop.
struct Stoppable {
    plain: Box<dyn io::Read>,
    stop: CancellationToken,
}

impl io::Read for Stoppable {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stop.is_cancelled() {
            true => Err(io::Error::other(GIVEN_UP)),
            false => self.plain.read(buf),
        }
    }
}

/// Removes a directory; an absent one is a success.
///
/// What filled it may just be ending, killed, and have put something there meanwhile: it is tried again for a second.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut again = std::iter::repeat_n((), LOCK_TRIES);
    loop {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && again.next().is_some() => {
                std::thread::sleep(LOCK_WAIT);
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("can't remove {}: {error}", dir.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Stdio, time::Duration};

    use super::{leashed, remove_dir};

    /// Tells the copier that a test kills where to write its program's number.
    const COPIER_FILE: &str = "ORCHESTRA_TEST_COPIER_FILE";

    fn lives(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    async fn until(what: impl Fn() -> bool) {
        let seen = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("it comes to that");
    }

    /// What a copying kubelet looks like to the next test, which kills it; by itself it does nothing.
    #[tokio::test]
    async fn a_copier_to_be_killed() {
        let Some(file) = std::env::var_os(COPIER_FILE) else { return };
        let copy = leashed("sleep").arg("1000").spawn().unwrap();
        let new = Path::new(&file).with_extension("new");
        fs::write(&new, copy.id().unwrap().to_string()).and_then(|()| fs::rename(&new, &file)).unwrap();
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_copy_does_not_outlive_a_killed_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut kubelet = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::unpack::tests::a_copier_to_be_killed"])
            .env(COPIER_FILE, &file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until(|| file.exists()).await;
        let pid = fs::read_to_string(&file).unwrap();
        assert!(lives(&pid));
        kubelet.kill().await.unwrap();
        until(|| !lives(&pid)).await;
    }

    #[tokio::test]
    async fn a_copy_that_is_dropped_is_killed() {
        let copy = leashed("sleep").arg("1000").spawn().unwrap();
        let pid = copy.id().unwrap().to_string();
        drop(copy);
        until(|| !lives(&pid)).await;
    }

    #[test]
    fn a_directory_that_is_still_being_filled_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("root");
        fs::create_dir(&dir).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for file in 0..4_000 {
                    let _removed_meanwhile = fs::write(dir.join(file.to_string()), "");
                }
            });
            while !dir.join("100").exists() {
                std::thread::yield_now();
            }
            remove_dir(&dir).unwrap();
        });
        assert!(!dir.exists());
    }

    #[test]
    fn what_cannot_be_removed_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = remove_dir(file.path()).unwrap_err().to_string();
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
    }
}
