//! What a container's supervisor, a POSIX shell, is told to do: pure, text from words.
//!
//! The supervisor has to outlive the kubelet, to see how the program ends, and to leave that behind; a shell can, is on
//! every node, and is small. It reads its script from a pipe, so that nothing of it shows in a list of processes, and so
//! that nothing runs when the runtime dies before it has written down which process it started: the script is one
//! compound command, and half of one does nothing.

use std::path::Path;

use orchestra_core::runtime::{Error, Result};

/// The file in which the supervisor leaves the exit code.
pub(super) const EXIT_FILE: &str = "exit";
/// The file to which the program's standard output goes.
pub(super) const STDOUT_FILE: &str = "stdout";
/// The file to which the program's standard error goes.
pub(super) const STDERR_FILE: &str = "stderr";

/// Signals meant for the program that may reach the whole group; the supervisor outlasts them.
const OUTLASTED: &str = "HUP INT QUIT USR1 USR2 PIPE ALRM TERM TSTP TTIN TTOU";

/// Writes the script that runs `line` and leaves its traces in `dir`.
///
/// It first writes the program's process id to the supervisor's standard output. At the end it kills what is left of its
/// process group, itself included: the pid of no other process can be hit.
///
/// # Errors
///
/// [`Error::Invalid`] if a word holds a NUL.
pub(super) fn supervise(dir: &Path, line: &[String]) -> Result<String> {
    let dir = dir.to_str().ok_or_else(|| Error::Invalid("a runtime's directory is not UTF-8".into()))?;
    let words = line.iter().map(|word| quote(word)).collect::<Result<Vec<_>>>()?.join(" ");
    let (quoted, exit) = (quote(dir)?, quote(&format!("{dir}/{EXIT_FILE}"))?);
    let run = format!("echo $$; exec \"$@\" </dev/null >>\"$0/{STDOUT_FILE}\" 2>>\"$0/{STDERR_FILE}\"");
    Ok(format!("{{ trap : {OUTLASTED}\n/bin/sh -c '{run}' {quoted} {words}\necho $? >{exit}\nkill -KILL 0\n}}\n"))
}

/// Whether a shell hands an environment variable of this name on; those it doesn't are set by `env`.
pub(super) fn passes(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A word as a shell reads it back.
pub(super) fn quote(word: &str) -> Result<String> {
    if word.contains('\0') {
        return Err(Error::Invalid("a command line holds a NUL".into()));
    }
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{passes, quote};

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn a_quoted_word_is_one_word_to_a_shell(word in "[^\0\r]{0,40}") {
            let script = format!("printf %s {}", quote(&word).unwrap());
            let output = Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
            prop_assert_eq!(output.stdout, word.into_bytes());
        }
    }

    #[test]
    fn a_word_with_a_nul_is_refused() {
        assert!(quote("a\0b").is_err());
    }

    #[test]
    fn a_shell_passes_only_its_own_kind_of_names() {
        assert!(passes("POD_IP") && passes("_a1"));
        assert!(!passes("tls.crt") && !passes("1A") && !passes("") && !passes("a-b"));
    }
}
